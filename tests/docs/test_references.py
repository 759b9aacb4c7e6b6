"""The generated references are fresh, and hold all that they are made from."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ampconvert.commands.options import COMMANDS, parser
from ampconvert.conditions import CONDITIONS
from ampconvert.cost import target_names
from ampconvert.reference.command_line import _subparsers
from ampconvert.reference.markdown import sentence, table
from ampconvert.reference.pages import PAGES, command, page
from ampconvert.rules import load

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"


@pytest.mark.parametrize("name", PAGES)
def test_page_is_fresh(name: str) -> None:
    held = (REFERENCE / f"{name}.md").read_text(encoding="utf-8")
    assert held == page(name), command(name)


@pytest.mark.parametrize("name", PAGES)
def test_page_says_how_it_is_made(name: str) -> None:
    assert f"`{command(name)}`" in page(name)


def test_the_command_prints_the_page_without_a_framework() -> None:
    code = (
        "import runpy, sys; sys.argv = ['reference', 'cli'];"
        "runpy.run_module('ampconvert.reference', run_name='__main__');"
        "assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == page("cli")


def test_an_unknown_page_is_refused() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "ampconvert.reference", "nothing"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 1 and "usage:" in ran.stderr and ran.stdout == ""


def test_every_command_and_option_stands_in_the_cli_page() -> None:
    sections = dict(_sections(page("cli")))
    assert set(COMMANDS) == {name.removeprefix("ampconvert ") for name in sections} - {
        "Environment variables"
    }
    for name, sub in _subparsers(parser()).items():
        for action in sub._actions:
            for option in action.option_strings:
                shown = re.search(rf"(`|<code>){option}\b", sections[f"ampconvert {name}"])
                assert shown or action.dest == "help", f"{name} {option}"


def test_exit_codes_stand_in_the_cli_page() -> None:
    sections = dict(_sections(page("cli")))
    for name, sub in _subparsers(parser()).items():
        told = re.findall(r"^\| (\d+) \| .+ \|$", sections[f"ampconvert {name}"], re.M)
        assert told == re.findall(r"\b\d+\b", sub.epilog or "") and told[:3] == ["0", "1", "2"]


def test_every_rule_and_operator_stands_in_the_rules_page() -> None:
    text = page("op-rules")
    headings = re.findall(r"^### (.+)$", text, re.M)
    assert headings == [rule.name for rule in load()]
    for rule in load():
        assert all(f"`{name}`" in text for name in (*rule.onnx, *rule.aten))


def test_every_condition_and_target_has_a_section() -> None:
    assert re.findall(r"^## (.+)$", page("conditions"), re.M) == list(CONDITIONS)
    assert re.findall(r"^## (.+)$", page("targets"), re.M) == list(target_names())


def test_cells_are_safe() -> None:
    lines = list(table(("a", "b"), [("x | y", "two\nlines")]))
    assert lines == ["| a | b |", "|---|---|", "| x \\| y | two lines |", ""]
    assert list(table(("a",), [])) == []


def test_sentences_keep_names() -> None:
    assert sentence("overwrite files") == "Overwrite files."
    assert sentence("model.py, or another") == "model.py, or another."


def _sections(text: str) -> list[tuple[str, str]]:
    parts = re.split(r"^## (.+)$", text, flags=re.M)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))
