"""Features of ampconvert beside those of other tools, each proved by a command that is run."""
