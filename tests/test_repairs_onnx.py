"""Repairs of ONNX models: float32 answers the same, and the emulated low model better."""

from __future__ import annotations

import math
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ampconvert.dtypes import Low
from ampconvert.frontends import onnx_repair_bias
from ampconvert.repairs import Repair, find_all
from ampconvert.repairs.correct_bias import correctable
from ampconvert.repairs.find import KINDS, find
from tests.repaired import Onnx
from tests.text_graphs import model_of_text

# Opset 18 has the axes of ReduceMean as an operand, opset 13 as an attribute.
NORMS = {
    "rms": ("""g (float[B,32] x) => (float[B,32] y)
        <float c = {700.0}, float two = {2.0}, float eps = {1e-6}, float one = {1.0}> {
            h = Mul(x, c)
            s = Pow(h, two)
            MEAN(m, s)
            a = Add(m, eps)
            r = Sqrt(a)
            i = Div(one, r)
            y = Mul(i, h)
        }""", "s m"),
    "layer norm": ("""g (float[B,32] x) => (float[B,32] y)
        <float c = {700.0}, float eps = {1e-5}> {
            h = Mul(x, c)
            MEAN(m, h)
            d = Sub(h, m)
            s = Mul(d, d)
            MEAN(v, s)
            a = Add(eps, v)
            r = Sqrt(a)
            y = Div(d, r)
        }""", "s v"),
    "norm": ("""g (float[B,32] x) => (float[B,32] y, float[B,1] n)
        <float c = {700.0}, float least = {1e-12}, float four = {4.0}, int64[1] last = {-1}> {
            h = Mul(x, c)
            s = Mul(h, h)
            t = ReduceSum(s, last)
            r = Sqrt(t)
            q = Max(r, least)
            y = Div(h, q)
            n = Mul(r, four)
        }""", "s t"),
    "tiny": ("""g (float[B,32] x) => (float[B,32] y)
        <float c = {1e-3}, float two = {2.0}, float eps = {1e-9}> {
            h = Mul(x, c)
            s = Pow(h, two)
            MEAN(m, s)
            a = Add(m, eps)
            r = Sqrt(a)
            y = Div(h, r)
        }""", "s m"),
}  # fmt: skip
VARIANCE = """g (float[B,32] x) => (float[B,1] y) {
    s = Mul(x, x)
    MEAN(a, s)
    MEAN(m, x)
    q = Mul(m, m)
    y = Sub(a, q)
}"""
ATTENTION = """g (float[B,8,80] q, float[B,8,80] k, float[8,8] mask) => (float[B,8,8] p)
    <float s = {FACTOR}, float small = {1e-3}> {
    t = Transpose<perm = [0, 2, 1]>(k)
    scores = MatMul(q, t)
    scaled = OP(scores, s)
    masked = Add(scaled, mask)
    cool = Mul(masked, small)
    p = Softmax(cool)
}"""
LOGARITHMS = """g (float[B,16] x) => (float[B,16] y, float[B,16] z) <float c = {5.0}> {
    h = Mul(x, c)
    p = Softmax(h)
    y = Log(p)
    s = Sigmoid(h)
    z = Log(s)
}"""


def norm(name: str, opset: int = 18) -> Onnx:
    text, _ = NORMS[name]
    return of_text(text, {"x": random(4, 32)}, opset)


def of_text(text: str, feed: dict[str, np.ndarray], opset: int = 18) -> Onnx:
    lines = []
    for line in text.splitlines():
        if "MEAN(" in line:
            made, read = line.strip().removeprefix("MEAN(").removesuffix(")").split(", ")
            made, read = made.strip(), read.strip()
            given = f"({read}, lastaxis)" if opset >= 18 else f"<axes = [-1]>({read})"
            line = f"{made} = ReduceMean{given}"
        lines.append(line)
    text = "\n".join(lines)
    if "lastaxis" in text:
        head, brace, body = text.partition("{\n" if "<" not in text.split("=>")[1] else "<")
        text = (
            f"{head}<int64[1] lastaxis = {{-1}}, {body}" if brace == "<"
            else f"{head}<int64[1] lastaxis = {{-1}}> {{\n{body}"
        )  # fmt: skip
    return Onnx(ir.from_proto(model_of_text(text, opset)), feed)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def found(model: Onnx, kind: str, low: str = "float16") -> tuple[Repair, ...]:
    return find(kind, model.graph, low, model.ranges())  # type: ignore[arg-type]


def allowed(repairs: tuple[Repair, ...]) -> list[str]:
    return [name for repair in repairs for name in repair.allows]


def nodes_of(repairs: tuple[Repair, ...]) -> list[str]:
    return [name for repair in repairs for name in repair.nodes]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", NORMS)
def test_squares_are_scaled(name: str, opset: int) -> None:
    model = norm(name, opset)
    repairs = found(model, "scale-squares")
    assert len(repairs) == 1
    squares = [model.graph.producers[value].name for value in NORMS[name][1].split()]
    assert list(repairs[0].nodes) == squares
    repaired = model.repaired(repairs)
    expected = model.answers()
    for before, after in zip(expected, repaired.answers(), strict=True):
        np.testing.assert_array_equal(after, before)
    wrong = model.emulated("float16", expected, nodes_of(repairs))
    right = repaired.emulated("float16", expected, allowed(repairs), ranges=repaired.ranges())
    assert set(allowed(repairs)) <= right.low
    assert right.error < 2e-3
    assert wrong.error > 2 * right.error
    assert not found(repaired, "scale-squares")


def test_norms_in_the_body_of_a_loop_are_scaled() -> None:
    text = """g (int64 n, bool c, float[4,8] x) => (float[4,8] y)
        <float b = {500.0}, int64[1] last = {-1}> {
        h = Mul(x, b)
        y = Loop(n, c, h) <body = inner
        (int64 i, bool go, float[4,8] s) => (bool on, float[4,8] t) {
            on = Identity(go)
            q = Mul(s, s)
            m = ReduceMean(q, last)
            r = Sqrt(m)
            u = Div(s, r)
            t = Mul(u, b)
        }>
    }"""
    feed = {"n": np.array(3), "c": np.array(True), "x": random(4, 8)}
    model = Onnx(ir.from_proto(model_of_text(text)), feed)
    state = next(v for v in model.graph.values.values() if v.name.endswith("s")).name
    seen = dict(model.ranges())
    body = {"q": 4e6, "m": 2e6}
    from ampconvert.ranges.calibrate import Range

    seen[state] = Range(-2000.0, 2000.0, 2000.0, 1.0, elements=32)
    for value, largest in body.items():
        seen[value] = Range(0.0, largest, largest, 1e4, elements=32)
    repairs = find("scale-squares", model.graph, "float16", seen)
    assert len(repairs) == 1
    repaired = model.repaired(repairs)
    np.testing.assert_array_equal(repaired.answers()[0], model.answers()[0])
    wrong = model.emulated("float16", model.answers(), nodes_of(repairs))
    right = repaired.emulated("float16", model.answers(), allowed(repairs))
    assert right.error < 2e-3 < wrong.error


@pytest.mark.parametrize("opset", [13, 18])
def test_a_variance_takes_two_passes(opset: int) -> None:
    x = random(4, 32) + 60
    model = of_text(VARIANCE, {"x": x}, opset)
    repairs = found(model, "two-pass-variance")
    assert len(repairs) == 1
    repaired = model.repaired(repairs)
    exact = [x.astype(np.float64).var(-1, keepdims=True)]
    np.testing.assert_allclose(repaired.answers()[0], exact[0], rtol=1e-5)
    every = [node.name for node in model.graph.nodes]
    wrong = model.emulated("bfloat16", exact, every)
    every = [node.name for node in repaired.graph.nodes]
    right = repaired.emulated("bfloat16", exact, every)
    assert right.error < wrong.error / 2
    assert not found(repaired, "two-pass-variance")


@pytest.mark.parametrize(("op", "factor"), [("Div", 8.9442), ("Mul", 0.1), ("Mul", 0.0625)])
def test_the_query_is_scaled(op: str, factor: float) -> None:
    text = ATTENTION.replace("OP", op).replace("FACTOR", str(factor))
    mask = np.triu(np.full((8, 8), -1e9, np.float32), 1)
    feed = {"q": random(2, 8, 80) * 80, "k": random(2, 8, 80, seed=1) * 80, "mask": mask}
    model = of_text(text, feed)
    repairs = found(model, "scale-query")
    assert len(repairs) == 1
    repaired = model.repaired(repairs)
    expected = model.answers()
    np.testing.assert_array_equal(repaired.answers()[0], expected[0])
    wrong = model.emulated("float16", expected, nodes_of(repairs)[:1])
    right = repaired.emulated("float16", expected, allowed(repairs), ranges=repaired.ranges())
    assert set(allowed(repairs)) <= right.low
    assert right.error < 3e-2
    assert wrong.error > 4 * right.error
    assert not found(repaired, "scale-query")
    ops = [node.op for node in repaired.graph.nodes]
    assert len(ops) == len(model.graph.nodes) + (factor != 0.0625)


@pytest.mark.parametrize("opset", [11, 18])
def test_logarithms_of_probabilities_are_taken_together(opset: int) -> None:
    model = of_text(LOGARITHMS, {"x": random(4, 16)}, opset)
    repairs = found(model, "log-softmax")
    assert len(repairs) == 2
    repaired = model.repaired(repairs)
    expected = model.answers()
    for before, after in zip(expected, repaired.answers(), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    assert math.isinf(model.emulated("float16", expected, nodes_of(repairs)).error)
    right = repaired.emulated("float16", expected, allowed(repairs), ranges=repaired.ranges())
    assert right.error < 5e-3
    assert not found(repaired, "log-softmax")


def layers(form: str, scale: np.ndarray | float, shift: float = 0.0) -> Onnx:
    """One layer with a weight, in one of ONNX's forms, and inputs around `shift`."""
    weight, bias = random(24, 16) * scale, random(24, seed=1)
    shape, made = "B,24", {
        "gemm": "y = Gemm<transB = 1>(x, w, b)",
        "gemm not transposed": "y = Gemm(x, w, b)",
        "gemm bare": "y = Gemm<transB = 1>(x, w)",
        "matmul": "p = MatMul(x, w)\n y = Add(p, b)",
        "matmul bare": "y = MatMul(x, w)",
        "conv": "y = Conv<kernel_shape = [3], pads = [1, 1]>(x, w, b)",
        "conv bare": "y = Conv<kernel_shape = [3], pads = [1, 1]>(x, w)",
        "transposed": "y = ConvTranspose<kernel_shape = [3], pads = [1, 1]>(x, w, b)",
    }[form]  # fmt: skip
    given = "B,16"
    if form.startswith(("matmul", "gemm not")):
        weight = weight.T
    if form.startswith(("conv", "transposed")):
        weight = random(24, 16, 3) * (scale[:, :, None] if isinstance(scale, np.ndarray) else scale)
        shape, given = "B,24,N", "B,16,N"
        weight = weight.swapaxes(0, 1) if form == "transposed" else weight
    proto = model_of_text(f"g (float[{given}] x) => (float[{shape}] y) {{ {made} }}")
    for name, data in (("w", weight), ("b", bias * float(np.mean(scale)))):
        if name in re.findall(r"\w+", made):
            stored = np.ascontiguousarray(data, np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(stored, name))
    model = ir.from_proto(proto)
    feed = random(32, 16, seed=2) if given == "B,16" else random(8, 16, 9, seed=2)
    return Onnx(model, {"x": np.maximum(feed + shift, 0) if shift else feed})


FORMS = ["gemm", "gemm not transposed", "gemm bare", "matmul", "matmul bare", "conv", "conv bare",
         "transposed"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_small_weights_are_scaled(form: str) -> None:
    rows = np.logspace(-6, -1, 24)[:, None]
    model = layers(form, rows)
    repairs = found(model, "scale-weights")
    assert len(repairs) == 1
    repaired = model.repaired(repairs)
    expected = model.answers()
    np.testing.assert_array_equal(repaired.answers()[0], expected[0])
    graph = repaired.graph
    weight = graph.values["w"].const
    assert weight is not None
    stored = weight()
    low = stored.astype(np.float16).astype(np.float32)
    assert np.abs(low - stored).max() <= np.abs(stored).max() * 2.0**-11
    assert set(allowed(repairs)) <= {node.name for node in graph.nodes}
    repaired.emulated("float16", expected, allowed(repairs))
    assert not found(repaired, "scale-weights")


def test_weights_beyond_float16_are_scaled_into_it() -> None:
    model = layers("gemm", 1e5)
    model = Onnx(model.model, {"x": model.feed["x"] * np.float32(1e-3)})
    repairs = found(model, "scale-weights")
    repaired = model.repaired(repairs)
    expected = model.answers()
    np.testing.assert_array_equal(repaired.answers()[0], expected[0])
    assert math.isinf(model.emulated("float16", expected, nodes_of(repairs)).error)
    right = repaired.emulated("float16", expected, allowed(repairs), ranges=repaired.ranges())
    assert right.error < 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_biases_are_corrected_on_data_not_seen(form: str) -> None:
    model = layers(form, 1.0, shift=4.0)
    low: Low = "float16" if form.startswith(("conv", "transposed")) else "bfloat16"
    channels = correctable(model.graph, low)
    assert len(channels) == 1
    halves = np.split(model.feed["x"], 2)
    seen = onnx_repair_bias.output_errors(
        model.model, [{"x": halves[0][::2]}, {"x": halves[0][1::2]}], low, channels
    )
    repairs = find_all(model.graph, low, {}, errors=seen)
    assert [repair.kind for repair in repairs] == ["correct-bias"]
    model = Onnx(model.model, {"x": halves[1]})
    repaired = model.repaired(repairs)
    expected = model.answers()
    every = [node.name for node in model.graph.nodes]
    before = model.emulated(low, expected, every)
    every = [node.name for node in repaired.graph.nodes]
    after = repaired.emulated(low, expected, every)
    assert after.error < before.error
    assert not correctable(repaired.graph, low).keys() & set(nodes_of(repairs))


def test_repairs_of_every_kind_are_made_together() -> None:
    text = """g (float[B,8] x) => (float[B,8] y, float[B,1] v, float[B,8] l)
        <float c = {80.0}, float eps = {1e-6}, float s = {0.125}, int64[1] last = {-1}> {
        h = Mul(x, c)
        s1 = Mul(h, h)
        m1 = ReduceMean(s1, last)
        a1 = Add(m1, eps)
        r1 = Sqrt(a1)
        n = Div(h, r1)
        s2 = Mul(h, h)
        m2 = ReduceMean(s2, last)
        mu = ReduceMean(h, last)
        q2 = Mul(mu, mu)
        v = Sub(m2, q2)
        t = Transpose(h)
        z = MatMul(h, t)
        k = Mul(z, s)
        p = Softmax(k)
        y = MatMul(p, n)
        f = Softmax(n)
        l = Log(f)
    }"""
    model = of_text(text, {"x": random(4, 8)})
    repairs = find_all(model.graph, "float16", model.ranges())
    assert [r.kind for r in repairs] == [
        "two-pass-variance", "log-softmax", "scale-query", "scale-squares"
    ]  # fmt: skip
    repaired = model.repaired(repairs)
    for before, after in zip(model.answers(), repaired.answers(), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    right = repaired.emulated(
        "float16", model.answers(), allowed(repairs), ranges=repaired.ranges()
    )
    assert right.error < 2e-2
    for kind in KINDS:
        if kind != "scale-squares":  # the variance's deviations may be scaled in a second round
            assert not found(repaired, kind)
    names = [value.name for value in repaired.model.graph.outputs]
    assert names == ["y", "v", "l"]
    assert [str(d) for d in repaired.model.graph.outputs[0].shape or ()] == ["B", "8"]


def test_the_original_is_left_as_it_was() -> None:
    model = norm("rms")
    before = ir.to_proto(model.model).SerializeToString()
    repairs = found(model, "scale-squares")
    complete = ir.to_proto(model.model).SerializeToString()
    model.repaired(repairs)
    assert ir.to_proto(model.model).SerializeToString() == complete
    assert len(before) <= len(complete)
