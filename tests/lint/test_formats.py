"""What programs read: JSON's fields and places, SARIF by its schema, GitHub's lines unescaped."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ampconvert.findings import Edit, Finding, Fix, Location
from ampconvert.lint import engine, formats
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.formats import Linted, Places

SCHEMA = Path(__file__).parent / "data" / "sarif-schema-2.1.0.json"
TEXT = """\
import torch

s = "ümläut"; context = torch.cuda.amp.autocast(False)
with context:
    pass
"""


def linted(path: str = "train.py", text: str = TEXT) -> Linted:
    return Linted(path, text, engine.check(text, all_rules(), path))


def everything() -> list[Linted]:
    """Every rule's own findings, one file each."""
    return [
        Linted(f"{rule.CODE}-{number}.py", case.text, engine.check(
            case.text, [rule], f"{rule.CODE}-{number}.py", case.settings))
        for rule in all_rules()
        for number, case in enumerate(rule.INVALID)
    ]  # fmt: skip


def test_json_has_the_fields_that_editors_read() -> None:
    found = json.loads(formats.as_json([linted()]))
    first = next(one for one in found if one["code"] == "AMP001")
    assert first["location"] == {"row": 3, "column": 25}
    assert first["end_location"] == {"row": 3, "column": 48}
    assert first["filename"] == "train.py"
    assert first["fix"]["applicability"] == "safe"


def test_edits_in_json_give_the_fixed_text() -> None:
    one = linted()
    found = next(f for f in json.loads(formats.as_json([one])) if f["code"] == "AMP001")
    assert applied(TEXT, found["fix"]["edits"]) == engine.fix(
        TEXT, [rule for rule in all_rules() if rule.CODE == "AMP001"]
    ).text  # fmt: skip


def applied(text: str, edits: list[dict[str, Any]]) -> str:
    """`text` changed as an editor would: by rows and columns."""
    lines = text.splitlines(keepends=True)

    def offset(place: dict[str, int]) -> int:
        return sum(len(line) for line in lines[: place["row"] - 1]) + place["column"] - 1

    for edit in sorted(edits, key=lambda e: offset(e["location"]), reverse=True):
        start, end = offset(edit["location"]), offset(edit["end_location"])
        text = text[:start] + edit["content"] + text[end:]
    return text


@pytest.mark.parametrize("text", ["a\nb\n", "a\r\nü\r\n", "a\rb", "", "ü"])
def test_places_count_as_python_does(text: str) -> None:
    data = text.encode()
    seen = [Places(text).of(at) for at in range(len(data) + 1)]
    assert seen[0] == (1, 1)
    assert seen[-1][0] == len(re.split(r"\r\n|\r|\n", text))


def test_sarif_keeps_to_its_schema() -> None:
    log = json.loads(formats.as_sarif(everything(), "0.1.0", Path.cwd()))
    jsonschema.validate(log, json.loads(SCHEMA.read_text(encoding="utf-8")))
    run = log["runs"][0]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert all(rules[one["ruleIndex"]] == one["ruleId"] for one in run["results"])
    assert len(run["results"]) >= len(all_rules())


def test_the_schema_would_complain() -> None:
    log = json.loads(formats.as_sarif([linted()], "0.1.0", Path.cwd()))
    log["runs"][0]["results"][0]["level"] = "bad"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(log, json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_sarif_without_findings_is_a_log_too() -> None:
    log = json.loads(formats.as_sarif([], "0.1.0", Path.cwd()))
    jsonschema.validate(log, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert log["runs"][0]["results"] == []


def test_sarif_paths_are_relative_and_quoted(tmp_path: Path) -> None:
    path = str(tmp_path / "a folder" / "ü%.py")
    log = json.loads(formats.as_sarif([linted(path)], "0.1.0", tmp_path))
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "a%20folder/%C3%BC%25.py", "uriBaseId": "%SRCROOT%"}


def test_prints_of_equal_findings_differ_and_survive_moved_lines() -> None:
    twice = TEXT + "torch.cuda.amp.autocast()\n" * 2

    def prints(text: str) -> list[str]:
        log = json.loads(formats.as_sarif([linted(text=text)], "0.1.0", Path.cwd()))
        return [r["partialFingerprints"]["primaryLocationLineHash"]
                for r in log["runs"][0]["results"]]  # fmt: skip

    assert len(set(prints(twice))) == len(prints(twice)) >= 3
    assert prints("\n\n" + twice) == prints(twice)


def test_github_lines_are_escaped() -> None:
    where = Location(path="a,b:c.py", line=3, column=2, end_line=3, end_column=9)
    fix = Fix("x", (Edit(0, 0, ""),), safe=True)
    found = Finding("AMP204", "100 %\nof it", where, "error", "Do x.", name="clip", fix=fix)
    line = formats.as_github([Linted("a,b:c.py", "", [found])])
    assert line == (
        "::error title=AMP204 clip,file=a%2Cb%3Ac.py,line=3,col=2,endLine=3,endColumn=9"
        "::100 %25%0Aof it. Do x."
    )
