"""FLOPs against counts that one can do by hand, and the roofline built on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ampconvert.cost import CONTRACTIONS, flops, load_target
from ampconvert.frontends import fx
from ampconvert.graph import Graph, Node, Value
from ampconvert.rules import RuleBook, load
from tests.models import Case, Fn, captured


def work_of(forward: Any, *args: torch.Tensor, **parts: Any) -> dict[str, float]:
    """FLOPs per product in a captured function, by operator."""
    graph = fx.read(captured(Case(Fn(forward, **parts), args), dynamic_batch=False))
    book = RuleBook(load())
    found: dict[str, float] = {}
    for node in graph.nodes:
        rule = book.match(node, graph, "float16")
        if rule is not None and rule.work in CONTRACTIONS:
            found[node.op] = found.get(node.op, 0.0) + flops(graph, node, rule.work)
    return found


R = torch.randn


@pytest.mark.parametrize(
    ("forward", "args", "parts", "expected"),
    [
        (lambda m, x: m.a(x), (R(5, 7, 16),), {"a": nn.Linear(16, 32)}, 2 * 5 * 7 * 16 * 32),
        (lambda m, x, y: x @ y, (R(3, 4, 8), R(3, 8, 5)), {}, 2 * 3 * 4 * 8 * 5),
        (lambda m, x, y: x @ y, (R(8), R(8)), {}, 2 * 8),
        (lambda m, x, y: torch.bmm(x, y), (R(2, 3, 4), R(2, 4, 5)), {}, 2 * 2 * 3 * 4 * 5),
        (lambda m, c, x, y: torch.addmm(c, x, y), (R(3, 5), R(3, 4), R(4, 5)), {}, 2 * 3 * 4 * 5),
        (
            lambda m, c, x, y: torch.baddbmm(c, x, y),
            (R(2, 3, 5), R(2, 3, 4), R(2, 4, 5)),
            {},
            2 * 2 * 3 * 4 * 5,
        ),
        # output 2 x 8 x 7 x 7, each of 3 * 9 products
        (
            lambda m, x: m.c(x),
            (R(2, 3, 15, 15),),
            {"c": nn.Conv2d(3, 8, 3, stride=2)},
            2 * 2 * 8 * 49 * 27,
        ),
        # grouped: each output sees 8 / 4 channels
        (
            lambda m, x: m.c(x),
            (R(2, 8, 6, 6),),
            {"c": nn.Conv2d(8, 8, 3, groups=4, padding=1)},
            2 * 2 * 8 * 36 * 18,
        ),
        (
            lambda m, x: m.c(x),
            (R(2, 8, 6, 6),),
            {"c": nn.Conv2d(8, 8, 3, groups=8, padding=1)},
            2 * 2 * 8 * 36 * 9,
        ),
        (lambda m, x: m.c(x), (R(1, 4, 10),), {"c": nn.Conv1d(4, 6, 3)}, 2 * 6 * 8 * 12),
        (lambda m, x: m.c(x), (R(4, 10),), {"c": nn.Conv1d(4, 6, 3)}, 2 * 6 * 8 * 12),  # no batch
        (lambda m, x: m.c(x), (R(1, 2, 4, 4, 4),), {"c": nn.Conv3d(2, 3, 2)}, 2 * 3 * 27 * 16),
        # transposed: every input element is used with the whole kernel
        (
            lambda m, x: m.c(x),
            (R(2, 4, 5, 5),),
            {"c": nn.ConvTranspose2d(4, 6, 3, stride=2)},
            2 * 2 * 25 * 4 * 6 * 9,
        ),
        (
            lambda m, q, k: F.scaled_dot_product_attention(q, k, k),
            (R(2, 4, 5, 8), R(2, 4, 7, 8)),
            {},
            2 * 2 * 2 * 4 * 5 * 7 * 8,
        ),
        # the weights once per step and sample: 4 gates of 6 inputs and 10 states, and two biases
        (
            lambda m, x: m.r(x)[0],
            (R(5, 3, 6),),
            {"r": nn.LSTM(6, 10)},
            2 * 15 * 4 * 10 * (6 + 10 + 2),
        ),
        (
            lambda m, x: m.r(x)[0],
            (R(5, 3, 6),),
            {"r": nn.GRU(6, 10, bidirectional=True)},
            2 * 2 * 15 * 3 * 10 * (6 + 10 + 2),
        ),
        (
            lambda m, x, y: torch.einsum("bij,bjk->bik", x, y),
            (R(2, 3, 4), R(2, 4, 5)),
            {},
            2 * 2 * 3 * 4 * 5,
        ),
        (
            lambda m, x, y: torch.einsum("bhid,bhjd->bhij", x, y),
            (R(2, 3, 4, 8), R(2, 3, 5, 8)),
            {},
            2 * 2 * 3 * 4 * 5 * 8,
        ),
        (
            lambda m, x, y: torch.einsum("b i d, b j d -> b i j", x, y),
            (R(2, 3, 4), R(2, 5, 4)),
            {},
            2 * 2 * 3 * 5 * 4,
        ),
    ],
)
def test_products(forward: Any, args: Any, parts: dict[str, Any], expected: float) -> None:
    assert sum(work_of(forward, *args, **parts).values()) == expected


def value(name: str, *shape: int, dtype: str = "float32", kind: Any = "computed") -> Value:
    return Value(name, dtype, shape, kind)


def small(op: str, *inputs: Value, out: Value) -> tuple[Graph, Node]:
    node = Node("n", op, tuple(v.name for v in inputs), (out.name,))
    values = {v.name: v for v in (*inputs, out)}
    return Graph((node,), values, tuple(v.name for v in inputs), (out.name,)), node


def test_elementwise_counts_the_largest_tensor() -> None:
    graph, node = small(
        "aten::sum", value("x", 4, 5), value("i", 999, dtype="int64"), out=value("y", 4)
    )
    assert flops(graph, node, "elementwise") == 20
    assert flops(graph, node, "no such work") == 20


def test_a_product_runs_at_the_matrix_rate_and_a_sum_by_bandwidth() -> None:
    target = load_target()
    n = 4096
    x, w, y = value("x", n, n), value("w", n, n, kind="weight"), value("y", n, n)
    graph, node = small("aten::matmul", x, w, out=y)
    seconds = {t: target.node_seconds(graph, node, "matmul", t) for t in ("float32", "float16")}
    assert seconds["float16"] == pytest.approx(2 * n**3 / target.rate["float16"])
    assert seconds["float32"] / seconds["float16"] == pytest.approx(2.0)
    added, node = small("aten::add", x, x, out=y)
    assert target.node_seconds(added, node, "elementwise", "float32") == pytest.approx(
        2 * n * n * 4 / target.bandwidth  # x is read once, however often it is an operand
    )
    assert target.node_seconds(added, node, "view", "float32") == 0.0


def test_a_cast_reads_four_bytes_and_writes_two() -> None:
    target = load_target()
    cost = target.cast_seconds(value("x", 1000, 1000))
    assert cost == pytest.approx(6e6 / target.bandwidth + target.launch)


def test_an_unknown_target_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="h100"):
        load_target("abacus")
