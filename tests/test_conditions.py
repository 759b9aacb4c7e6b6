"""The words of `when`: one table row per case, each word at least once both ways."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ampconvert.conditions import CONDITIONS
from ampconvert.dtypes import Low
from ampconvert.graph import Graph, Node, Value


def graph_of(
    op: str,
    inputs: Mapping[str, Value],
    result: Value,
    attrs: Mapping[str, Any] | None = None,
    *,
    before: tuple[Node, ...] = (),
    after: tuple[Node, ...] = (),
    values: tuple[Value, ...] = (),
) -> tuple[Node, Graph]:
    """One node with its operands and result, and what stands around it."""
    names = tuple(v.name for v in inputs.values())
    node = Node("n", op, names, (result.name,), tuple(inputs), attrs or {})
    known = {v.name: v for v in (*inputs.values(), result, *values)}
    made = {name for n in (*before, node, *after) for name in n.outputs}
    sources = tuple(n for n, v in known.items() if n not in made and v.kind != "weight")
    graph = Graph((*before, node, *after), known, sources, (result.name,))
    graph.check()
    return node, graph


def tensor(name: str, *shape: int | str, dtype: str = "float32") -> Value:
    return Value(name, dtype, shape)


def weight(name: str, number: float) -> Value:
    data = np.array(number, np.float32)
    return Value(name, "float32", (), "weight", const=lambda: data)


def holds(word: str, argument: Any, case: tuple[Node, Graph], low: Low = "float16") -> bool:
    node, graph = case
    assert CONDITIONS[word].complaint(argument) == ""
    return CONDITIONS[word].holds(argument, node, graph, low)


X, Y = tensor("x", 4), tensor("y", 4)
UNKNOWN = Value("y", "float32", None)


@pytest.mark.parametrize(
    ("wanted", "attrs", "expected"),
    [
        ({"training": True}, {"training": True}, True),
        ({"training": True}, {"training": False}, False),
        ({"training": True}, {"training": 1}, True),  # ONNX spells flags as integers
        ({"training": False}, {}, True),  # left out is off
        ({"mode": ["", "nearest"]}, {}, True),
        ({"mode": ["", "nearest"]}, {"mode": b"nearest"}, True),
        ({"mode": ["", "nearest"]}, {"mode": "linear"}, False),
        ({"mode": "linear", "axis": 1}, {"mode": "linear", "axis": 2}, False),
        ({"pads": [1, 1]}, {"pads": (1, 1)}, True),
    ],
)
def test_attr(wanted: dict[str, Any], attrs: dict[str, Any], expected: bool) -> None:
    assert holds("attr", wanted, graph_of("aten::f", {"x": X}, Y, attrs)) is expected


@pytest.mark.parametrize(
    ("data", "result", "attrs", "expected"),
    [
        (tensor("x", 2, 1024), tensor("y", 2), {}, False),
        (tensor("x", 2, 1025), tensor("y", 2), {}, True),
        (tensor("x", "n", 64), tensor("y", "n"), {}, False),  # the dynamic one is not summed
        (tensor("x", "n", 64), tensor("y", 64), {}, True),  # it is
        (tensor("x", "n", "n", 8), tensor("y", "n", 8), {}, True),
        (tensor("x", 4), UNKNOWN, {}, True),
        (tensor("x", 1, 1, 64, 64), tensor("y", 1, 1, 33, 33), {"kernel_size": [32, 32]}, False),
        (tensor("x", 1, 1, 64, 64), tensor("y", 1, 1, 1, 1), {"kernel_size": [64, 64]}, True),
        (tensor("x", 1, 1, 64, 64), tensor("y", 1, 1, 1, 1), {"kernel_size": [64]}, True),
        (tensor("x", 1, 1, 64, 64), tensor("y", 1, 1, 2, 2), {"kernel_shape": [32, 32]}, False),
    ],
)
def test_reduces_more_than(
    data: Value, result: Value, attrs: dict[str, Any], expected: bool
) -> None:
    case = graph_of("aten::avg_pool2d", {"self": data}, result, attrs)
    assert holds("reduces_more_than", 1024, case) is expected


@pytest.mark.parametrize(
    ("attrs", "operand", "low", "tiny", "smallest"),
    [
        ({"eps": 1e-5}, X, "float16", True, False),
        ({"eps": 1e-8}, X, "float16", True, True),
        ({"eps": 1e-8}, X, "bfloat16", False, False),
        ({"eps": 0.0}, X, "float16", False, False),
        ({"alpha": 1}, X, "float16", False, False),
        ({}, weight("e", 1e-8), "float16", True, True),
        ({}, weight("e", 0.5), "float16", False, False),
    ],
)
def test_eps_below(
    attrs: dict[str, Any], operand: Value, low: Low, tiny: bool, smallest: bool
) -> None:
    case = graph_of("aten::add", {"self": operand}, Y, attrs)
    assert holds("eps_below", "tiny", case, low) is tiny
    assert holds("eps_below", "smallest", case, low) is smallest


@pytest.mark.parametrize(
    ("number", "low", "expected"),
    [
        (-1e9, "float16", True),
        (65519.0, "float16", False),  # rounds down to 65504
        (65520.0, "float16", True),
        (float("-inf"), "float16", False),
        (-3.4028234663852886e38, "bfloat16", True),  # float32's minimum rounds to -inf
        (1e9, "bfloat16", False),
    ],
)
def test_scalar_beyond_range(number: float, low: Low, expected: bool) -> None:
    for case in (
        graph_of("aten::masked_fill", {"self": X}, Y, {"value": number}),
        graph_of("onnx::Mul", {"A": X, "B": weight("w", number)}, Y),
    ):
        assert holds("scalar_beyond_range", True, case, low) is expected


def test_kinds() -> None:
    ids, flags, signal = (
        tensor(n, 4, dtype=d) for n, d in (("i", "int64"), ("b", "bool"), ("c", "complex64"))
    )
    cast = graph_of("aten::to", {"self": ids}, Y)
    assert holds("reads", "integer", cast) and holds("makes", "float", cast)
    assert not holds("reads", "integer", graph_of("aten::mul", {"self": ids, "other": X}, Y))
    assert holds(
        "reads", ["integer", "bool"], graph_of("aten::mul", {"self": ids, "other": flags}, Y)
    )
    assert holds("makes", "complex", graph_of("aten::fft", {"self": X}, signal))
    assert not holds("reads", "float", graph_of("aten::full", {}, Y))


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("int64", "float32", True),
        ("bool", "float32", False),
        ("float32", "float32", False),
        ("int64", "int32", False),
    ],
)
def test_from_integer(source: str, target: str, expected: bool) -> None:
    case = graph_of(
        "aten::to", {"self": tensor("x", 4, dtype=source)}, tensor("y", 4, dtype=target)
    )
    assert holds("from_integer", True, case) is expected


@pytest.mark.parametrize(
    ("inputs", "attrs", "above", "negative"),
    [
        ({"self": X}, {"exponent": 2}, False, False),
        ({"self": X}, {"exponent": -0.5}, False, True),
        ({"self": X}, {"exponent": -4}, True, True),
        ({"X": X, "Y": weight("p", 8.0)}, {}, True, False),
        ({"X": X, "Y": tensor("p", 4)}, {}, True, True),  # computed: cautious on both
        ({"exponent": X}, {"self": 2.0}, True, True),
    ],
)
def test_exponents(
    inputs: dict[str, Value], attrs: dict[str, Any], above: bool, negative: bool
) -> None:
    case = graph_of("onnx::Pow" if "X" in inputs else "aten::pow", inputs, Y, attrs)
    assert holds("exponent_above", 3, case) is above
    assert holds("exponent_negative", True, case) is negative


def test_neighbours() -> None:
    mean = Node("m", "aten::mean", ("y",), ("z",), ("self",))
    case = graph_of(
        "aten::mul", {"self": X, "other": X}, Y, after=(mean,), values=(tensor("z", 1),)
    )
    node, graph = case
    assert holds("read_by", ["mean", "ReduceMean"], case)
    assert not holds("read_by", ["sum"], case)
    assert holds("squares", True, case)
    assert not holds(
        "squares", True, graph_of("aten::mul", {"self": X, "other": tensor("z", 4)}, Y)
    )
    assert holds("made_by", ["mul"], (mean, graph)) and not holds("made_by", ["mul"], case)
    assert holds("reads_square", True, (mean, graph)) and not holds(
        "reads_square", True, (node, graph)
    )


@pytest.mark.parametrize(
    ("op", "attrs", "expected"),
    [
        ("aten::pow", {"exponent": 2}, True),
        ("aten::pow", {"exponent": 3}, False),
        ("aten::relu", {}, False),
    ],
)
def test_reads_square(op: str, attrs: dict[str, Any], expected: bool) -> None:
    maker = Node("p", op, ("x",), ("s",), ("self",), attrs)
    case = graph_of(
        "aten::mean", {"self": tensor("s", 4)}, tensor("y", 1), before=(maker,), values=(X,)
    )
    assert holds("reads_square", True, case) is expected


@pytest.mark.parametrize(
    ("dtype", "expected"), [("bool", True), ("int64", True), ("float32", False)]
)
def test_factor_from_integers(dtype: str, expected: bool) -> None:
    """(1 - mask.float()) * scores, as attention masks are written."""
    cast = Node("c", "aten::to", ("m",), ("f",), ("self",))
    inverse = Node("r", "onnx::Sub", ("one", "f"), ("i",), ("A", "B"))
    values = (tensor("m", 4, dtype=dtype), tensor("f", 4), weight("one", 1.0))
    case = graph_of(
        "aten::mul", {"self": X, "other": tensor("i", 4)}, Y, before=(cast, inverse), values=values
    )
    assert holds("factor_from_integers", True, case) is expected


@pytest.mark.parametrize(
    ("word", "argument"),
    [
        ("attr", {}), ("attr", 3), ("reduces_more_than", 0), ("reduces_more_than", True),
        ("eps_below", "small"), ("makes", "text"), ("makes", []), ("read_by", "mean"),
        ("read_by", []), ("squares", 1), ("exponent_above", "3"),
    ],
)  # fmt: skip
def test_bad_arguments_have_a_complaint(word: str, argument: Any) -> None:
    assert CONDITIONS[word].complaint(argument)


def test_the_set_is_small_and_documented() -> None:
    assert len(CONDITIONS) < 20
    assert all(condition.doc.endswith((".", ")")) for condition in CONDITIONS.values())


def test_the_readme_lists_every_word() -> None:
    page = (Path(__file__).parent.parent / "rules" / "README.md").read_text(encoding="utf-8")
    assert [word for word in CONDITIONS if f"`{word} = " not in page] == []
