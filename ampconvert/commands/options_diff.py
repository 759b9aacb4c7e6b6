"""The options of `ampconvert diff`."""

from __future__ import annotations

import argparse
from pathlib import Path

DIFF_EXIT_CODES = (
    "exit codes: 0 the plans decide the same, 1 they do not, 2 bad usage or input, 3 a bug, "
    "130 interrupted"
)


def diff_options(sub: argparse.ArgumentParser) -> None:
    """The two plans."""
    sub.add_argument(
        "old",
        type=Path,
        metavar="OLD.plan.json",
        help="the plan that is agreed on, such as the one under version control",
    )
    sub.add_argument("new", type=Path, metavar="NEW.plan.json", help="the plan that was made now")
