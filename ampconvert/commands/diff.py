"""`ampconvert diff`: whether a new plan has decided otherwise than an old one, for builds."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampconvert.commands.outcome import DONE, FAILED, Outcome
from ampconvert.errors import UserError
from ampconvert.report.progress import StageLine

if TYPE_CHECKING:
    from ampconvert.report.drift import Side


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Compare two plan files; code 1 when they make different models."""
    from ampconvert.plan_diff import diff
    from ampconvert.report import drift

    old, new = _side(options.old), _side(options.new)
    found = diff(old.plan, new.plan)
    return Outcome(
        FAILED if found.drifted else DONE,
        lambda: drift.drift_page(old, new, found),
        lambda: drift.drift_data(old, new, found),
    )


def _side(path: Path) -> Side:
    from ampconvert.files import read_json
    from ampconvert.plan import from_dict
    from ampconvert.report.drift import Side

    data = read_json(path)
    try:
        plan = from_dict(data)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return Side(path, plan, dict(_errors(data)))


def _errors(data: Mapping[str, Any]) -> Mapping[str, float | None]:
    """The measured error of each output, where the file holds the report of its conversion."""
    try:
        outputs = data["report"]["parity"]["outputs"]
        return {str(one["output"]): one["rel_l2"] for one in outputs}
    except (KeyError, TypeError):  # a plan of its own, or one whose parity was not measured
        return {}
