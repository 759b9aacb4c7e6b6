"""Prints the page of all hazards: `python -m ampconvert.hazards > docs/hazards.md`."""

import sys

from ampconvert.hazards.page import page

if __name__ == "__main__":
    sys.stdout.write(page())
