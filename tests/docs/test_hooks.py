"""The site's hooks: links between files of the repository, and formulas."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mkdocs", reason="the site needs `pip install '.[docs]'`")
pytest.importorskip("latex2mathml", reason="the site needs `pip install '.[docs]'`")

from markdown import Markdown
from mkdocs.config import load_config
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files, get_files
from mkdocs.structure.pages import Page

HOOKS = Path(__file__).parents[2] / "docs/hooks"


def hook(name: str) -> Any:
    """docs/hooks/NAME.py, loaded from its path as MkDocs does."""
    spec = importlib.util.spec_from_file_location(f"docs_hook_{name}", HOOKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


repository, mathematics = hook("repository"), hook("mathematics")


@pytest.fixture
def site(tmp_path: Path) -> tuple[MkDocsConfig, Files]:
    """A checkout with one page that links outside of docs/, and what lies there."""
    texts = {
        "docs/index.md": "[readme](../README.md#use) [code](../lib/a.py) [all](../lib/) "
        "`[no](../not.md)`\n\n```\n[neither](../nor.md)\n```\n",
        "docs/deep/page.md": "![plot](../../results/plot.svg)\n",
        "README.md": "# Read\n\n## Use\n\n[back](docs/deep/page.md) [log](CHANGES.md)\n",
        "CHANGES.md": "# Changes\n",
        "lib/a.py": 'print("```")\n',
        "lib/b.py": "pass\n",
        "results/plot.svg": "<svg/>\n",
        "not.md": "never linked\n",
        "nor.md": "never linked\n",
        "mkdocs.yml": "site_name: test\nuse_directory_urls: false\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    config = load_config(str(tmp_path / "mkdocs.yml"))
    config = config.plugins.on_config(config)  # a build begins so
    files = repository.on_files(get_files(config), config)
    return config, files


def test_linked_files_come_along(site: tuple[MkDocsConfig, Files]) -> None:
    names = {file.src_uri for file in site[1]}
    assert names == {
        "index.md", "deep/page.md", "repository/README.md", "repository/CHANGES.md",
        "repository/lib/index.md", "repository/lib/a.py.md", "repository/lib/b.py.md",
        "repository/results/plot.svg",
    }  # fmt: skip


def test_links_are_pointed_at_pages(site: tuple[MkDocsConfig, Files]) -> None:
    text = _rendered(site, "index.md")
    assert 'href="repository/README.md#use"' in text
    assert 'href="repository/lib/a.py.md"' in text and 'href="repository/lib/index.md"' in text
    assert "[no](../not.md)" in text and "[neither](../nor.md)" in text


def test_pages_outside_link_back(site: tuple[MkDocsConfig, Files]) -> None:
    text = _rendered(site, "repository/README.md")
    assert 'href="../deep/page.md"' in text and 'href="CHANGES.md"' in text
    assert 'src="../repository/results/plot.svg"' in _rendered(site, "deep/page.md")


def test_code_may_hold_fences(site: tuple[MkDocsConfig, Files]) -> None:
    content = site[1].get_file_from_path("repository/lib/a.py.md")
    assert content is not None and '``````python\nprint("```")\n``````' in content.content_string


def test_a_folder_lists_its_files(site: tuple[MkDocsConfig, Files]) -> None:
    text = _rendered(site, "repository/lib/index.md")
    assert 'href="a.py.md"' in text and 'href="b.py.md"' in text


def test_links_that_lead_nowhere_are_left_for_mkdocs_to_report(
    site: tuple[MkDocsConfig, Files],
) -> None:
    repository._sources.page = "index.md"
    assert repository._on_site("../gone.md") == "../gone.md"
    assert repository._on_site("https://example.org/a.md") == "https://example.org/a.md"


def test_formulas_become_mathml() -> None:
    made = _formula(r'<p>so <span class="arithmatex">\(a &lt; b\)</span></p>')
    assert made.startswith("<p>so <math alttext=") and "&#x0003C;" in made and "\\(" not in made
    block = _formula('<div class="arithmatex">\\[\n\\sum_i x_i\n\\]</div>')
    assert block.startswith('<div class="formula"><math') and 'display="block"' in block


def _formula(content: str) -> str:
    unused: Any = None
    made: str = mathematics.on_page_content(content, unused, unused, unused)
    return made


def _rendered(site: tuple[MkDocsConfig, Files], name: str) -> str:
    config, files = site
    file = files.get_file_from_path(name)
    assert file is not None
    page = Page(None, file, config)
    text = repository.on_page_markdown(file.content_string, page, config, files)
    return Markdown(extensions=["fenced_code", repository._Links()]).convert(text)
