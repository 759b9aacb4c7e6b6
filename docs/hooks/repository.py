"""Brings files outside docs/ that pages link to into the site: README, results, examples, rules.

On a code host `../README.md` opens the file itself. Here each file that a page links to becomes a
page under repository/: Markdown as it is, code in a block, a folder as a list; pictures and JSON
are copied. What those pages link to comes along. Links are changed while a page is rendered, so
that MkDocs checks them like any other; the sources stay as they are.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

FOLDER = "repository"  # of the site, for what lies outside docs/
LANGUAGES = {
    ".py": "python", ".toml": "toml", ".yml": "yaml", ".yaml": "yaml", ".txt": "text", "": "text",
    ".json": "json", ".sh": "bash", ".ipynb": "json", ".js": "javascript", ".css": "css",
}  # fmt: skip
NAMES = {"Makefile": "make", "action.yml": "yaml"}
COPIED = (".svg", ".png", ".json")  # shown by a browser, or data: copied as they are
MOST = 200_000  # bytes of a file that is shown as a page
_LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\s*\[[^\]]+\]:\s*(\S+)", re.M)
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,}).*?^\1\2[ \t]*$", re.M | re.S)
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")


class _Sources:
    """Where in the repository each page of the site comes from, both as posix paths."""

    def __init__(self) -> None:
        self.page = ""  # the site's name of the page that is rendered
        self.source: dict[str, str] = {}  # README of the site -> README.md
        self.site: dict[str, str] = {}  # the other way round

    def clear(self) -> None:
        self.source.clear()
        self.site.clear()

    def add(self, source: str, site: str, is_folder: bool = False) -> None:
        self.source[site] = f"{source}/" if is_folder else source
        self.site[source] = site


_sources = _Sources()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Have links changed while pages are rendered."""
    config.markdown_extensions.append(_Links())  # type: ignore[arg-type]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page links to, and what those link to."""
    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(root).as_posix()
    _sources.clear()  # `mkdocs serve` builds more than once
    for file in files:
        _sources.add(f"{docs}/{file.src_uri}", file.src_uri)
    waiting = [f"{docs}/{file.src_uri}" for file in files.documentation_pages()]
    waiting += [_repository_path(entry) for entry in _nav_entries(config.nav)]
    waiting = [source for source in waiting if source]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        if source not in _sources.site and (made := _file(root, source, config)):
            files.append(made)
            _sources.add(source, made.src_uri, (root / source).is_dir())
        for target in _targets(root, source):
            if target not in seen and (root / target).exists():
                seen.add(target)
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Note which page comes next, and what the theme should do with it: results and examples
    are left out of the search.
    """
    _sources.page = page.file.src_uri
    if page.file.src_uri.startswith((f"{FOLDER}/benchmarks/", f"{FOLDER}/examples/")):
        page.meta["search"] = {"exclude": True}
    if _is_alone(page, config.nav):  # its navigation would be itself
        page.meta["hide"] = ["navigation"]
    return markdown


def _is_alone(page: Page, nav: Any) -> bool:
    """Whether a tab of the navigation is this one page."""
    tabs = [entry for entry in nav or () if isinstance(entry, dict)]
    return any(page.file.src_uri == only for entry in tabs for only in entry.values())


def _nav_entries(nav: Any) -> Iterator[str]:
    """Every path that the navigation names."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict | list):
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from _nav_entries(entry)


def _repository_path(entry: str) -> str:
    """repository/CHANGELOG.md in the navigation is the repository's CHANGELOG.md."""
    return entry.removeprefix(f"{FOLDER}/") if entry.startswith(f"{FOLDER}/") else ""


def _targets(root: Path, source: str) -> Iterator[str]:
    """What a Markdown file or a folder links to, as paths in the repository."""
    path = root / source
    if path.is_dir():
        yield from (f"{source}/{name}" for name in _names_in(path))
    elif path.suffix == ".md":
        text = _CODE.sub("", _FENCE.sub("", path.read_text(encoding="utf-8")))
        for found in _LINK.finditer(text):
            target = _resolved(source, found[1] or found[2])
            if target is not None:
                yield target


def _resolved(source: str, link: str) -> str | None:
    """The path in the repository that a link of `source` names; None for one that leaves it."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path or parts.path.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(parts.path)))
    return None if path.startswith("..") or path == "." else path


def _file(root: Path, source: str, config: MkDocsConfig) -> File | None:
    """A file or folder of the repository as a file of the site."""
    path = root / source
    if path.is_dir():
        listed = "\n".join(f"- [{name}]({name})" for name in _names_in(path))
        return _page(config, f"{source}/index.md", f"# {source}/\n\n{listed}\n")
    if path.suffix == ".md":
        inclusion = InclusionLevel.NOT_IN_NAV
        return File.generated(
            config, f"{FOLDER}/{source}", abs_src_path=str(path), inclusion=inclusion
        )
    if path.suffix in COPIED or path.stat().st_size > MOST:
        return File.generated(config, f"{FOLDER}/{source}", abs_src_path=str(path))
    language = NAMES.get(path.name, LANGUAGES.get(path.suffix, "text"))
    text = path.read_text(encoding="utf-8").rstrip("\n")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", text)), default=0) + 3)
    return _page(config, f"{source}.md", f"# {source}\n\n{fence}{language}\n{text}\n{fence}\n")


def _page(config: MkDocsConfig, source: str, content: str) -> File:
    text = f"---\nsearch:\n  exclude: true\n---\n\n{content}"
    inclusion = InclusionLevel.NOT_IN_NAV
    return File.generated(config, f"{FOLDER}/{source}", content=text, inclusion=inclusion)


def _names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


class _Links(Extension):
    """Registers the change of links before MkDocs looks at them."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        # After inline patterns have made the links (20), before MkDocs resolves them (0).
        md.treeprocessors.register(_Retarget(md), "repository", 5)


class _Retarget(Treeprocessor):
    """Points links between files of the repository at their pages of the site."""

    def run(self, root: Element) -> None:
        for element in root.iter():
            key = {"a": "href", "img": "src"}.get(element.tag)
            link = element.get(key) if key else None
            if key and link:
                element.set(key, _on_site(link))


def _on_site(link: str) -> str:
    source = _sources.source.get(_sources.page)
    target = _resolved(source, link) if source is not None else None
    if target is None:
        return link
    site = _sources.site.get(target) or _sources.site.get(f"{target}/README.md")
    if site is None:
        return link  # MkDocs tells of it
    path = posixpath.relpath(site, posixpath.dirname(_sources.page) or ".")
    return urlunsplit(urlsplit(link)._replace(path=path))
