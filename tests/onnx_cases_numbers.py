"""Hard models: weights and values at the edges of the low types."""

from __future__ import annotations

import numpy as np

from tests.onnx_cases import case, numbers, spelled

BIG = np.linspace(2e4, 3e4, 16, dtype=np.float32).reshape(4, 4)
SMALL = {"x": numbers(2, 4, scale=1e-3)}
W = "float[4, 4] w = " + spelled(numbers(4, 4, seed=3) * 0.5)


@case(SMALL, low="mm")
def weights_20000() -> str:
    """Weights of 2e4 to 3e4 fit and are rounded to nearest, not clamped."""
    return f"""g (float[2, 4] x) => (float[2, 4] y) <float[4, 4] w = {spelled(BIG)}> {{
        [mm] y = MatMul(x, w)
    }}"""


@case(SMALL)
def weights_1e6() -> str:
    """A weight beyond float16's range keeps its reader in FP32 there; bfloat16 has it."""
    w = numbers(4, 4, seed=1)
    w[1, 2] = 1e6
    return f"""g (float[2, 4] x) => (float[2, 4] y) <float[4, 4] w = {spelled(w)}> {{
        [mm] y = MatMul(x, w)
    }}"""


@case({"x": np.array([1e-3, 2.0], np.float32)}, fp32="mul", ruled={"bfloat16": "in range"})
def constant_1e6() -> str:
    """The same in a Constant node."""
    return """g (float[2] x) => (float[2] y) {
        c = Constant<value_floats = [1e6, 0.25]>()
        [mul] a = Mul(x, c)
        [tanh] y = Tanh(a)
    }"""


@case(low="mm")
def weights_subnormal() -> str:
    """+-1e-9 beside ordinary weights: rounded to a zero of the same sign, never made bigger."""
    w = numbers(4, 4, seed=2)
    w[0] = [1e-9, -1e-9, 4e-8, -4e-8]
    return f"""g (float[2, 4] x) => (float[2, 4] y) <float[4, 4] w = {spelled(w)}> {{
        [mm] y = MatMul(x, w)
    }}"""


@case(fp32="scale", low="mm", ruled={"bfloat16": "in range"})
def weights_all_subnormal() -> str:
    """A weight that is lost altogether in float16."""
    return f"""g (float[2, 4] x) => (float[2, 4] y)
        <float[4] b = {{1e-9, -1e-9, 2e-9, -3e-9}}, float big = {{1e8}}, {W}> {{
        [scale] a = Mul(x, b)
        [back] c = Mul(a, big)
        [mm] y = MatMul(c, w)
    }}"""


@case({"m": np.array([[True, False, True, True]] * 2)}, low="mm")
def weights_infinite() -> str:
    """Minus infinity as a mask's value stays infinite, and forces nothing to FP32."""
    return f"""g (float[2, 4] x, bool[2, 4] m) => (float[2, 4] y) <{W}, float ninf = {{-inf}}> {{
        [mm] a = MatMul(x, w)
        [mask] b = Where(m, a, ninf)
        [soft] s = Softmax(b)
        [mm2] y = MatMul(s, w)
    }}"""


@case({"mask": np.array([[0, -3.4028235e38, 0, 0]] * 2, np.float32)}, low=("mm", "mm2"))
def mask_is_input() -> str:
    """An additive mask of finfo.min given by the caller means minus infinity, not a number."""
    return f"""g (float[2, 4] x, float[2, 4] mask) => (float[2, 4] y) <{W}> {{
        [mm] a = MatMul(x, w)
        [add] b = Add(a, mask)
        [soft] s = Softmax(b)
        [mm2] y = MatMul(s, w)
    }}"""


@case({"keep": np.array([[1, 0, 1, 1]] * 2)}, low=("mm", "mm2"))
def mask_from_integers() -> str:
    """(1 - mask) * -1e9, computed from integers, as many exported transformers do."""
    return f"""g (float[2, 4] x, int64[2, 4] keep) => (float[2, 4] y)
        <{W}, float one = {{1.0}}, float low = {{-1e9}}> {{
        [mm] a = MatMul(x, w)
        [cast] f = Cast<to = 1>(keep)
        [flip] g0 = Sub(one, f)
        [scale] h = Mul(g0, low)
        [add] b = Add(a, h)
        [soft] s = Softmax(b)
        [mm2] y = MatMul(s, w)
    }}"""


@case({"x": numbers(2, 4) * 250}, fp32=("square", "mean"), low="mm")
def rms_norm() -> str:
    """Activations up to 600: their squares leave float16, and the result would be 0."""
    return f"""g (float[2, 4] x) => (float[2, 4] y) <{W}, float eps = {{1e-06}},
        int64[1] axes = {{-1}}, float[4] gain = {{1.0, 0.9, 1.1, 1.0}}> {{
        [square] s = Mul(x, x)
        [mean] m = ReduceMean<keepdims = 1>(s, axes)
        [shift] e = Add(m, eps)
        [root] r = Sqrt(e)
        [div] n = Div(x, r)
        [gain] g0 = Mul(n, gain)
        [mm] y = MatMul(g0, w)
    }}"""


@case({"x": np.abs(numbers(100_000))}, fp32="sum")
def long_sum() -> str:
    """The sum of 1e5 elements is 8e4."""
    return """g (float[100000] x) => (float y, float[100000] z) <int64[1] axes = {0}> {
        [act] z = Tanh(x)
        [sum] y = ReduceSum<keepdims = 0>(x, axes)
    }"""


@case({"x": np.array([300.0, -400.0, 0.5], np.float32)}, fp32="square")
def seen_overflow() -> str:
    """Only the data shows that a product overflows in float16."""
    return """g (float[3] x) => (float[3] y) {
        [act] a = Relu(x)
        [square] b = Mul(a, a)
        [back] y = Sqrt(b)
    }"""


@case({"x": np.array([60000.0, 30000.0, 1.0], np.float32)})
def up_and_down() -> str:
    """x * 4 / 4: a CPU that computes float16 in float32 hides the overflow between."""
    return """g (float[3] x) => (float[3] y) <float four = {4.0}> {
        [up] a = Mul(x, four)
        [down] y = Div(a, four)
    }"""
