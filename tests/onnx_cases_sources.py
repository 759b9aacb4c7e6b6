"""Hard models: operators that make floats of nothing, or name a type in an attribute."""

from __future__ import annotations

import numpy as np

from tests.onnx_cases import case

NO_KERNEL = {"forced/float16": "ONNX Runtime's CPU provider has no kernel that makes float16"}
CHANCE = "it draws at random"
W3 = "float[3, 2] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}"


@case(low="mm", random=CHANCE, unloadable=NO_KERNEL)
def random_normal() -> str:
    """The type stands in an attribute that may be left out."""
    return f"""g (float[2, 3] x) => (float[2, 2] y) <{W3}> {{
        [normal] a = RandomNormal<shape = [2, 3], dtype = 1, seed = 1.0>()
        [uniform] b = RandomUniform<shape = [2, 3]>()
        c = Add(a, b)
        d = Add(c, x)
        [mm] y = MatMul(d, w)
    }}"""


@case(low="mm", random=CHANCE)
def random_like() -> str:
    """The type is the operand's where the attribute is left out."""
    return f"""g (float[2, 3] x) => (float[2, 2] y, float[2, 3] z, double[2, 3] d) <{W3}> {{
        r = Relu(x)
        [like] a = RandomNormalLike(r)
        [like2] z = RandomUniformLike<dtype = 1>(r)
        [like3] d = RandomUniformLike<dtype = 11>(r)
        s = Add(a, r)
        [mm] y = MatMul(s, w)
    }}"""


@case(random=CHANCE)
def draws_from_floats() -> str:
    """Probabilities are floats, what is drawn is not, or is of a type of its own."""
    return """g (float[2, 3] x) => (int32[2, 4] i, float[2, 3] b, int64[2, 3] k) {
        p = Sigmoid(x)
        [multinomial] i = Multinomial<sample_size = 4>(x)
        [bernoulli] b = Bernoulli(p)
        [bernoulli2] k = Bernoulli<dtype = 7>(p)
    }"""


@case(low="mm", unloadable={"forced/float16": "the CPU provider makes no 16-bit identity matrix"})
def eye_like() -> str:
    """EyeLike of a float and of integers, with a type and without."""
    return """g (float[3, 3] x) => (float[3, 3] y)
        <int64[3, 3] i = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
        [a] a = EyeLike(x)
        [b] b = EyeLike<dtype = 1>(i)
        [mm] m = MatMul(a, b)
        [mm2] y = MatMul(m, x)
    }"""


@case(low="mm")
def constant_of_shape() -> str:
    """With a value, and without one: then it is float32 by default."""
    return f"""g (float[2, 3] x) => (float[2, 2] y) <{W3}, int64[2] shape = {{2, 3}}> {{
        [zero] a = ConstantOfShape(shape)
        [half] b = ConstantOfShape<value = float[1] {{0.5}}>(shape)
        c = Add(a, b)
        d = Add(c, x)
        [mm] y = MatMul(d, w)
    }}"""


@case(low="mm", fp32="exp")
def constants_of_every_kind() -> str:
    """value, value_float, value_floats, value_int, value_ints: read in one type or in both."""
    return f"""g (float[2, 3] x) => (float[2, 2] y, float[3] z, float z0) <{W3}> {{
        f = Constant<value_float = 0.3>()
        fs = Constant<value_floats = [0.1, 0.2, 0.7]>()
        t = Constant<value = float[2, 3] {{0.1, 0.2, 0.3, 0.4, 0.5, 0.6}}>()
        i = Constant<value_int = 2>()
        shape = Constant<value_ints = [2, 3]>()
        a = Mul(x, f)
        b = Add(a, fs)
        r = Reshape(b, shape)
        p = Pow(r, i)
        s = Add(p, t)
        [mm] y = MatMul(s, w)
        [exp] z = Exp(fs)
        [exp0] z0 = Exp(f)
    }}"""


@case(fp32="window", unloadable=NO_KERNEL)
def window() -> str:
    """A window names its type in an attribute."""
    return """g (float[8] x) => (float[8] y, double[8] d) <int64 n = {8}> {
        [window] h = HannWindow(n)
        [window2] b = BlackmanWindow<output_datatype = 1, periodic = 0>(n)
        [window3] d = HammingWindow<output_datatype = 11>(n)
        s = Mul(h, b)
        y = Mul(x, s)
    }"""


@case(fp32="range", exact="y")
def range_of_floats() -> str:
    """Its numbers are positions: 3999 is no float16."""
    return """g (float x) => (float[N] y)
        <float start = {3990.0}, float limit = {4010.0}, float step = {1.0}> {
        [range] r = Range(start, limit, step)
        y = Relu(r)
    }"""


@case(fp32="mel", unloadable=NO_KERNEL)
def mel_weights() -> str:
    """MelWeightMatrix takes two floats of one type and names its result's in an attribute."""
    return """g (float[2, 9] x) => (float[2, 4] y)
        <int64 bins = {4}, int64 length = {16}, int64 rate = {8000}, float low = {50.0},
         float high = {3500.0}> {
        [mel] m = MelWeightMatrix<output_datatype = 1>(bins, length, rate, low, high)
        [mm] y = MatMul(x, m)
    }"""


@case(fp32="dft", unloadable=NO_KERNEL)
def fourier() -> str:
    """DFT of a signal, and STFT with a window that an operator makes."""
    return """g (float[1, 16, 1] x) => (float[1, 16, 2] y, float[1, F, 5, 2] z)
        <int64 step = {4}, int64 length = {8}> {
        [dft] y = DFT(x)
        [window] h = HannWindow(length)
        [stft] z = STFT<onesided = 1>(x, step, h, length)
    }"""


@case({"x": np.full((1, 2000), 0.5, np.float32)}, fp32="cumsum")
def running_sum() -> str:
    """A running sum's axis is an integer operand; the sum leaves the exact integers of float16."""
    return """g (float[1, 2000] x) => (float[1, 2000] y) <int64 axis = {1}> {
        [cumsum] y = CumSum(x, axis)
    }"""
