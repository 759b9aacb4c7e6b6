"""Hard models: changes of type, numbers that need float32, and models that are mixed already."""

from __future__ import annotations

import numpy as np

from tests.onnx_cases import case

POSITIONS = {"p": np.arange(4000, 4096)[None]}
IDS = {"ids": np.arange(5000, 5010)}


@case(fp32="exp", low="mm")
def shared_initialiser() -> str:
    """One initialiser is read in both types: its FP32 reader gets the numbers unrounded."""
    return """g (float[2, 2] x) => (float[2, 2] y, float[2, 2] z)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}> {
        [mm] y = MatMul(x, w)
        [exp] z = Exp(w)
    }"""


@case({"i": np.array([1, 2049, 70001])}, fp32="cast", exact="y")
def cast_int_to_float() -> str:
    """Integers above 2048 are no float16: the cast's result stays FP32."""
    return """g (int64[3] i) => (float[3] y) {
        [cast] f = Cast<to = 1>(i)
        y = Relu(f)
    }"""


@case({"d": np.array([0.5, -1.25, 3.0])}, low="mm")
def cast_double_to_float() -> str:
    """Cast(to=FLOAT) of a double may become Cast(to=FLOAT16), never a wrong type."""
    return """g (double[3] d) => (float[1] y) <float[3, 1] w = {0.5, 0.25, 2.0}> {
        [cast] f = Cast<to = 1>(d)
        [mm] y = MatMul(f, w)
    }"""


@case({"i": np.array([3, 5])})
def cast_as_output() -> str:
    """A Cast makes graph outputs: their types are the model's interface."""
    return """g (int64[2] i, float[2] x) => (float[2] y, double[2] z, int32[2] k) {
        [a] y = Cast<to = 1>(i)
        r = Relu(x)
        [b] z = Cast<to = 11>(r)
        [c] k = Cast<to = 6>(x)
    }"""


@case(low="mm")
def cast_chain() -> str:
    """float -> double -> float -> float between two products."""
    return """g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}> {
        [mm] a = MatMul(x, w)
        [up] b = Cast<to = 11>(a)
        [down] c = Cast<to = 1>(b)
        [same] d = Cast<to = 1>(c)
        [mm2] y = MatMul(d, w)
    }"""


@case(POSITIONS, fp32=("cast", "angle", "cos", "sin"), exact=("c", "s"))
def rope_positions() -> str:
    """Angles of positions 4000 to 4095: rounding them to float16 is an error of a radian."""
    return """g (int64[1, 96] p) => (float[1, 96, 4] c, float[1, 96, 4] s)
        <float[1, 1, 4] inv_freq = {1.0, 0.1, 0.01, 0.001}, int64[1] axes = {2}> {
        [cast] f = Cast<to = 1>(p)
        [unsqueeze] u = Unsqueeze(f, axes)
        [angle] a = Mul(u, inv_freq)
        [cos] c = Cos(a)
        [sin] s = Sin(a)
    }"""


@case(POSITIONS, fp32=("cast", "angle", "cos"), low=("scores",))
def rope_in_attention() -> str:
    """The rotation's factors may be rounded once they are cosines; the angles may not."""
    return """g (int64[1, 96] p, float[1, 96, 4] q) => (float[1, 96, 96] y)
        <float[1, 1, 4] inv_freq = {1.0, 0.1, 0.01, 0.001}, int64[1] axes = {2}> {
        [cast] f = Cast<to = 1>(p)
        u = Unsqueeze(f, axes)
        [angle] a = Mul(u, inv_freq)
        [cos] c = Cos(a)
        r = Mul(q, c)
        t = Transpose<perm = [0, 2, 1]>(r)
        [scores] y = MatMul(r, t)
    }"""


@case(IDS, fp32=("there", "shift", "back"), exact=("back", "rows"))
def ids_through_float() -> str:
    """Ids 5000 to 5009 pass through float and must come back as the same integers."""
    return """g (int64[10] ids) => (int64[10] back, float[10] rows) {
        [there] f = Cast<to = 1>(ids)
        one = Constant<value_float = 1.0>()
        [shift] g0 = Add(f, one)
        [undo] h = Sub(g0, one)
        [back] back = Cast<to = 7>(h)
        rows = Identity(f)
    }"""


@case({"b": np.array([True, False, True])}, low="mm")
def cast_of_mask() -> str:
    """A boolean's 0 and 1 are exact in every type."""
    return """g (bool[3] b, float[3] x) => (float[1] y) <float[3, 1] w = {0.5, 0.25, 2.0}> {
        [cast] f = Cast<to = 1>(b)
        m = Mul(x, f)
        [mm] y = MatMul(m, w)
    }"""


@case({"i": np.array([7, 300, 5000])})
def cast_like() -> str:
    """CastLike casts to what its second operand is, and that operand may change its type."""
    return """g (int64[3] i, float[3] x) => (float[3] y, float[3] z) {
        r = Relu(x)
        [like] f = CastLike(i, r)
        [sum] y = Add(f, r)
        [down] z = CastLike(x, f)
    }"""


@case(
    opset=26,
    ir_version=13,
    fp32="bits",
    exact="k",
    differs={"pinned": "the bits of a rounded number are others"},
)
def bit_cast() -> str:
    """BitCast reads the bits: its operand is FP32, whatever stands around it."""
    return """g (float[3] x) => (int32[3] k) {
        r = Relu(x)
        [bits] k = BitCast<to = 6>(r)
    }"""


@case()
def cast_to_low_by_user() -> str:
    """A pair of casts that the user put in rounds a value on purpose, and goes on doing it."""
    return """g (float[4] x) => (float[4] y, float16[4] h) {
        [down] h = Cast<to = 10>(x)
        [up] u = Cast<to = 1>(h)
        y = Exp(u)
    }"""


@case(low="mm")
def mixed_already() -> str:
    """Part of the model is float16 by the user's own choice; float16 is written as its bits."""
    return """g (float[2, 2] x) => (float[2, 2] y)
        <float16[2, 2] h = {14336, 13312, 15360, 16384}, float[2, 2] w = {0.1, 0.2, 0.3, 0.4}> {
        [down] a = Cast<to = 10>(x)
        [half] b = MatMul(a, h)
        [soft] s = Softmax(b)
        [up] c = Cast<to = 1>(s)
        [mm] y = MatMul(c, w)
    }"""


@case()
def low_interface() -> str:
    """A float16 input and output are the user's; nothing in the model is FP32."""
    return """g (float16[2] x) => (float16[2] y) <float16[2] w = {14336, 13312}> {
        a = Add(x, w)
        y = Relu(a)
    }"""


@case(exact="y")
def double_island() -> str:
    """float64 stays float64, with float32 around it."""
    return """g (float[2, 2] x) => (double[2] y, float[2] z)
        <double[2, 2] w = {0.1, 0.2, 0.3, 0.4}, int64[1] axes = {1}> {
        [up] d = Cast<to = 11>(x)
        [mm] m = MatMul(d, w)
        [sum] y = ReduceSum<keepdims = 0>(m, axes)
        [down] z = Cast<to = 1>(y)
    }"""


@case({"i": np.array([1, 2, 3])})
def int_only() -> str:
    """Nothing is float32: nothing to do."""
    return """g (int64[3] i) => (int64[3] y, bool[3] b) <int64[3] w = {3, 2, 1}> {
        y = Add(i, w)
        b = Greater(y, w)
    }"""


@case({"s": np.array(["a", "b"], dtype=object)}, exact=("t", "y"))
def strings() -> str:
    """Strings and what is parsed from them pass by."""
    return """g (string[2] s, float[2] x) => (string[2] t, float[2] y, float[2] z)
        <string[2] w = {"x", "y"}> {
        t = StringConcat(s, w)
        numbers = Constant<value_strings = ["5001", "0.1"]>()
        [parse] y = Cast<to = 1>(numbers)
        z = Sigmoid(x)
    }"""


@case(fp32="sink", low=("mm", "mm2"))
def adjacent_denied() -> str:
    """Denied neighbours exchange FP32: exp(14) is 1.2e6 and would be infinite in float16."""
    return """g (float[2, 2] x) => (float[2, 2] y)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}, float big = {14.0}> {
        [mm] a = MatMul(x, w)
        [shift] b = Add(a, big)
        [exp] e = Exp(b)
        [sink] f = Log(e)
        [mm2] y = MatMul(f, w)
    }"""


@case(fp32=("exp", "log", "exp2"))
def fan_out() -> str:
    """One value with readers of both types: one Cast at most in each direction."""
    return """g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}> {
        [mm] a = MatMul(x, w)
        [exp] e = Exp(a)
        [exp2] e2 = Exp(a)
        [m1] m1 = MatMul(a, e)
        [m2] m2 = MatMul(a, e2)
        [s] s = Add(m1, m2)
        p = Exp(s)
        [log] l = Log(p)
        y = Add(l, a)
    }"""


@case(low="mm")
def bfloat16_by_user() -> str:
    """A bfloat16 part by the user beside float32, whichever type is the target."""
    return """g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}> {
        s = Constant<value_ints = [2, 2]>()
        [down] b = Cast<to = 16>(x)
        [shape] t = Reshape(b, s)
        [up] c = Cast<to = 1>(t)
        [mm] y = MatMul(c, w)
    }"""
