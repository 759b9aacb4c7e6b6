"""Prints the page of all lint rules: `python -m ampconvert.lint > docs/lint-rules.md`."""

import sys

from ampconvert.lint.page import pages

if __name__ == "__main__":
    sys.stdout.write(pages())
