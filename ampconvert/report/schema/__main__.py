"""Prints the page of all formats: `python -m ampconvert.report.schema > docs/json.md`."""

import sys

from ampconvert.report.schema.page import page

if __name__ == "__main__":
    sys.stdout.write(page())
