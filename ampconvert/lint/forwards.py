"""Whether code belongs to the forward pass of a module, and may so run in a caller's autocast."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_MOST = 4  # calls followed upwards


def in_forward(source: Source, node: ast.AST) -> bool:
    """Whether `node` stands in the `forward` of a module of this file, or in a function that such
    a forward calls, as far as the file shows.
    """
    function = source.function(node)
    return function is not None and _reaches(source, function, _MOST)


def under_autocast(source: Source, node: ast.AST) -> bool:
    """Whether `node` runs in an autocast region that the file shows and that is on."""
    return any(region is not None and region.is_on for region in source.autocasts.reaching(node))


def is_switched_off(source: Source, node: ast.AST) -> bool:
    """Whether a region around `node` or one of its callers in this file is off: where another
    caller has none, it stands for a case without autocast.
    """
    return any(region is not None and region.is_off for region in source.autocasts.reaching(node))


def _reaches(source: Source, function: ast.AST, left: int) -> bool:
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    owner = source.parents[function]
    if function.name == "forward" and isinstance(owner, ast.ClassDef):
        return "module" in source.kinds.of_class(owner)
    if not left:
        return False
    callers = {source.function(call) for call in source.values.calls_of(function)}
    return any(one is not None and _reaches(source, one, left - 1) for one in callers)
