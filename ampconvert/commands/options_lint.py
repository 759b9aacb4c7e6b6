"""The options of `ampconvert lint` and `ampconvert rule`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ampconvert.commands.argument_types import whole_number

FORMATS = ("text", "concise", "json", "sarif", "github")
LINT_EXIT_CODES = (
    "exit codes: 0 nothing found, 1 findings are left (with --diff: a file would change), "
    "2 bad usage or input, 3 a bug, 130 interrupted"
)


def lint_options(sub: argparse.ArgumentParser) -> None:
    """What to lint, by which rules, and what to do about it."""
    sub.add_argument(
        "paths",
        nargs="*",
        default=["."],
        metavar="PATH",
        help="files and folders (default: here); - reads one file from stdin",
    )
    _fix_options(sub)
    _rule_options(sub)
    _run_options(sub)


def rule_options(sub: argparse.ArgumentParser) -> None:
    """A rule's code or name."""
    sub.add_argument(
        "name", nargs="?", metavar="CODE|NAME", help="a lint rule; without it all are listed"
    )


def _fix_options(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("fixes")
    group.add_argument("--fix", action="store_true", help="mend what is safe to mend, in place")
    group.add_argument(
        "--unsafe-fixes",
        action="store_true",
        help="mend also what may change numbers or behaviour; read the diff",
    )
    group.add_argument(
        "--diff", action="store_true", help="show what --fix would change; write nothing"
    )


def _rule_options(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("rules (over [tool.ampconvert.lint] of pyproject.toml)")
    for name, text in {
        "select": "only rules whose codes begin so: AMP2, AMP204, ALL",
        "extend-select": "these too, besides those that are on by default",
        "ignore": "not these",
    }.items():
        group.add_argument(
            f"--{name}", type=_codes, action="extend", default=None, metavar="CODES", help=text
        )
    group.add_argument(
        "--torch",
        metavar="VERSION",
        help="the oldest PyTorch that the code must run on: fixes use nothing newer (default: 2.4)",
    )
    group.add_argument(
        "--assume-amp",
        nargs="?",
        const="autocast",
        choices=("autocast", "cpu-autocast", "half"),
        help="check numeric rules in every file, as if it ran so; else only where a file shows it",
    )


def _run_options(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("output and run")
    group.add_argument(
        "--format", choices=FORMATS, default="text", help="how findings are printed (default: text)"
    )
    group.add_argument("--json", action="store_true", help="the same as --format json")
    group.add_argument("--statistics", action="store_true", help="print counts for each rule")
    group.add_argument(
        "--force-exclude",
        action="store_true",
        help="leave out excluded files also where they are named, as pre-commit does",
    )
    group.add_argument(
        "--stdin-filename", type=Path, metavar="FILE", help="what the text from stdin is called"
    )
    group.add_argument(
        "--exit-zero", action="store_true", help="exit with 0 even if something was found"
    )
    group.add_argument(
        "-j", "--jobs", type=whole_number, metavar="N", help="processes (default: one per core)"
    )
    group.add_argument("--no-cache", action="store_true", help="neither read nor write the cache")
    group.add_argument(
        "-q", "--quiet", action="store_true", help="print nothing, only set the exit code"
    )


def _codes(text: str) -> list[str]:
    """AMP2,AMP301 as a list."""
    return [code.strip().upper() for code in text.split(",") if code.strip()]
