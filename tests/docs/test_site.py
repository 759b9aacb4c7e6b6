"""The whole site, built as `make docs` builds it: strict, and nothing is fetched from anywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("material", reason="the site needs `pip install '.[docs]'`")
pytest.importorskip("latex2mathml", reason="the site needs `pip install '.[docs]'`")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return folder


def test_every_page_is_built(site: Path) -> None:
    for page in ROOT.glob("docs/**/*.md"):
        if "assets" not in page.parts and "hooks" not in page.parts:
            built = site / page.relative_to(ROOT / "docs").with_suffix(".html")
            assert built.exists(), page


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = [(tag, link) for tag, link in _links(page) if tag != "a"]
        assert len(loads) > 3
        for tag, link in loads:
            assert not urlsplit(link).netloc, f"{page.relative_to(site)}: <{tag}> {link}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_every_link_leads_to_a_page_and_a_place_in_it(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links begin at the site's root
            continue
        for tag, link in _links(page):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{page.relative_to(site)}: <{tag}> {link}"
            if parts.fragment and target.suffix == ".html" and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in _places(target), f"{page.name}: {link}"


def test_formulas_and_signatures_are_rendered(site: Path) -> None:
    plan = (site / "plan.html").read_text(encoding="utf-8")
    assert plan.count("<math") > 40 and "arithmatex" not in plan
    api = (site / "reference/api.html").read_text(encoding="utf-8")
    assert "doc-signature" in api and "Convert <code>model</code> to FP16" in api
    assert ":::" not in api


def test_the_search_knows_pages_without_a_server(site: Path) -> None:
    index = (site / "search/search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index") and "minimum cut" in index
    assert "repository/benchmarks/results" not in index


class _Reader(HTMLParser):
    """Links of a page, and the names of places in it."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places |= {value for key in ("id", "name") if (value := given.get(key))}
        key = {"a": "href", "link": "href", "script": "src", "img": "src"}.get(tag)
        # The page's own address and its neighbours are named, not loaded.
        if key and (link := given.get(key)) and given.get("rel") not in ("canonical", "alternate"):
            self.links.append((tag, link))


@cache
def _read(page: Path) -> _Reader:
    reader = _Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def _links(page: Path) -> Iterator[tuple[str, str]]:
    yield from _read(page).links


def _places(page: Path) -> set[str]:
    return _read(page).places
