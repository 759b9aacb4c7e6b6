r"""Formulas as MathML, made when the site is built.

Sources write `$x$` and `$$x$$`, as code hosts do. Browsers draw MathML themselves, so a page needs
no script, no font and no network for it.
"""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

# What pymdownx.arithmatex makes with `generic: true`.
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace each formula of a page by MathML."""
    content = _BLOCK.sub(lambda found: _mathml(found[1], "block"), content)
    return _INLINE.sub(lambda found: _mathml(found[1], "inline"), content)


def _mathml(source: str, display: str) -> str:
    latex = html.unescape(source).strip()
    made = convert(latex, display=display)  # type: ignore[arg-type]
    # The source stays readable to who copies the formula, and to screen readers without MathML.
    labelled = made.replace("<math ", f'<math alttext="{html.escape(latex)}" ', 1)
    return f'<div class="formula">{labelled}</div>' if display == "block" else labelled
