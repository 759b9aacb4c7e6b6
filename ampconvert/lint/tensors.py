"""Element types: which one an expression names, and which one a tensor has, as far as it shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from ampconvert.lint.names import canonical

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

Type = Literal["float16", "bfloat16", "float32", "float64", "integer", "bool", "unknown"]

_FLOATS: dict[str, Type] = {
    "float16": "float16", "bfloat16": "bfloat16", "float32": "float32", "float64": "float64",
}  # fmt: skip
_CASTS: dict[str, Type] = {
    "half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64",
    "long": "integer", "int": "integer", "bool": "bool", "byte": "integer",
}  # fmt: skip
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "long", "int", "short")
_LEGACY: dict[str, Type] = {
    "FloatTensor": "float32", "DoubleTensor": "float64", "HalfTensor": "float16",
    "BFloat16Tensor": "bfloat16", "LongTensor": "integer", "IntTensor": "integer",
    "BoolTensor": "bool",
}  # fmt: skip
# Functions that make FP32 tensors unless told otherwise; the position of `dtype` is by keyword.
FACTORIES = frozenset(
    f"torch.{name}" for name in (
        "zeros", "ones", "empty", "full", "rand", "randn", "eye", "linspace", "logspace",
        "normal", "hann_window", "hamming_window",
    )
)  # fmt: skip
_INTEGER_FACTORIES = frozenset({"torch.randint", "torch.randperm", "torch.argsort"})
# Methods and functions that give the type of the tensor they are given.
_KEEP = frozenset({
    "abs", "add", "chunk", "clamp", "clone", "contiguous", "cos", "cpu", "cuda", "cumsum", "detach",
    "div", "exp", "expand", "flatten", "flip", "log", "log1p", "masked_fill", "max", "mean", "min",
    "mul", "neg", "permute", "pow", "relu", "repeat", "reshape", "roll", "rsqrt", "sigmoid", "sin",
    "softmax", "split", "sqrt", "square", "squeeze", "sub", "sum", "t", "tanh", "transpose",
    "unbind", "unsqueeze", "view",
})  # fmt: skip


class Tensors:
    """Types by explicit casts, `dtype=` and what they flow through; all else is unknown."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[ast.expr, frozenset[Type]] = {}
        self._named: dict[ast.expr, frozenset[str]] = {}

    def types(self, expression: ast.expr) -> frozenset[str]:
        """The element types that an expression may name: `torch.float16 if a else torch.bfloat16`
        names both. Empty where it names none that can be seen.
        """
        if expression not in self._named:
            self._named[expression] = frozenset()  # ends circles
            self._named[expression] = self._types(expression)
        return self._named[expression]

    def of(self, expression: ast.expr) -> frozenset[Type]:
        """The types that the tensor `expression` may have; {"unknown"} where nothing shows.

        Autocast is not considered: `(a.float() @ b)` is what its operands are.
        """
        found = self._known.get(expression)
        if found is None:
            self._known[expression] = frozenset({"unknown"})  # ends circles
            found = frozenset(
                t for value in self._source.values.of(expression) for t in self._of_value(value)
            )
            self._known[expression] = found
        return found

    def is_full(self, expression: ast.expr) -> bool:
        """Whether the tensor is known to be float32 or float64 in every case."""
        return self.of(expression) <= {"float32", "float64"}

    def is_low(self, expression: ast.expr) -> bool:
        """Whether the tensor is known to be float16 or bfloat16 in every case."""
        return self.of(expression) <= {"float16", "bfloat16"}

    def _types(self, expression: ast.expr) -> frozenset[str]:
        found: set[str] = set()
        for value in self._source.values.of(expression):
            found |= {name for entry in self._entries(value) for name in self.types(entry)}
            names = self._source.names.all_of(value)
            if isinstance(value, ast.Call):
                names = self._gotten(value)
            for name in names:
                owner, _, last = name.rpartition(".")
                if owner == "torch" and (last in _FLOATS or last in (*_INTEGERS, "bool")):
                    found.add(last)
        return frozenset(found)

    def _entries(self, value: ast.expr) -> Iterator[ast.expr]:
        """What `{"fp16": torch.float16, ...}[key]` and `.get(key, default)` may give."""
        if isinstance(value, ast.Subscript):
            table, key = value.value, value.slice
        elif (
            isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)
            and value.func.attr == "get" and value.args
        ):  # fmt: skip
            table, key = value.func.value, value.args[0]
            yield from value.args[1:2]
        else:
            return
        wanted = self._source.values.of(key)
        keys = {
            one.value for one in wanted
            if isinstance(one, ast.Constant)
            and not isinstance(self._source.parents[one], ast.arguments)  # callers may differ
        }  # fmt: skip
        for entries in self._source.values.of(table):
            if not isinstance(entries, ast.Dict):
                continue
            for name, entry in zip(entries.keys, entries.values, strict=True):
                known = isinstance(name, ast.Constant) and len(keys) == len(wanted)
                if not known or (isinstance(name, ast.Constant) and name.value in keys):
                    yield entry

    def _gotten(self, call: ast.Call) -> frozenset[str]:
        """The names of `getattr(torch, "float16")`."""
        names = self._source.names
        if len(call.args) < 2 or names.of(call.func) != "getattr":
            return frozenset()
        owner = names.of(call.args[0])
        return frozenset(canonical(f"{owner}.{c}")
                         for c in self._source.values.constants(call.args[1]))  # fmt: skip

    def _of_value(self, value: ast.expr) -> frozenset[Type]:
        if isinstance(value, ast.Constant):
            return frozenset()  # a Python number takes the type of the tensor it meets
        if isinstance(value, ast.UnaryOp):
            return self.of(value.operand)
        if isinstance(value, ast.BinOp):
            return _promoted(self.of(value.left), self.of(value.right))
        if isinstance(value, ast.Compare):
            return frozenset({"bool"})
        if isinstance(value, ast.Subscript):
            return self.of(value.value)
        if isinstance(value, ast.Call):
            return self._called(value)
        return frozenset({"unknown"})

    def _called(self, call: ast.Call) -> frozenset[Type]:
        asked = next((k.value for k in call.keywords if k.arg == "dtype"), None)
        if asked is not None:
            return _as_types(self.types(asked))
        name = self._source.names.of(call.func)
        if name in FACTORIES:
            return frozenset({"float32"})
        if name in _INTEGER_FACTORIES:
            return frozenset({"integer"})
        if name == "torch.arange":
            floats = any(isinstance(a, ast.Constant) and isinstance(a.value, float)
                         for a in call.args)  # fmt: skip
            return frozenset({"float32" if floats else "integer"})
        if name.rpartition(".")[2] in _LEGACY:
            return frozenset({_LEGACY[name.rpartition(".")[2]]})
        if name.startswith("torch.") and name.rpartition(".")[2] in _KEEP and call.args:
            return self.of(call.args[0])
        if isinstance(call.func, ast.Attribute) and not name:
            return self._method(call, call.func)
        return frozenset({"unknown"})

    def _method(self, call: ast.Call, function: ast.Attribute) -> frozenset[Type]:
        if function.attr in _CASTS and not call.args:
            return frozenset({_CASTS[function.attr]})
        if function.attr == "to" and not call.args and all(
            k.arg in ("device", "non_blocking", "copy") for k in call.keywords
        ):  # fmt: skip
            return self.of(function.value)
        if function.attr in ("to", "type") and call.args:
            named = frozenset().union(*(self.types(a) for a in call.args))
            moved = function.attr == "to" and self._is_device(call.args[0])
            return _as_types(named) if named or not moved else self.of(function.value)
        if function.attr in _KEEP:
            return self.of(function.value)
        return frozenset({"unknown"})

    def _is_device(self, argument: ast.expr) -> bool:
        """Whether `x.to(argument)` can only move x: a string, or something known as a device."""
        if any(isinstance(c, str) for c in self._source.values.constants(argument)):
            return True
        plain = isinstance(argument, ast.Attribute) and argument.attr == "device"
        return plain or self._source.kinds.is_a(argument, "device")


def _as_types(names: frozenset[str]) -> frozenset[Type]:
    if not names:
        return frozenset({"unknown"})
    return frozenset(_FLOATS.get(name, "bool" if name == "bool" else "integer") for name in names)


_RANK: dict[Type, int] = {
    "bool": 0, "integer": 1, "bfloat16": 2, "float16": 2, "float32": 3, "float64": 4,
}  # fmt: skip


def _promoted(left: frozenset[Type], right: frozenset[Type]) -> frozenset[Type]:
    """The types of a sum: the wider one; float16 with bfloat16 is float32."""
    if not left or not right:
        return left or right
    found: set[Type] = set()
    for a in left:
        for b in right:
            if {a, b} & {"float64"} or (a != "unknown" != b):
                pair: set[Type] = {a, b}
                wide: Type = max(pair, key=lambda t: _RANK.get(t, -1))
                found.add("float32" if pair == {"float16", "bfloat16"} else wide)
            else:
                found.add("unknown")
    return frozenset(found)
