"""Evidence: rules, ranges, weights, constants, masks, the user's word and operands that must be
exact.
"""

from __future__ import annotations

import cProfile
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ampconvert.classify import HEADROOM, Verdicts, classify, weight_range
from ampconvert.graph import Graph, Value
from ampconvert.ranges.calibrate import Range
from ampconvert.rules import LOWS, OpRule, RuleBook
from tests.graphs import graph

LOWEST = float(np.finfo(np.float32).min)


def rule(cls: str, *ops: str, **more: Any) -> OpRule:
    return OpRule(
        f"{cls}-{'-'.join(ops)}", dict.fromkeys(LOWS, cls), f"reason of {ops}", aten=ops, **more
    )


RULES = (
    rule("allow", "matmul"),
    rule("deny", "exp"),
    rule("infer", "mul", "sub", "full"),
    rule("infer", "add", "masked_fill", "where", "expand", mask="carry"),
    rule("infer", "softmax", mask="absorb"),
    rule("allow", "sdpa", mask="absorb:attn_mask"),
    rule("deny", "cos", exact_inputs=True, mask=""),
    rule("clear", "gather", "transpose"),
    rule("allow", "resize", keep_inputs=("scales",)),
)


def verdicts(
    built: Graph, low: Any = "float16", ranges: Any = None, extra: tuple[OpRule, ...] = ()
) -> Verdicts:
    return classify(built, RuleBook((*extra, *RULES)), low, ranges)


def seen(low: float, high: float, unmasked: float | None = None) -> Range:
    largest = max(-low, high)
    return Range(low, high, largest if unmasked is None else unmasked, largest, elements=9)


def test_rules_give_the_class_and_unknown_is_denied() -> None:
    found = verdicts(graph("a = matmul(x, x)", "b = mystery(a)", outputs="b")).decisions
    assert (found["a"].cls, found["a"].evidence) == ("allow", "rule")
    assert found["b"].cls == "deny" and found["b"].unknown


@pytest.mark.parametrize(
    ("low", "largest", "denied"),
    [
        ("float16", 70000.0, True),
        ("float16", 65519.0 / HEADROOM, False),
        ("float16", 65521.0 / HEADROOM, True),
        ("bfloat16", 1e30, False),
        ("bfloat16", 3.4e38, True),
    ],
)
def test_a_range_seen_denies_who_makes_and_who_reads_it(
    low: str, largest: float, denied: bool
) -> None:
    built = graph("a = matmul(x, x)", "b = mul(a, a)", "c = matmul(x, x)", outputs="b c")
    found = verdicts(built, low, {"a": seen(-largest, 1.0), "c": seen(-1.0, 1.0)}).decisions
    assert [found[n].cls == "deny" for n in "abc"] == [denied, denied, False]
    if denied:
        assert found["a"].evidence == "seen" and found["a"].figure == largest
        assert f"{largest:.4g}" in found["a"].reason


def test_an_operand_that_stays_float32_may_be_large() -> None:
    built = graph("y = resize(x, s)", inputs="x s", outputs="y", operands={"y": "self scales"})
    assert verdicts(built, ranges={"s": seen(0, 1e6)}).decisions["y"].cls == "allow"
    assert verdicts(built, ranges={"x": seen(0, 1e6)}).decisions["y"].cls == "deny"


def test_a_weight_beyond_range_is_denied_and_needs_no_headroom() -> None:
    def with_weight(largest: float) -> Any:
        built = graph("a = matmul(x, w)", outputs="a", weights={"w": np.array([1.0, largest])})
        return verdicts(built).decisions["a"]

    assert with_weight(60000.0).cls == "allow"
    assert with_weight(1e5).cls == "deny"
    assert with_weight(1e5).rule == "weight-range"
    assert with_weight(-np.inf).cls == "allow"  # a mask


def test_values_that_are_all_subnormal_are_denied_unless_only_moved() -> None:
    built = graph("a = mul(x, x)", "b = transpose(a)", outputs="b")
    found = verdicts(built, ranges={"a": seen(-1e-6, 1e-6), "b": seen(-1e-6, 1e-6)}).decisions
    assert (found["a"].cls, found["a"].rule) == ("deny", "subnormal")
    assert found["b"].cls == "clear"
    zeros = Range(0.0, 0.0, 0.0, elements=4)
    assert verdicts(built, ranges={"a": zeros, "b": zeros}).decisions["a"].cls == "infer"


def test_a_constant_beyond_range_is_denied() -> None:
    built = graph(
        "a = mul(x; other=1e6)",
        "b = mul(x; other=100.0)",
        "c = mul(x; dim=100000)",
        outputs="a b c",
    )
    found = verdicts(built).decisions
    assert [found[n].cls for n in "abc"] == ["deny", "infer", "infer"]
    assert found["a"].rule == "constant-range" and found["a"].figure == 1e6
    assert verdicts(built, "bfloat16").decisions["a"].cls == "infer"


MASKS = {
    "masked_fill": ["s = matmul(x, x)", f"m = masked_fill(s, b; value={LOWEST})", "y = softmax(m)"],
    "-1e9": ["s = matmul(x, x)", "m = masked_fill(s, b; value=-1e9)", "y = softmax(m)"],
    "full and add": [
        f"m = full(; fill_value={LOWEST})",
        "s = matmul(x, x)",
        "t = add(s, m)",
        "y = softmax(t)",
    ],
    "where": [
        f"m = full(; fill_value={LOWEST})",
        "s = matmul(x, x)",
        "t = where(b, m, s)",
        "y = softmax(t)",
    ],
    "expand to attention": [
        f"m = full(; fill_value={LOWEST})",
        "e = expand(m)",
        "y = sdpa(x, x, x, e)",
    ],
}


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("calls", MASKS.values(), ids=list(MASKS))
def test_masks_are_replaced(calls: list[str], low: str) -> None:
    built = graph(
        *calls,
        inputs="x b",
        outputs="y",
        types={"b": "bool"},
        operands={"y": "query key value attn_mask"} if "sdpa" in calls[-1] else {},
    )
    lowest = -1e9 if "-1e9" in calls[1] else LOWEST
    found = verdicts(built, low, {"m": Range(lowest, 1.0, 1.0, 0.1, elements=9)})
    if low == "bfloat16" and "-1e9" in calls[1]:
        assert not found.scalars  # bfloat16 holds it
    else:
        (new,) = found.scalars["m"].values()
        assert new == {"float16": -32752.0}.get(low, pytest.approx(-1.69e38, rel=0.01))
    assert all(d.cls != "deny" for d in found.decisions.values()), found.decisions


@pytest.mark.parametrize(
    ("last", "outputs"),
    [
        (["z = mul(m, m)"], "y z"),
        ([], "y m"),
        (["z = matmul(m, x)"], "y z"),
    ],
    ids=["multiplied", "returned", "in a product"],
)
def test_a_mask_with_another_use_is_none(last: list[str], outputs: str) -> None:
    calls = [f"m = masked_fill(x, b; value={LOWEST})", "y = softmax(m)", *last]
    found = verdicts(graph(*calls, inputs="x b", outputs=outputs, types={"b": "bool"}))
    assert not found.scalars
    assert found.decisions["m"].rule == "constant-range"


def test_a_large_constant_that_nobody_absorbs_is_no_mask() -> None:
    built = graph("m = add(x; other=-1e9)", "y = transpose(m)", outputs="y")
    found = verdicts(built)
    assert not found.scalars and found.decisions["m"].cls == "deny"


def test_infinite_masks_are_left_alone() -> None:
    built = graph(
        "m = masked_fill(x, b; value=-1e400)",
        "y = softmax(m)",
        inputs="x b",
        outputs="y",
        types={"b": "bool"},
    )
    found = verdicts(built, ranges={"m": Range(-3.0, 3.0, 3.0, 0.1, has_inf=True, elements=9)})
    assert not found.scalars and not found.masks
    assert found.decisions["m"].cls == "infer"


def test_masks_from_outside_are_limited() -> None:
    built = graph(
        "t = add(x, m)",
        "u = add(t, w)",
        "y = softmax(u)",
        inputs="x m",
        outputs="y",
        weights={"w": np.array([0.0, LOWEST])},
    )
    mask = Range(LOWEST, 0.0, 0.0, 3.4e38, elements=9)
    summed = Range(LOWEST, 4.0, 4.0, 0.1, elements=9)
    found = verdicts(built, ranges={"m": mask, "t": summed, "u": summed})
    assert found.masks == {"m", "w"}
    assert all(d.cls != "deny" for d in found.decisions.values())


def test_a_mask_does_not_hide_a_real_overflow() -> None:
    """Beside the masked elements the scores themselves are too large."""
    built = graph("s = matmul(x, x)", "t = add(s, m)", "y = softmax(t)", inputs="x m", outputs="y")
    mask, high = (
        Range(LOWEST, 0.0, 0.0, 3.4e38, elements=9),
        Range(LOWEST, 9e4, 9e4, 0.1, elements=9),
    )
    found = verdicts(built, ranges={"m": mask, "s": seen(0, 9e4), "t": high})
    assert found.decisions["t"].cls == "deny"


def test_the_users_word_stands() -> None:
    mine = (rule("allow", "exp", user=True), rule("deny", "matmul", user=True))
    built = graph("a = exp(x)", "b = matmul(a, a)", outputs="b")
    found = verdicts(built, ranges={"a": seen(0, 1e9)}, extra=mine).decisions
    assert (found["a"].cls, found["a"].evidence) == ("allow", "user")
    assert (found["b"].cls, found["b"].evidence) == ("deny", "user")


def test_a_users_rule_keeps_what_is_known_of_the_operator() -> None:
    """It gives the class; masks, operands and cost are still the built-in rule's."""
    mine = (rule("deny", "softmax", user=True), rule("allow", "resize", user=True))
    built = graph(
        f"m = masked_fill(x, b; value={LOWEST})",
        "y = softmax(m)",
        "z = resize(x, x)",
        inputs="x b",
        outputs="y z",
        types={"b": "bool"},
        operands={"z": "self scales"},
    )
    found = verdicts(built, extra=mine)
    assert found.scalars and found.decisions["y"].cls == "deny"
    assert found.decisions["z"].keep == (1,)


def test_exact_operands_are_followed_to_where_activations_begin() -> None:
    """The angles come from positions and a table; the values that they turn are no angles."""
    built = graph(
        "p = mul(i, w)",
        "q = matmul(p, w)",
        "r = transpose(q)",
        "e = exp(r)",
        "a = mul(e, e)",
        "c = cos(a)",
        "h = matmul(x, x)",
        "y = mul(h, c)",
        inputs="x i",
        outputs="y",
        weights={"w": np.ones((4, 4))},
        types={"i": "int64"},
    )
    found = verdicts(built).decisions
    assert [found[n].rule for n in "pqra"] == [
        "exact-operand"
    ] * 4  # through exp, which is denied anyway
    assert [found[n].cls for n in "hy"] == ["allow", "infer"]
    assert "cos" in found["q"].reason


def test_angles_made_of_activations_were_never_exact() -> None:
    built = graph(
        "h = matmul(x, w)",
        "a = mul(h, h)",
        "y = cos(a)",
        outputs="y",
        weights={"w": np.ones((4, 4))},
    )
    found = verdicts(built).decisions
    assert (found["a"].rule, found["h"].cls) == ("exact-operand", "allow")


def test_a_type_that_is_fixed_is_denied() -> None:
    from dataclasses import replace

    built = graph("a = matmul(x, x)", outputs="a")
    bound = Graph(
        (replace(built.nodes[0], bound="made so"),), built.values, built.inputs, built.outputs
    )
    assert (verdicts(bound).decisions["a"].cls, verdicts(bound).decisions["a"].reason) == (
        "deny",
        "made so",
    )


def test_weight_range_equals_numpy() -> None:
    data = np.array([0.0, -3.0, 2.5e-5, -np.inf, 7.0, -20000.0], np.float32)
    found = weight_range(Value("w", "float32", data.shape, "weight", lambda: data))
    assert (found.minimum, found.maximum) == (-20000.0, 7.0)
    assert found.unmasked == 7.0 and found.tiny == np.float32(2.5e-5)
    assert found.has_inf and not found.has_nan and found.elements == 6
    empty = Value("w", "float32", (0,), "weight", lambda: np.empty(0, np.float32))
    assert weight_range(empty) == Range()


def test_work_grows_with_the_graph_and_not_with_its_square() -> None:
    """Every layer masks the same way; the cones of one mask must not be walked for each node.

    Function calls are counted, which no other load on the machine changes.
    """

    def layers(count: int) -> Graph:
        calls = [f"m = full(; fill_value={LOWEST})"]
        for i in range(count):
            calls += [
                f"s{i} = matmul({f'y{i - 1}' if i else 'x'}, x)",
                f"t{i} = add(s{i}, m)",
                f"y{i} = softmax(t{i})",
            ]
        return graph(*calls, outputs=f"y{count - 1}")

    def calls(count: int) -> int:
        built = layers(count)
        _ = built.readers, built.producers
        profile = cProfile.Profile()
        profile.runcall(verdicts, built)
        return sum(entry.callcount for entry in profile.getstats())

    calls(10)
    assert calls(800) < 9 * calls(100)


def test_an_operand_is_kept_only_where_the_format_lets_it_differ() -> None:
    """BatchNormalization's scale has the type of its data up to opset 14, its own from 15 on."""
    built = graph("y = resize(x, s)", inputs="x s", outputs="y", operands={"y": "data scales"})
    (node,) = built.nodes
    for types, keep in {("T", "T1"): (1,), ("T", "T"): ()}.items():
        typed = replace(node, input_types=types, output_types=("T",))
        found = classify(replace(built, nodes=(typed,)), RuleBook(RULES), "float16")
        assert found.decisions["y"].keep == keep
    fixed = replace(node, fixed_inputs=(1,), input_types=("T", ""), output_types=("T",))
    found = classify(replace(built, nodes=(fixed,)), RuleBook(RULES), "float16")
    assert found.decisions["y"].keep == (1,)


def test_a_denied_node_denies_what_it_is_tied_to() -> None:
    built = graph("a = matmul(x, x)", "b = exp(a)", "c = mul(x, x)", outputs="b c")
    found = classify(replace(built, ties=(("b", "c"),)), RuleBook(RULES), "float16").decisions
    assert (found["c"].cls, found["c"].rule) == ("deny", "same-type")
    assert "b" in found["c"].reason
    assert found["a"].cls == "allow"
