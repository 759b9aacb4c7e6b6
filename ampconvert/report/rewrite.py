"""A rewritten script in the terminal: the steps with their reasons, then the difference."""

from __future__ import annotations

import difflib
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ampconvert.lint.rewrite.result import Rewritten
from ampconvert.report.layout import BAD, BLANK, GOOD, QUIET, STRONG, Line, bullets
from ampconvert.report.words import plural

_STYLES = {"+": GOOD, "-": BAD, "@": "cyan"}


def page(path: str, before: str, done: Rewritten, *, written: bool) -> RenderableType:
    """What `ampconvert rewrite` prints."""
    parts: list[RenderableType] = []
    told: set[str] = set()
    for step in done.steps:
        parts.append(Line(Text.assemble((f"{path}:{step.line}: ", QUIET), (step.what, STRONG))))
        if step.why not in told:  # once is enough
            parts.append(bullets([step.why], mark="  =", style=QUIET))
        told.add(step.why)
    if done.steps:
        parts.append(BLANK)
    parts += [_difference_line(line) for line in difference(path, before, done.text)]
    if done.notes:
        parts += [BLANK, Text("To know:", style=STRONG), bullets(done.notes, mark="  -")]
    return Group(*parts, BLANK, _summary(path, before, done, written))


def as_data(path: str, before: str, done: Rewritten, *, written: bool) -> dict[str, Any]:
    """The same as data; `text` is the whole new script."""
    return {
        "path": path,
        "changed": done.text != before,
        "written": written,
        "steps": [{"line": s.line, "what": s.what, "why": s.why} for s in done.steps],
        "notes": list(done.notes),
        "diff": "".join(f"{line}\n" for line in difference(path, before, done.text)),
        "text": done.text,
    }


def difference(path: str, before: str, after: str) -> list[str]:
    """A unified diff, line by line."""
    old, new = before.splitlines(), after.splitlines()
    return list(difflib.unified_diff(old, new, path, path, lineterm=""))


def _difference_line(line: str) -> Line:
    heading = line.startswith(("---", "+++"))
    return Line(Text(line, style=STRONG if heading else _STYLES.get(line[:1], "")))


def _summary(path: str, before: str, done: Rewritten, written: bool) -> Text:
    if done.text == before:
        return Text("Nothing to do.", style=GOOD)
    steps = plural(len(done.steps), "change")
    if written:
        return Text(f"{path} is rewritten: {steps}.", style=GOOD)
    return Text(f"{steps}; nothing is written without --write.", style=STRONG)
