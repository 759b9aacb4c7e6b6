"""One module per command: options in, an `Outcome` out; `ampconvert.cli` prints it."""
