"""Findings as programs read them: JSON for editors, SARIF for code scanning, GitHub's log lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ampconvert.findings import Edit, Finding, Severity
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.notebooks import place
from ampconvert.lint.page import headline, page
from ampconvert.lint.results import Report
from ampconvert.lint.rule import Rule

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_SARIF_LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
_GITHUB_LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}


@dataclass(frozen=True)
class Linted:
    """One file's findings, and its text as they count it; a notebook's is that of its cells."""

    path: str
    text: str
    findings: Sequence[Finding]


def linted(report: Report) -> list[Linted]:
    """The files of a report, and of notebooks the cells, that have findings."""
    return [Linted(*part) for file in report.files for part in file.parts()]


def as_json(files: Iterable[Linted]) -> str:
    """A list of findings in the fields that ruff's JSON has, so that editors take it as it is."""
    return json.dumps([record(one, f) for one in files for f in one.findings], indent=2)


def record(file: Linted, found: Finding) -> dict[str, Any]:
    """One finding: rows and columns count from 1, columns in characters."""
    where = found.where
    fix = None
    if found.fix is not None:
        places = Places(file.text)
        fix = {
            "applicability": "safe" if found.fix.safe else "unsafe",
            "message": found.fix.message,
            "edits": [_edit(places, edit) for edit in found.fix.edits],
        }
    return {
        "code": found.code,
        "name": found.name,
        "message": found.message,
        "advice": found.advice,
        "severity": found.severity,
        "filename": str(Path(where.path or file.path)),
        "location": {"row": where.line, "column": where.column},
        "end_location": {"row": where.end_line, "column": where.end_column},
        "fix": fix,
    }


def as_github(files: Iterable[Linted]) -> str:
    """Workflow commands: GitHub shows them as annotations of the lines in a pull request."""
    lines = []
    for file in files:
        for found in file.findings:
            where = found.where
            told_of = {
                "title": f"{found.code} {found.name}",
                "file": place(where.path or file.path)[0],
                "line": where.line,
                "col": where.column,
                "endLine": where.end_line,
                "endColumn": where.end_column,
            }
            told = ",".join(f"{k}={_property(str(v))}" for k, v in told_of.items() if v)
            message = f"{found.message}. {found.advice}".strip()
            lines.append(f"::{_GITHUB_LEVELS[found.severity]} {told}::{_data(message)}")
    return "\n".join(lines)


def as_sarif(files: Iterable[Linted], version: str, root: Path) -> str:
    """SARIF 2.1.0 as GitHub's code scanning takes it; paths are relative to `root`.

    Source: https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
    """
    linted = list(files)
    used = {found.code for file in linted for found in file.findings}
    rules = [rule for rule in all_rules() if rule.CODE in used]
    order = {rule.CODE: number for number, rule in enumerate(rules)}
    driver = {
        "name": "ampconvert",
        "semanticVersion": version,
        "rules": [_sarif_rule(rule) for rule in rules],
    }
    results: list[dict[str, Any]] = []
    for file in linted:
        seen = _Seen()
        results += [_sarif_result(file, found, order, root, seen) for found in file.findings]
    log = {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "results": results,
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {"%SRCROOT%": {"uri": f"{root.resolve().as_uri()}/"}},
            }
        ],
    }
    return json.dumps(log, indent=2)


class Places:
    """Rows and columns of byte offsets in a text."""

    def __init__(self, text: str) -> None:
        self._data = text.encode("utf-8", "surrogatepass")

    def of(self, offset: int) -> tuple[int, int]:
        """Row and column of the byte at `offset`, both from 1."""
        before = self._data[:offset].decode("utf-8", "replace")
        plain = before.replace("\r\n", "\n").replace("\r", "\n")
        row = plain.count("\n") + 1
        return row, len(plain) - (plain.rfind("\n") + 1) + 1


def _edit(places: Places, edit: Edit) -> dict[str, Any]:
    (row, column), (end_row, end_column) = places.of(edit.start), places.of(edit.end)
    return {
        "content": edit.text,
        "location": {"row": row, "column": column},
        "end_location": {"row": end_row, "column": end_column},
    }


class _Seen(dict[str, int]):
    """How often a line's text was met: equal findings on equal lines get different prints."""

    def number(self, key: str) -> int:
        self[key] = self.get(key, 0) + 1
        return self[key]


def _sarif_rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.CODE,
        "name": "".join(word.capitalize() for word in rule.NAME.split("-")),
        "shortDescription": {"text": headline(rule).replace("`", "")},
        "fullDescription": {"text": f"{headline(rule)} {rule.ADVICE}".replace("`", "")},
        "help": {"text": page(rule), "markdown": page(rule)},
        "defaultConfiguration": {"level": _SARIF_LEVELS[rule.SEVERITY]},
        "properties": {"tags": ["mixed-precision"]},
    }


def _sarif_result(
    file: Linted, found: Finding, order: dict[str, int], root: Path, seen: _Seen
) -> dict[str, Any]:
    where = found.where
    artifact = {"uri": _uri(place(where.path or file.path)[0], root), "uriBaseId": "%SRCROOT%"}
    lines = file.text.splitlines()
    line = lines[where.line - 1].strip() if 0 < where.line <= len(lines) else ""
    key = f"{found.code}|{line}"
    print_ = hashlib.sha256(f"{key}|{seen.number(key)}".encode()).hexdigest()[:32]
    region = {"startLine": max(where.line, 1), "startColumn": max(where.column, 1)}
    if where.end_line:
        region |= {"endLine": where.end_line, "endColumn": where.end_column}
    result: dict[str, Any] = {
        "ruleId": found.code,
        "level": _SARIF_LEVELS[found.severity],
        "message": {"text": f"{found.message}. {found.advice}".strip()},
        "locations": [{"physicalLocation": {"artifactLocation": artifact, "region": region}}],
        "partialFingerprints": {"primaryLocationLineHash": print_},
    }
    if found.code in order:
        result["ruleIndex"] = order[found.code]
    if found.fix is not None:
        places = Places(file.text)
        replacements = [_replacement(places, edit) for edit in found.fix.edits]
        change = {"artifactLocation": artifact, "replacements": replacements}
        result["fixes"] = [
            {"description": {"text": found.fix.message}, "artifactChanges": [change]}
        ]
    return result


def _replacement(places: Places, edit: Edit) -> dict[str, Any]:
    (row, column), (end_row, end_column) = places.of(edit.start), places.of(edit.end)
    region = {
        "startLine": row, "startColumn": column, "endLine": end_row, "endColumn": end_column,
    }  # fmt: skip
    return {"deletedRegion": region, "insertedContent": {"text": edit.text}}


def _uri(path: str, root: Path) -> str:
    """`path` as a URI relative to `root` where it lies below it."""
    whole = Path(path).resolve()
    if whole.is_relative_to(root.resolve()):
        relative = PurePath(whole.relative_to(root.resolve()))
        # as_uri needs an absolute path; what it quotes is what is wanted.
        return Path("/", relative.as_posix()).as_uri().removeprefix("file:///")
    return whole.as_uri()


def _data(text: str) -> str:
    """Escaped as GitHub's runner unescapes the message of a workflow command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escaped as it unescapes a property."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
