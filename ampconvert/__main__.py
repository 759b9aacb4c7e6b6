"""`python -m ampconvert`: the same as the `ampconvert` command."""

from ampconvert.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
