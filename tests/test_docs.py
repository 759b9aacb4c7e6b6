"""What the documentation names exists: files behind links, headings, commands, their options."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ampconvert.commands.options import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "rules/README.md"])
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
# Its examples are run by tests/lint/test_rules.py, those that can't be parsed too.
BROKEN_ON_PURPOSE = ("docs/lint-rules.md",)

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix()
)  # fmt: skip


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page):
        place = (page.parent / target).resolve() if target else page
        assert place.exists(), f"{page.name} links to {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page.name} links to {target}#{anchor}"


@every_page
def test_commands_and_their_options_exist(page: Path) -> None:
    for words in commands(page.read_text(encoding="utf-8")):
        command = words[0] if words[0] in COMMANDS else "convert"
        for option in OPTION.findall(" ".join(words)):
            assert option in options(command), f"{page.name}: ampconvert {' '.join(words)}"


@every_page
def test_blocks_of_code_are_code(page: Path) -> None:
    if page.relative_to(ROOT).as_posix() in BROKEN_ON_PURPOSE:
        return
    for line, language, text in blocks(page):
        try:
            if language == "python":
                compile(textwrap.dedent(text), f"{page.name}:{line}", "exec")
            elif language == "toml":
                tomllib.loads(text)
        except (SyntaxError, tomllib.TOMLDecodeError) as error:
            pytest.fail(f"{page.name}:{line}: {error}")


@every_page
def test_lists_and_tables_begin_after_a_blank_line(page: Path) -> None:
    """A code host takes them without one, the site does not."""
    lines = outside_of_blocks(page)
    for number, (above, line) in enumerate(pairwise(lines), 2):
        starts = re.match(r"([-*]|1\.) |\|", line)
        if starts and above.strip() and not re.match(r"\s*([-*]|\d+\.) |\s*\||\s{2,}|#|<", above):
            # "- " and "1. " may begin a line of a wrapped sentence or list item.
            assert within_item(lines, number - 1), f"{page.name}:{number}: {line}"


def test_the_search_finds_options() -> None:
    assert OPTION.findall("--dtype bf16 -o out-dir --input 'x:1'") == ["--dtype", "--input"]
    assert "--help" in options("convert")


def test_the_search_finds_commands() -> None:
    text = "ampconvert a.py --x  # why\n$ ampconvert lint \\\n    --fix\nPATH=x ampconvert no\n"
    assert list(commands(text)) == [["a.py", "--x"], ["lint", "--fix"]]


def test_anchors_are_those_of_a_code_host(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# What `x_y` is: a b\n\n## Two\n\n## Two\n\n```\n# no\n```\n", encoding="utf-8"
    )
    assert anchors(page) == {"what-x_y-is-a-b", "two", "two-1"}


@cache
def options(command: str) -> frozenset[str]:
    """The options that `ampconvert COMMAND --help` lists."""
    run = subprocess.run(
        [sys.executable, "-m", "ampconvert", command, "--help"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return frozenset(OPTION.findall(run.stdout))


def commands(text: str) -> Iterator[list[str]]:
    """The words of each `ampconvert ...` line, wrapped ones too, without comments."""
    joined = text.replace("\\\n", " ")
    for line in re.findall(r"^(?:\$ )?ampconvert (\S.*)$", joined, re.M):
        words = line.split(" #")[0].split()
        if words:
            yield words


def links(page: Path) -> Iterator[tuple[str, str]]:
    """The path and the anchor of each link and picture that stays in the repository."""
    for token in inline(page):
        for child in token.children or ():
            target = child.attrGet("href" if child.type == "link_open" else "src")
            if isinstance(target, str) and child.type in ("link_open", "image"):
                path, _, anchor = target.partition("#")
                if "://" not in target and not target.startswith("mailto:"):
                    yield path, anchor


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that a code host gives to a page's headings."""
    found: list[str] = []
    tokens = parsed(page)
    for opening, token in pairwise(tokens):
        if opening.type == "heading_open":
            shown = "".join(c.content for c in token.children or () if c.type != "image")
            slug = re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-")
            again = sum(1 for one in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one))
            found.append(f"{slug}-{again}" if slug in found else slug)
    return frozenset(found)


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Line, language and text of each fenced block."""
    for token in parsed(page):
        if token.type == "fence" and token.map is not None:
            yield token.map[0] + 1, token.info.strip().partition(" ")[0], token.content


def outside_of_blocks(page: Path) -> list[str]:
    """The page's lines; those of code and comments are blank."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for token in parsed(page):
        if token.type in ("fence", "code_block", "html_block") and token.map is not None:
            for number in range(*token.map):
                lines[number] = ""
    return lines


def within_item(lines: list[str], number: int) -> bool:
    """Whether the paragraph above line `number` (from 0) began as an item of a list."""
    while number > 0 and lines[number - 1].strip():
        number -= 1
    return bool(re.match(r"\s*([-*]|\d+\.) |\|", lines[number]))


def inline(page: Path) -> Iterator[Token]:
    """The texts of a page."""
    yield from (token for token in parsed(page) if token.type == "inline")


@cache
def parsed(page: Path) -> tuple[Token, ...]:
    """The tokens of a page."""
    markdown = MarkdownIt("commonmark").enable("table")
    return tuple(markdown.parse(page.read_text(encoding="utf-8")))
