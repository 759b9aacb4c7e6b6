"""`ampconvert rules`: the table of op rules, or the page of one."""

from __future__ import annotations

import difflib
from argparse import Namespace

from ampconvert.commands.outcome import DONE, Outcome
from ampconvert.errors import UserError
from ampconvert.report.progress import StageLine
from ampconvert.rules import OpRule, load


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Show the rules in their order of precedence, the user's first."""
    from ampconvert.report import jsonable
    from ampconvert.report import rules as pages

    entries = load(options.rules)
    if options.name is None:
        return Outcome(
            DONE, lambda: pages.table(entries, options.dtype), lambda: jsonable.rules(entries)
        )
    found = _named(entries, options.name)
    return Outcome(DONE, lambda: pages.page(found), lambda: jsonable.rules([found]))


def _named(entries: tuple[OpRule, ...], name: str) -> OpRule:
    """The rule of that name; UserError with near names and with the rules for such an operator."""
    for rule in entries:
        if rule.name == name:
            return rule
    wanted = name.lower().replace("_", "-")
    names = [rule.name for rule in entries]
    near = difflib.get_close_matches(wanted, names, n=4, cutoff=0.5)
    near += [n for n in names if wanted in n and n not in near][:4]
    operators = [rule.name for rule in entries if _holds(rule, name)]
    hints = [f"did you mean {', '.join(near)}?"] if near else []
    hints += (
        [f"the operator {name} is named by {', '.join(dict.fromkeys(operators))}"]
        if operators
        else []
    )
    hints = hints or ["`ampconvert rules` lists them all"]
    raise UserError(f"no rule is named {name!r}; {'; '.join(hints)}")


def _holds(rule: OpRule, name: str) -> bool:
    own = {n.rpartition("::")[2].partition(".")[0].lower() for n in (*rule.onnx, *rule.aten)}
    return name.rpartition("::")[2].partition(".")[0].lower() in own
