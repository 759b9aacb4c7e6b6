"""What a hard ONNX model is, and how one is written; the models are in tests/onnx_cases_*.py.

`@case(...)` registers a function that gives a model: a graph in ONNX's text format (the head is
added) or a ModelProto. Its docstring says what must hold. `case(...)` takes what the generic checks
of tests/test_onnx_cases.py need to know of it.
"""

from __future__ import annotations

import functools
import importlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import parser

Feed = Mapping[str, Any]  # an input's name -> an array, a list of arrays (a sequence), or None


@dataclass(frozen=True)
class Case:
    """One model, inputs that it runs on, and what the built-in rules must make of it."""

    name: str
    make: Callable[[], onnx.ModelProto]
    given: tuple[Feed, ...]
    fp32: tuple[str, ...] = ()  # nodes that stay in float32 by the built-in rules
    low: tuple[str, ...] = ()  # nodes that run in the low type by the built-in rules
    exact: tuple[str, ...] = ()  # outputs that the built-in rules keep bit for bit
    # A plan, a low type or both ("pinned/bfloat16") -> why the numbers differ there, ...
    differs: Mapping[str, str] = field(default_factory=dict)
    ruled: Mapping[str, str] = field(default_factory=dict)  # ... `fp32`, `low` do not hold there
    unloadable: Mapping[str, str] = field(default_factory=dict)  # ... ONNX Runtime has no kernel
    random: str = ""  # why no two runs agree: then only types and shapes are compared
    runs: str = ""  # why ONNX Runtime cannot run it, in float32 neither; "" where it can
    valid: str = ""  # why onnx.checker refuses the source already; "" where it does not

    @property
    def model(self) -> onnx.ModelProto:
        """A copy of its own for every caller."""
        copy = onnx.ModelProto()
        copy.CopyFrom(_built(self.name))
        return copy

    @property
    def feeds(self) -> list[dict[str, Any]]:
        """Batches of inputs by name; what the case leaves open is random, the same every time."""
        return [_filled(self, feed) for feed in self.given]


CASES: dict[str, Case] = {}


def case(
    *feeds: Feed,
    opset: int = 21,
    ir_version: int = 10,
    domains: Mapping[str, int] | None = None,
    **facts: Any,
) -> Callable[[Callable[[], str | onnx.ModelProto]], Case]:
    """Register a case under its function's name.

    Each of `feeds` is one batch: the inputs that are not to be random floats. Further keywords are
    fields of `Case`; a single node or output name may stand for a tuple of one.
    """
    facts = {k: (v,) if isinstance(v, str) and k in _TUPLES else v for k, v in facts.items()}
    extra = "".join(f', "{name}" : {version}' for name, version in (domains or {}).items())
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{extra}]>\n'

    def register(make: Callable[[], str | onnx.ModelProto]) -> Case:
        def build() -> onnx.ModelProto:
            made = make()
            return parser.parse_model(head + made) if isinstance(made, str) else made

        assert make.__name__ not in CASES, f"two cases are named {make.__name__}"
        found = Case(make.__name__, build, feeds or ({},), **facts)
        CASES[found.name] = found
        return found

    return register


_TUPLES = ("fp32", "low", "exact")


def parsed(text: str, opset: int = 21, ir_version: int = 10) -> onnx.ModelProto:
    """A model of ONNX's own operators from a graph in text; for cases that change it afterwards."""
    return parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n{text}')


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normally distributed float32."""
    drawn = np.random.default_rng(seed).normal(size=shape) * scale
    return np.asarray(drawn, np.float32)


def spelled(array: np.ndarray) -> str:
    """An array's numbers between the braces of an initialiser in text."""
    return "{" + ", ".join(f"{x:.9g}" for x in array.ravel()) + "}"


def small(count: int, seed: int = 0) -> str:
    """So many weights of about a half, as `spelled` writes them."""
    return spelled(numbers(count, seed=seed, scale=0.5).round(3))


@functools.cache
def _built(name: str) -> onnx.ModelProto:
    return CASES[name].make()


def _filled(found: Case, feed: Feed) -> dict[str, Any]:
    """`feed` with random floats for the inputs that it lacks; defaulted inputs are left out."""
    rng = np.random.default_rng(zlib.crc32(found.name.encode()))
    graph = _built(found.name).graph
    defaulted = {tensor.name for tensor in graph.initializer}
    filled: dict[str, Any] = dict(feed)
    for value in graph.input:
        if value.name in feed or value.name in defaulted:
            continue
        kind = value.type.tensor_type
        assert kind.elem_type in _FLOATS, f"{found.name}: give a feed for {value.name}"
        shape = [d.dim_value or 2 for d in kind.shape.dim]
        filled[value.name] = np.asarray(rng.normal(size=shape), _FLOATS[kind.elem_type])
    return filled


_FLOATS = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.FLOAT16: np.float16,
}


def load_all() -> dict[str, Case]:
    """Every case, by name, after importing the files that hold them."""
    for path in sorted(Path(__file__).parent.glob("onnx_cases_*.py")):
        importlib.import_module(f"tests.{path.stem}")
    return CASES
