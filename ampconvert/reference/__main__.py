"""Prints one reference page: `python -m ampconvert.reference cli > docs/reference/cli.md`."""

import sys

from ampconvert.reference.pages import PAGES, page

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PAGES:
        sys.exit(f"usage: python -m ampconvert.reference {'|'.join(PAGES)}")
    sys.stdout.write(page(sys.argv[1]))
