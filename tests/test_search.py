"""What to change in a plan: fused operators that would not load."""

from __future__ import annotations

from dataclasses import replace

from ampconvert.classify import classify
from ampconvert.cost import load_target
from ampconvert.plan import Plan, make_plan
from ampconvert.rules import LOWS, OpRule, RuleBook
from ampconvert.verify.search import loosened
from tests.graphs import graph

MESSAGE = "Type parameter (T) bound to different types in node ({}/LayerNormFusion/)."
NORM = graph(
    "h = matmul(x, w)",
    "mean = add(h, h)",
    "d = sub(h, mean)",
    "square = pow(d)",
    "root = sqrt(square)",
    "q = div(d, root)",
    "scaled = mul(q, g)",
    "y = add(scaled, b)",
    "z = matmul(y, w)",
    inputs="x g b",
    outputs="z",
    weights={"w": [[1.0]]},
)
RULES = (
    OpRule("allow", dict.fromkeys(LOWS, "allow"), "test", aten=("matmul",), work="matmul"),
    OpRule("deny", dict.fromkeys(LOWS, "deny"), "test", aten=("pow",)),
    OpRule("rest", dict.fromkeys(LOWS, "infer"), "test", nodes=("*",)),
)


def plan() -> Plan:
    """All that is not denied in float16, as where the tensors are large."""
    verdicts = classify(NORM, RuleBook(RULES), "float16")
    made = make_plan(NORM, verdicts, "float16", load_target())
    types = {name: "float32" if name == "square" else "float16" for name in made.compute}
    return replace(made, compute=types)


def test_the_parts_of_a_fused_operator_follow_the_denied_one() -> None:
    made = plan()
    found = loosened(NORM, made, MESSAGE.format("scaled"))
    assert {"d", "root", "scaled", "y"} <= set(found)
    assert {decision.cls for decision in found.values()} == {"deny"}
    assert not {"h", "z", "square"} & set(found)


def test_a_message_that_names_no_operator_changes_nothing() -> None:
    assert loosened(NORM, plan(), "out of memory") == {}
    assert loosened(NORM, plan(), MESSAGE.format("other")) == {}
