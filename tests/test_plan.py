"""Plans: shared casts, islands, operands that stay, weights in the types they are read in, and
JSON.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ampconvert.classify import classify
from ampconvert.cost import load_target
from ampconvert.graph import Graph
from ampconvert.plan import (
    OUTPUT,
    Cast,
    Plan,
    describe_counts,
    fingerprint,
    from_dict,
    make_plan,
    to_dict,
)
from ampconvert.rules import LOWS, OpRule, RuleBook
from tests.graphs import graph

WEIGHT = np.ones((512, 512), np.float32)


def rule(cls: str, *ops: str, **more: Any) -> OpRule:
    return OpRule(f"{cls}-{'-'.join(ops)}", dict.fromkeys(LOWS, cls), "test", aten=ops, **more)


RULES = (
    rule("allow", "matmul", work="matmul"),
    rule("deny", "exp", "log"),
    rule("deny", "resize_deny", keep_inputs=("scales",)),
    rule("allow", "resize", keep_inputs=("scales",)),
    rule("infer", "add", "mul", "split"),
    rule("clear", "relu", "view", work="view"),
)


def plan(built: Graph, low: Any = "float16", **more: Any) -> Plan:
    verdicts = classify(built, RuleBook(RULES), low)
    return make_plan(built, verdicts, low, load_target(), **more)


def test_readers_share_one_cast_per_value_and_type() -> None:
    built = graph(
        "a = matmul(x, x)",
        "b = matmul(x, w)",
        "c = exp(a)",
        "d = log(a)",
        "e = add(c, d)",
        outputs="b e",
        weights={"w": WEIGHT},
    )
    made = plan(built)
    keys = [(cast.value, cast.to) for cast in made.casts]
    assert len(keys) == len(set(keys))
    down = next(cast for cast in made.casts if cast.value == "x")
    assert down == Cast("x", "float16", (("a", 0), ("a", 1), ("b", 0)))
    up = next(cast for cast in made.casts if cast.value == "a")
    assert up == Cast("a", "float32", (("c", 0), ("d", 0)))
    assert [made.compute[n] for n in "abcde"] == ["float16"] * 2 + ["float32"] * 3


def test_denied_neighbours_form_one_island() -> None:
    """A cheap neutral op between two denied ones joins them: nothing between them is rounded."""
    built = graph(
        "a = matmul(x, w)",
        "b = exp(a)",
        "c = mul(b, b)",
        "d = relu(c)",
        "e = log(d)",
        "f = matmul(e, w)",
        outputs="f",
        weights={"w": WEIGHT},
    )
    made = plan(built)
    assert [made.compute[n] for n in "abcdef"] == ["float16", *["float32"] * 4, "float16"]
    assert [(c.value, c.to) for c in made.casts] == [
        ("x", "float16"),
        ("a", "float32"),
        ("e", "float16"),
        ("f", "float32"),
    ]


def test_neutral_ops_between_products_run_low() -> None:
    built = graph(
        "a = matmul(x, w)",
        "b = mul(a, a)",
        "c = relu(b)",
        "d = matmul(c, w)",
        outputs="d",
        weights={"w": WEIGHT},
    )
    made = plan(built)
    assert set(made.compute.values()) == {"float16"}
    assert [(c.value, c.to, c.readers) for c in made.casts] == [
        ("x", "float16", (("a", 0),)),
        ("d", "float32", ((OUTPUT, 0),)),
    ]


def test_operands_that_must_stay_keep_float32() -> None:
    built = graph(
        "s = matmul(x, w)",
        "y = resize(s, s)",
        outputs="y",
        weights={"w": WEIGHT},
        operands={"y": "self scales"},
    )
    made = plan(built)
    assert made.type_at("y", 0) == "float16"
    assert made.type_at("y", 1) == "float32"
    assert Cast("s", "float32", (("y", 1),)) in made.casts


@pytest.mark.parametrize(
    ("calls", "outputs", "types"),
    [
        (["a = matmul(x, w)"], "a", ("float16",)),
        (["a = exp(w)"], "a", ("float32",)),
        (["a = matmul(x, w)", "b = exp(w)"], "a b", ("float32", "float16")),
        (["a = matmul(x, x)"], "a w", ("float32",)),
        (["a = matmul(x, x)"], "a", ("float32",)),  # read by nobody: left as it is
    ],
)
def test_weights_are_kept_in_the_types_they_are_read_in(
    calls: list[str], outputs: str, types: tuple[str, ...]
) -> None:
    made = plan(graph(*calls, outputs=outputs, weights={"w": WEIGHT}))
    assert made.weights["w"] == types
    assert not any(cast.value == "w" for cast in made.casts)


def test_an_output_that_is_also_read_inside() -> None:
    built = graph("a = matmul(x, w)", "b = matmul(a, w)", outputs="a b x a", weights={"w": WEIGHT})
    made = plan(built)
    assert Cast("a", "float32", ((OUTPUT, 0), (OUTPUT, 3))) in made.casts
    assert made.type_at("b", 0) == "float16"
    assert not any(c.value == "x" and c.to == "float32" for c in made.casts)


def test_only_float32_is_planned() -> None:
    built = graph(
        "a = matmul(x, x)",
        "b = add(i, i)",
        "c = add(z, z)",
        inputs="x i z",
        outputs="a b c",
        types={"i": "int64", "b": "int64", "z": "float64", "c": "float64"},
    )
    made = plan(built)
    assert set(made.compute) == {"a"}
    assert {cast.value for cast in made.casts} == {"x", "a"}


def test_priced_error_keeps_even_allowed_nodes_in_float32() -> None:
    """Fifteen products gain more time than two casts cost; what may not be rounded is then read in
    float32 as well.
    """
    calls = ["y0 = matmul(x, w)", *(f"y{i} = matmul(y{i - 1}, w)" for i in range(1, 15))]
    built = graph(*calls, outputs="y14", weights={"w": WEIGHT})
    error = {"y0": 1.0}
    assert set(plan(built, errors=error).compute.values()) == {"float16"}
    priced = plan(built, errors=error, penalty=1e-3)
    assert [n for n, t in priced.compute.items() if t == "float32"] == ["y0", "y1"]


def test_an_unknown_operator_stays_and_is_counted() -> None:
    built = graph("a = mystery(x)", "b = matmul(a, a)", outputs="b")
    made = plan(built)
    assert made.compute["a"] == "float32"
    assert made.decisions["a"].unknown
    assert describe_counts(made) == {"safe": 1, "required": 1, "neutral": 0}


def sample() -> Graph:
    return graph(
        "a = matmul(x, w)",
        "m = add(a, x; other=-1e9)",
        "b = exp(m)",
        "c = resize(b, b)",
        outputs="a c",
        weights={"w": WEIGHT, "v": np.full((2, 2), 1e6)},
        operands={"c": "self scales"},
    )


@pytest.mark.parametrize("low", LOWS)
def test_json_gives_an_equal_plan(low: str) -> None:
    made = plan(sample(), low)
    again = from_dict(json.loads(json.dumps(to_dict(made))))
    assert again == made
    assert again.type_at("c", 1) == "float32"


def damage(key: str, value: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(to_dict(plan(sample()))))
    if value is None:
        del data[key]
    else:
        data[key] = value
    return data


@pytest.mark.parametrize(
    "data",
    [
        *(damage(key, None) for key in to_dict(plan(sample()))),
        damage("schema", 2),
        damage("low", "float8"),
        damage("nodes", []),
        damage("nodes", {"a": {"compute": "float16"}}),
        damage("nodes", {"a": {"cls": "allow", "nonsense": 1}}),
        damage("casts", [{"value": "x"}]),
        damage("casts", [{"value": "x", "to": "float16", "readers": [1], "clamp": False}]),
        damage("weights", ["w"]),
        damage("weights", {"w": 3}),
        damage("scalars", {"m": 5}),
        damage("masks", 7),
        [],
        None,
        "plan",
    ],
    ids=lambda data: str(data)[:40],
)
def test_damaged_json_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="plan"):
        from_dict(data)


def test_fingerprint_tells_models_apart() -> None:
    one = graph("a = matmul(x, x)", "b = exp(a)", outputs="b")
    other = graph("a = matmul(x, x)", "b = log(a)", outputs="b")
    rewired = graph("a = matmul(x, x)", "b = exp(x)", outputs="b")
    again = graph("a = matmul(x, x)", "b = exp(a)", outputs="b")
    assert fingerprint(one) == fingerprint(again) == plan(one).fingerprint
    assert len({fingerprint(g) for g in (one, other, rewired)}) == 3


def test_inputs_and_outputs_that_are_low_outside_need_no_cast() -> None:
    built = graph("y = matmul(x, w)", "z = matmul(u, w)", inputs="x u", outputs="y z",
                  weights={"w": WEIGHT})  # fmt: skip
    found = plan(built, io=frozenset({"x", "z"}))
    assert {(c.value, c.to) for c in found.casts} == {("u", "float16"), ("y", "float32")}
    assert from_dict(json.loads(json.dumps(to_dict(found)))) == found
    assert found.type_of(built, "x") == "float16"
    assert found.type_of(built, "u") == "float32"


def test_an_output_that_is_low_outside_is_cast_where_its_maker_is_denied() -> None:
    built = graph("y = exp(x)", outputs="y")
    found = plan(built, io=frozenset({"x", "y"}))
    assert set(found.casts) == {
        Cast("x", "float32", (("y", 0),)),
        Cast("y", "float16", ((OUTPUT, 0),)),
    }


def test_a_fixed_result_stays_float32_in_a_low_node() -> None:
    """Such as the mean that a normalisation gives besides its result."""
    calls = ("a = matmul(x, w)", "y, mean = split(a)", "z = matmul(y, w)")
    built = graph(*calls, outputs="z mean", weights={"w": WEIGHT})
    nodes = tuple(replace(n, fixed_outputs=(1,)) if n.name == "y" else n for n in built.nodes)
    found = plan(replace(built, nodes=nodes))
    assert found.compute["y"] == "float16"
    assert {(c.value, c.to) for c in found.casts} == {("x", "float16"), ("z", "float32")}


def test_tied_nodes_run_in_one_type() -> None:
    """A loop's state: what enters and what leaves a turn."""
    calls = ("s = relu(x)", "a = matmul(s, w)", "b = exp(a)", "t = relu(b)")
    built = graph(*calls, outputs="t", weights={"w": WEIGHT})
    assert plan(built).compute["s"] == "float16"
    assert plan(replace(built, ties=(("s", "t"),))).compute["s"] == "float32"
