"""`--report` of the commands on models, and the options of `ampconvert report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ampconvert.errors import UserError
from ampconvert.report.pages import format_of


def report_file(text: str) -> Path:
    """A file whose suffix names a format of reports."""
    try:
        format_of(Path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(text)


def report_option(group: argparse._ActionsContainer, *, overwrites: bool) -> None:
    """`--report FILE` of a command that does something to a model; `--force` where `overwrites`."""
    group.add_argument(
        "--report",
        type=report_file,
        action="append",
        default=[],
        metavar="FILE",
        help="also write the report to a file: one page with everything (.html), a summary for CI "
        "(.md), or the JSON object (.json); may be repeated",
    )
    if overwrites:
        group.add_argument("--force", action="store_true", help="overwrite a report that exists")


def report_options(sub: argparse.ArgumentParser) -> None:
    """What to make a report of, and where it goes."""
    sub.add_argument(
        "source",
        type=Path,
        metavar="FILE.json",
        help="a plan that a conversion wrote (model.fp16.plan.json), or what --json printed",
    )
    group = sub.add_argument_group("report")
    group.add_argument(
        "-o",
        "--out",
        type=_report_or_pipe,
        action="append",
        default=[],
        metavar="FILE",
        help="where it goes: .html, .md or .json; - prints Markdown; may be repeated (default: "
        "NAME.report.html beside FILE.json)",
    )
    group.add_argument("--force", action="store_true", help="overwrite files that exist")
    group = sub.add_argument_group("in viewers of models")
    group.add_argument(
        "--netron",
        type=Path,
        nargs=2,
        metavar=("MODEL.onnx", "ANNOTATED.onnx"),
        help="a copy of the converted model with verdict, reason and error on each node, as Netron "
        "shows them",
    )
    group.add_argument(
        "--model-explorer",
        type=Path,
        metavar="DATA.json",
        help="node data for Google's Model Explorer",
    )
    group.add_argument(
        "--by",
        choices=("precision", "error", "flops"),
        default="precision",
        help="what --model-explorer colours nodes by (default: precision)",
    )
    group.add_argument(
        "--model",
        type=Path,
        metavar="MODEL",
        help="the converted model that is open in Model Explorer, .onnx or .pt2 (default: the "
        ".onnx beside the plan)",
    )


def _report_or_pipe(text: str) -> Path | None:
    return None if text == "-" else report_file(text)
