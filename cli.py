"""Runs ampconvert from a checkout, nothing installed: python cli.py model.py."""

from ampconvert.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
