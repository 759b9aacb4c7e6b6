"""Lint findings in the terminal: each with its lines, a summary, statistics, a rule's page."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.syntax import Syntax
from rich.text import Text

from ampconvert.findings import SEVERITIES, Finding, Severity
from ampconvert.lint.formats import linted
from ampconvert.lint.page import headline, text, unmarked
from ampconvert.lint.results import Report
from ampconvert.lint.rule import Rule
from ampconvert.report.layout import (
    BAD,
    BLANK,
    GOOD,
    QUIET,
    STRONG,
    WARN,
    Line,
    bullets,
    heading,
    table,
)
from ampconvert.report.words import plural

STYLES: dict[Severity, str] = {"error": BAD, "warning": WARN, "info": "cyan"}
_DIFF_STYLES = {"+": GOOD, "-": "red", "@": "cyan"}


def page(report: Report, *, concise: bool, unsafe: bool) -> RenderableType:
    """What `ampconvert lint` prints: every finding, then how many and what can be fixed."""
    parts: list[RenderableType] = []
    for file in linted(report):
        lines = re.split(r"\r\n|\r|\n", file.text)
        for found in file.findings:
            parts += [_line(found, file.path)] if concise else [*_full(found, file.path, lines)]
    return Group(*parts, *summary(report.findings, len(report.made), unsafe))


def diff(report: Report, *, unsafe: bool) -> RenderableType:
    """What `ampconvert lint --diff` prints: what fixes would change, nothing of it written."""
    parts: list[RenderableType] = []
    for file in report.files:
        for change in file.changes:
            before, after = change.before.splitlines(), change.after.splitlines()
            names = (f"a/{change.path}", f"b/{change.path}")
            parts += [
                Line(Text(line, style=_DIFF_STYLES.get(line[:1], "")))
                for line in difflib.unified_diff(before, after, *names, lineterm="")
            ]
    made, left = report.made, report.findings
    other = sum(f.fix is not None and not f.fix.safe for f in left)
    parts.append(Text(f"Would fix {plural(len(made), 'finding')}.", style=STRONG))
    if other and not unsafe:
        parts.append(Text(f"[~] {other:,} more with --unsafe-fixes, which may change numbers."))
    return Group(*parts)


def statistics(findings: Sequence[Finding]) -> RenderableType:
    """How often each rule found something, the most frequent first."""
    counted = Counter((f.code, f.name) for f in findings)
    fixable = Counter(f.code for f in findings if f.fix is not None)
    rows = table("code", "rule", "found", "fixable", right=(2, 3), fold=())
    for (code, name), count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        rows.add_row(code, name, f"{count:,}", f"{fixable[code]:,}" if fixable[code] else "")
    return rows


def summary(findings: Sequence[Finding], made: int, unsafe: bool) -> Iterator[RenderableType]:
    """The last lines: what was fixed, what is left, what else could be fixed."""
    fixed = f"Fixed {plural(made, 'finding')}. " if made else ""
    if not findings:
        yield Text(f"{fixed}All checks passed.", style=GOOD)
        return
    counts = Counter(found.severity for found in findings)
    told = ", ".join(plural(counts[s], s) for s in SEVERITIES if counts[s])
    yield Text(f"{fixed}Found {told}.", style=STRONG)
    safe = sum(found.fix is not None and found.fix.safe for found in findings)
    other = sum(found.fix is not None and not found.fix.safe for found in findings)
    if safe:
        yield Text(f"[*] {safe:,} fixable with --fix.")
    if other and not unsafe:
        yield Text(f"[~] {other:,} fixable with --unsafe-fixes, which may change numbers.")


def section(findings: Sequence[Finding]) -> Iterator[RenderableType]:
    """What a conversion says of the model's own file; nothing where nothing was found."""
    if findings:
        yield BLANK
        yield heading("Source", f"{plural(len(findings), 'finding')}; `ampconvert rule CODE`")
        yield from (_line(found, "", indent=2) for found in findings)


def rule_page(rule: Rule) -> RenderableType:
    """What `ampconvert rule AMP204` prints."""
    paragraphs = text(rule).split("\n\n")
    parts: list[RenderableType] = [
        Text.assemble((f"{rule.CODE} {rule.NAME}", STRONG), (f"  {_about(rule)}", QUIET)),
        BLANK,
    ]
    for paragraph in paragraphs:
        indented = paragraph.startswith(" ")  # code keeps its lines
        parts += [Text(paragraph if indented else " ".join(paragraph.split())), BLANK]
    parts.append(Text.assemble(("Instead: ", STRONG), rule.ADVICE))
    if rule.FIX != "none":
        parts.append(Text.assemble((f"Fix, {rule.FIX}: ", STRONG), rule.FIX_SAFETY))
    if rule.JUDGED is not None:
        told = f"{rule.JUDGED.true} of {rule.JUDGED.read} findings in published code were true."
        parts.append(Text.assemble(("Read by hand: ", STRONG), told))
    shown = next((case for case in rule.INVALID if case.fixed is not None), rule.INVALID[0])
    parts += _example("Found", shown.text, rule)
    if shown.fixed is not None:
        parts += _example("After the fix", shown.fixed, rule)
    parts += _example("Not found", rule.VALID[0].text, rule)
    return Group(*parts)


def rule_table(rules: Sequence[Rule]) -> RenderableType:
    """What `ampconvert rule` prints: one line for each rule."""
    rows = table("code", "rule", "fix", "default", "what is wrong", fold=(4,))
    for rule in rules:
        fix = "" if rule.FIX == "none" else rule.FIX
        style = STYLES[rule.SEVERITY]
        on = "on" if rule.DEFAULT else "off"
        rows.add_row(Text(rule.CODE, style=style), rule.NAME, fix, on, Text(headline(rule)))
    return rows


def _about(rule: Rule) -> str:
    return f"{rule.SEVERITY}, {'on' if rule.DEFAULT else 'off'} by default"


def _example(title: str, source: str, rule: Rule) -> list[RenderableType]:
    code = Syntax(unmarked(source, rule).rstrip(), "python", background_color="default")
    return [BLANK, Text(f"{title}:", style=STRONG), code]


def _line(found: Finding, path: str, indent: int = 0) -> Line:
    """One finding as one line that an editor can jump to."""
    where = found.where
    told = Text.assemble(
        f"{where.path or path}:{where.line}:{where.column}: ",
        (found.code, STYLES[found.severity]),
        f"{_mark(found)} {found.message}",
    )
    return Line(told, indent)


def _full(found: Finding, path: str, lines: Sequence[str]) -> Iterator[RenderableType]:
    where = found.where
    yield _line(found, path)
    if 0 < where.line <= len(lines):
        yield from _quoted(found, lines)
    yield bullets([found.advice], mark="  =", style=QUIET)
    yield BLANK


def _quoted(found: Finding, lines: Sequence[str]) -> Iterator[RenderableType]:
    """The line of the finding with the one before it, and what is meant underlined."""
    where = found.where
    first = max(where.line - 1, 1)
    width = len(str(where.line))
    for number in range(first, where.line + 1):
        content = lines[number - 1].expandtabs(4)
        yield Line(Text.assemble((f"  {number:>{width}} | ", QUIET), content))
    line = lines[where.line - 1]
    start = len(line[: where.column - 1].expandtabs(4))
    until = where.end_column - 1 if where.end_line == where.line else len(line.rstrip())
    length = max(len(line[:until].expandtabs(4)) - start, 1)
    yield Line(
        Text.assemble(
            (f"  {'':>{width}} | ", QUIET), " " * start, ("^" * length, STYLES[found.severity])
        )
    )


def _mark(found: Finding) -> str:
    if found.fix is None:
        return ""
    return " [*]" if found.fix.safe else " [~]"
