"""Casts of whole models to a low type, told from casts of single tensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.values import is_self

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_LOW = frozenset({"float16", "bfloat16"})
_CASTS = {"half": "float16", "bfloat16": "bfloat16"}
# What only models can do.
_MODEL_METHODS = frozenset({
    "apply", "eval", "generate", "load_state_dict", "modules", "named_modules", "named_parameters",
    "parameters", "state_dict", "train",
})  # fmt: skip
_LOADERS = ("from_pretrained", "from_config", "from_single_file")
_MOST_LINKS = 6  # of Net().to(device).half().eval()


class ModelCasts:
    """Which casts make a model's parameters low: only then all that flows through it is."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @cached_property
    def types(self) -> frozenset[str]:
        """The low types to which models are cast in this file, or that the settings assume."""
        if "half" in self._source.settings.assume:
            return _LOW
        return frozenset().union(*self._found()) & _LOW

    def _found(self) -> Iterator[frozenset[str]]:
        source = self._source
        yield frozenset()
        for call in source.names.calls("torch.set_default_dtype"):
            yield frozenset().union(*(source.tensors.types(a) for a in call.args))
        for call in source.names.methods("half", "bfloat16", "to", "type"):
            types = self._cast(call)
            if types and self._is_of_model(call):
                yield types
        for keyword in source.nodes(ast.keyword):
            if keyword.arg in ("dtype", "torch_dtype"):
                made = source.parents[keyword]
                if isinstance(made, ast.Call) and self._makes_model(made):
                    yield source.tensors.types(keyword.value)
            elif keyword.arg == "precision":
                for value in source.values.constants(keyword.value):
                    if isinstance(value, str) and value.endswith("16-true"):
                        yield frozenset({"bfloat16" if value.startswith("bf") else "float16"})

    def _cast(self, call: ast.Call) -> frozenset[str]:
        """The low types that `x.half()` or `x.to(torch.float16)` gives."""
        assert isinstance(call.func, ast.Attribute)
        if call.func.attr in _CASTS:
            low = _CASTS[call.func.attr]
            return frozenset() if call.args else frozenset({low})
        given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
        return frozenset().union(*(self._source.tensors.types(one) for one in given)) & _LOW

    def _is_of_model(self, call: ast.Call) -> bool:
        """Whether what is cast is a model: it is one by its making, or is called or trained."""
        assert isinstance(call.func, ast.Attribute)
        receiver = call.func.value
        above = self._source.parents[call]
        if isinstance(above, ast.Expr) or (isinstance(above, ast.Call) and above.func is call):
            return True  # a statement of its own, model.half(), or model.half()(x)
        if is_self(receiver) or self._source.kinds.is_a(receiver, "module"):
            return True
        written = {_written(receiver), *(_written(target) for target in self._targets(call))}
        return bool(written & self._models)

    def _makes_model(self, call: ast.Call) -> bool:
        if isinstance(call.func, ast.Attribute) and call.func.attr in _LOADERS:
            return True
        return self._source.kinds.is_a(call, "module") and not self._cast_by_method(call)

    def _cast_by_method(self, call: ast.Call) -> bool:
        return isinstance(call.func, ast.Attribute) and call.func.attr in ("to", "type")

    def _targets(self, call: ast.Call) -> Iterator[ast.expr]:
        """What `x = Net().half().cuda()` assigns to, for the call in its middle."""
        node: ast.AST = call
        for _ in range(_MOST_LINKS):
            above = self._source.parents.get(node)
            if isinstance(above, ast.Assign):
                yield from above.targets
            if not isinstance(above, ast.Attribute | ast.Call):
                return
            node = above

    @cached_property
    def _models(self) -> frozenset[str]:
        """What is called like a function in this file, or does what only models do."""
        found: set[str] = set()
        for call in self._source.nodes(ast.Call):
            found.add(_written(call.func))
            if isinstance(call.func, ast.Attribute) and call.func.attr in _MODEL_METHODS:
                found.add(_written(call.func.value))
        return frozenset(found - {""})


def _written(expression: ast.expr) -> str:
    """`net`, `self.net`; "" for all that is no name."""
    if isinstance(expression, ast.Name):
        return expression.id
    if isinstance(expression, ast.Attribute):
        base = _written(expression.value)
        return f"{base}.{expression.attr}" if base else ""
    return ""
