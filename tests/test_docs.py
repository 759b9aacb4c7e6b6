"""What the documentation names exists: files behind links, commands and their options."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "rules/README.md"])
COMMANDS = ("convert", "analyze", "explain", "rules", "verify", "lint", "rule", "rewrite")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in re.findall(r"^(?:\$ )?ampconvert (.+)$", page.read_text(encoding="utf-8"), re.M):
        words = line.split("#")[0].split()
        command = words[0] if words[0] in COMMANDS else "convert"
        for option in OPTION.findall(" ".join(words)):
            assert option in options(command), f"{page.name}: ampconvert {line}"


def test_the_search_finds_options() -> None:
    assert OPTION.findall("--dtype bf16 -o out-dir --input 'x:1'") == ["--dtype", "--input"]
    assert "--help" in options("convert")


@cache
def options(command: str) -> frozenset[str]:
    """The options that `ampconvert COMMAND --help` lists."""
    run = subprocess.run(
        [sys.executable, "-m", "ampconvert", command, "--help"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return frozenset(OPTION.findall(run.stdout))
