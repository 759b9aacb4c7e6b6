"""docs/reference/api.md names everything public, and nothing that does not exist."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

import pytest

import ampconvert

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
NAMED = re.findall(r"^::: (\S+)$", PAGE, re.M)


@pytest.mark.parametrize("name", ampconvert.__all__)
def test_every_public_name_is_on_the_page(name: str) -> None:
    assert NAMED.count(f"ampconvert.{name}") == 1


@pytest.mark.parametrize("name", NAMED)
def test_every_name_on_the_page_is_defined(name: str) -> None:
    module, _, last = name.rpartition(".")
    if module == "ampconvert":
        assert last in ampconvert.__all__
        return
    assert last in _defined(module), name


@pytest.mark.parametrize("name", [n for n in ampconvert.__all__ if not n.startswith("__")])
def test_every_public_name_has_a_docstring(name: str) -> None:
    pytest.importorskip("torch")
    text = getattr(ampconvert, name).__doc__
    assert text and text.strip().partition("\n\n")[0].rstrip().endswith((".", ":")), name


def _defined(module: str) -> set[str]:
    """Functions and classes of a module, which need not be importable: Keras may be missing."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, module
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
