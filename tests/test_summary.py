"""The figures of a plan: verdicts, bytes, shares, and which operators the predicted error comes
from.
"""

from __future__ import annotations

import numpy as np
import pytest

from ampconvert.classify import classify
from ampconvert.cost import load_target
from ampconvert.graph import Graph
from ampconvert.plan import Plan, make_plan
from ampconvert.rules import LOWS, OpRule, RuleBook
from ampconvert.summary import op_errors, summarise
from tests.graphs import graph

N = 512
SIZE = N * N
WEIGHT = np.ones((N, N), np.float32)


def planned() -> tuple[Graph, Plan]:
    """Two products, a denied exponential between them, an integer branch, an operator without a
    rule.
    """
    built = graph(
        "a = matmul(x, w)",
        "e = exp(a)",
        "b = matmul(e, w)",
        "r = relu(b)",
        "k = add(i, i)",
        "u = mystery(r)",
        inputs="x i",
        outputs="u k",
        weights={"w": WEIGHT, "v": WEIGHT[:2]},
        types={"i": "int64", "k": "int64"},
    )

    def rule(cls: str, op: str, work: str = "elementwise") -> OpRule:
        return OpRule(op, dict.fromkeys(LOWS, cls), f"{op} is {cls}", aten=(op,), work=work)

    rules = (
        rule("allow", "matmul", "matmul"),
        rule("deny", "exp"),
        rule("clear", "relu"),
        rule("infer", "add"),
    )
    verdicts = classify(built, RuleBook(rules), "float16")
    return built, make_plan(built, verdicts, "float16", load_target())


def test_counts_and_shares() -> None:
    built, plan = planned()
    found = summarise(built, plan)
    assert (found.nodes, found.float_nodes) == (6, 5)
    assert [(v.name, v.nodes, v.in_low) for v in found.verdicts] == [
        ("FP16-safe", 2, 2),
        ("FP32-required", 2, 0),
        ("neutral", 1, 1),
    ]
    assert sum(v.flops_share for v in found.verdicts) == pytest.approx(1.0)
    assert found.flops == 2 * 2 * N**3 + 3 * SIZE
    assert found.flops_low_share == 1.0
    assert found.unknown_ops == ("aten::mystery",)
    assert found.predicted_error is None and found.worst == ()


def test_bytes() -> None:
    built, plan = planned()
    found = summarise(built, plan)
    assert [(c.value, c.to) for c in plan.casts] == [
        ("x", "float16"),
        ("a", "float32"),
        ("e", "float16"),
        ("r", "float32"),
    ]
    assert (found.casts, found.cast_bytes) == (4, 4 * 6 * SIZE)
    # w is read in float16 only; v is read by nobody and does not count.
    assert found.weight_bytes == (4 * SIZE, 2 * SIZE)
    before, after = found.activation_bytes
    # At its fullest: the int64 input and output, and r, which the last node has yet to read.
    assert before == (8 + 8 + 4) * SIZE
    assert after == (8 + 8 + 2) * SIZE


def test_every_rounded_tensor_counts_once() -> None:
    built, plan = planned()
    errors = {"a": 1.0, "e": 2.0, "b": 4.0, "r": 8.0, "x": 16.0, "w": 32.0, "u": 64.0, "v": 128.0}
    found = op_errors(built, plan, errors)
    # a rounds its result and the cast x; b its result, the cast e; both half of w; u and v are not
    # rounded. r is clear: what it makes is rounded already.
    assert found == {"a": 1 + 16 + 16, "b": 4 + 2 + 16, "r": 0}
    summary = summarise(built, plan, errors)
    assert summary.predicted_error == pytest.approx((1 + 2 + 4 + 16 + 32) ** 0.5)
    assert [w.node for w in summary.worst] == ["a", "b"]
    assert summary.worst[0].share == pytest.approx(33 / 55)
    assert summary.worst[0].error == pytest.approx(33**0.5)
    assert summary.worst[0].reason == "matmul is allow"


def test_an_endless_error_does_not_break_the_shares() -> None:
    built, plan = planned()
    found = summarise(built, plan, {"a": float("inf"), "b": 1.0})
    assert found.predicted_error == float("inf")
    assert found.worst[0].node == "a" and found.worst[0].share == 1.0


def test_a_model_without_floats() -> None:
    built = graph("k = add(i, i)", inputs="i", outputs="k", types={"i": "int64", "k": "int64"})
    verdicts = classify(built, RuleBook(()), "float16")
    found = summarise(built, make_plan(built, verdicts, "float16", load_target()), {})
    assert (found.float_nodes, found.flops, found.flops_low_share, found.casts) == (0, 0.0, 0.0, 0)
    assert found.predicted_error == 0.0
    assert found.unknown_ops == ()
