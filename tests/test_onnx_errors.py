"""Errors of rounding, measured by running: groups that do no harm, and shares of what does."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from ampconvert.frontends.onnx_errors import RUNS, rounding_errors, shared_errors

FEED = {"x": np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)}


def model(body: str, weights: str = "") -> ir.Model:
    text = f"""<ir_version: 9, opset_import: ["" : 18]>
    g (float[2,4] x) => (float[2,4] y) {weights} {{ {body} }}"""
    return ir.from_proto(onnx.parser.parse_model(text))


def test_values_too_small_to_show_do_no_harm() -> None:
    built = model("y = Add(x, tiny)", "<float[4] tiny = {3e-8, 1e-7, -2e-7, 5e-8}>")
    found = rounding_errors(built, ["tiny"], FEED, "float16", 1e-12)
    assert 0 < found["tiny"] <= 1e-12


def test_values_that_show_are_told_apart_from_those_that_do_not() -> None:
    """A factor of 1e-7 that is multiplied up again loses bits that the answer shows."""
    built = model(
        "a = Mul(x, small) b = Mul(a, large) y = Add(b, tiny)",
        "<float[4] small = {1.1e-7, 2.3e-7, 3.1e-7, 1.7e-7}, float large = {1e7},"
        " float[4] tiny = {3e-8, 1e-7, -2e-7, 5e-8}>",
    )
    found = rounding_errors(built, ["small", "a", "tiny"], FEED, "float16", 1e-12)
    assert found["small"] == found["a"] == float("inf")
    assert found["tiny"] <= 1e-12


def test_the_number_of_runs_is_limited() -> None:
    names = [f"w{i}" for i in range(64)]
    text = ", ".join(f"float[4] {n} = {{1.3, 2.7, 3.1, 4.9}}" for n in names)
    body = " ".join(
        f"v{i} = Mul({'x' if i == 0 else f'v{i - 1}'}, w{i})" for i in range(len(names) - 1)
    )
    built = model(f"{body} y = Mul(v62, w63)", f"<{text}>")
    found = rounding_errors(built, names, FEED, "float16", 0.0)
    assert set(found) == set(names)
    assert set(found.values()) == {float("inf")}
    assert len(names) > RUNS


def test_shares_follow_where_the_error_is_made() -> None:
    """A difference of nearly equal numbers: rounding them is what errs."""
    built = model(
        "a = Add(x, big) b = Sub(a, big) c = Mul(b, two) y = Mul(c, half)",
        "<float big = {1000}, float two = {2}, float half = {0.5}>",
    )
    told: list[int] = []
    names = ["a", "b", "c"]
    found = shared_errors(built, names, FEED, "float16", lambda done, total: told.append(done))
    assert found["a"] > 1e3 * max(found["b"], found["c"])
    assert told == sorted(told)


def test_an_overflow_has_no_finite_share() -> None:
    built = model("a = Mul(x, k) y = Div(a, k)", "<float k = {1e6}>")
    found = shared_errors(built, ["a"], FEED, "float16", lambda done, total: None)
    assert found["a"] == float("inf")
