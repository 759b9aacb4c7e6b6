"""Hard models: operators whose operands may not all be of one type, or may be left out."""

from __future__ import annotations

import numpy as np

from tests.onnx_cases import case, small

IMAGE = "float[1, 1, 4, 4] x"
UP = "float[1, 1, 8, 8] y"
K = "float[1, 1, 1, 1] k = {0.7}"


@case(opset=22, low="conv")
def resize_initialiser_scales() -> str:
    """Resize's scales and roi are float32 by its schema, whatever the image is."""
    return f"""g ({IMAGE}) => ({UP}) <{K}, float[4] scales = {{1.0, 1.0, 2.0, 2.0}}> {{
        [conv] c = Conv(x, k)
        [resize] y = Resize<mode = "linear">(c, , scales)
    }}"""


@case(opset=22, low="conv")
def resize_constant_scales() -> str:
    """The same with a Constant node, an empty roi that is a tensor, and another reader."""
    return f"""g ({IMAGE}) => ({UP}, float[4] s) <{K}> {{
        [conv] c = Conv(x, k)
        roi = Constant<value = float[0] {{}}>()
        scales = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>()
        [resize] y = Resize<mode = "nearest">(c, roi, scales)
        s = Tanh(scales)
    }}"""


@case(opset=22, low="conv")
def resize_computed_scales() -> str:
    """The scales are computed in float, from shapes."""
    return f"""g ({IMAGE}) => (float[N, C, H, W] y) <{K}, float two = {{2.0}},
        float[2] ones = {{1.0, 1.0}}, int64[2] spatial = {{2, 3}}> {{
        [conv] c = Conv(x, k)
        shape = Shape(c)
        hw = Gather(shape, spatial)
        f = Cast<to = 1>(hw)
        twice = Mul(f, two)
        ratio = Div(twice, f)
        scales = Concat<axis = 0>(ones, ratio)
        [resize] y = Resize<mode = "linear">(c, , scales)
    }}"""


@case(opset=22, low="conv")
def resize_computed_sizes() -> str:
    """The sizes are integers; roi and scales are left out."""
    return f"""g ({IMAGE}) => (float[N, C, H, W] y) <{K}, int64[4] twice = {{1, 1, 2, 2}}> {{
        [conv] c = Conv(x, k)
        shape = Shape(c)
        sizes = Mul(shape, twice)
        [resize] y = Resize<mode = "cubic">(c, , , sizes)
    }}"""


@case(opset=10, ir_version=5)
def resize_opset_10() -> str:
    """The scales are operand 1, and the opset has no bfloat16."""
    return f"""g ({IMAGE}) => ({UP}) <{K}, float[4] scales = {{1.0, 1.0, 2.0, 2.0}}> {{
        [conv] c = Conv(x, k)
        [resize] y = Resize<mode = "nearest">(c, scales)
    }}"""


@case(opset=11, ir_version=6)
def resize_opset_11() -> str:
    """Opset 11 wants a roi, of any float type, and scales that are float32."""
    return f"""g ({IMAGE}) => ({UP})
        <{K}, float[0] roi = {{}}, float[4] scales = {{1.0, 1.0, 2.0, 2.0}}> {{
        [conv] c = Conv(x, k)
        [resize] y = Resize<mode = "linear">(c, roi, scales)
    }}"""


@case(opset=9, ir_version=4)
def upsample_9() -> str:
    """An operator that the newest opset has no more."""
    return f"""g ({IMAGE}) => ({UP}) <{K}, float[4] scales = {{1.0, 1.0, 2.0, 2.0}}> {{
        [conv] c = Conv(x, k)
        [up] y = Upsample<mode = "nearest">(c, scales)
    }}"""


@case({"x": np.linspace(-4, 4, 8, dtype=np.float32)[None]}, low="mm")
def top_k() -> str:
    """Values and indices; the values are a graph output."""
    return """g (float[1, 8] x) => (float[1, 3] v, int64[1, 3] i, float[1, 3] w)
        <int64[1] k = {3}, float[3, 3] m = {1.0, 0.0, 0.5, 0.25, 1.0, 0.0, 0.0, 0.5, 1.0}> {
        [top] v, i = TopK(x, k)
        [mm] w = MatMul(v, m)
    }"""


BOXES = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 10, 1, 11], [5, 5, 6, 6]]], np.float32)
SCORES = np.array([[[0.9, 0.75, 0.6, 0.1]]], np.float32)


@case({"boxes": BOXES, "scores": SCORES}, fp32="nms", exact="keep")
def non_max_suppression() -> str:
    """Boxes, scores and thresholds are float32 by the schema."""
    return """g (float[1, 4, 4] boxes, float[1, 1, 4] scores) => (int64[N, 3] keep)
        <int64[1] most = {3}, float[1] overlap = {0.5}, float[1] least = {0.2}> {
        b = Relu(boxes)
        [nms] keep = NonMaxSuppression(b, scores, most, overlap, least)
    }"""


@case({"i": np.array([0, 2, 1])}, low="mm")
def one_hot() -> str:
    """The values [off, on] may be of any type; the depth may be a float."""
    return """g (int64[3] i) => (float[3, 2] y)
        <float depth = {3.0}, float[2] values = {0.0, 1.0},
         float[3, 2] w = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}> {
        [hot] h = OneHot(i, depth, values)
        [mm] y = MatMul(h, w)
    }"""


@case({"lens": np.array([3, 2], np.int32)}, opset=22, low="lstm")
def lstm() -> str:
    """Bias left out, sequence lengths and both states given, the peepholes left out."""
    return f"""g (float[3, 2, 2] x, int32[2] lens, float[1, 2, 2] h0)
        => (float[3, 1, 2, 2] y, float[1, 2, 2] h, float[1, 2, 2] c)
        <float[1, 8, 2] w = {small(16)}, float[1, 8, 2] r = {small(16, 1)},
         float[1, 2, 2] c0 = {small(4, 2)}> {{
        [lstm] y, h, c = LSTM<hidden_size = 2>(x, w, r, , lens, h0, c0)
    }}"""


@case(opset=22, low="gru")
def gru() -> str:
    """Everything that may be left out is; the first result too; both directions."""
    return f"""g (float[3, 2, 2] x) => (float[2, 2, 2] h)
        <float[2, 6, 2] w = {small(24)}, float[2, 6, 2] r = {small(24, 1)}> {{
        [gru] , h = GRU<hidden_size = 2, direction = "bidirectional">(x, w, r)
    }}"""


@case({"lens": np.array([3, 1], np.int32)}, opset=22, low="rnn")
def rnn() -> str:
    """A bias and lengths, but no state; the state given back feeds an operator that keeps FP32."""
    return f"""g (float[3, 2, 2] x, int32[2] lens) => (float[3, 1, 2, 2] y, float[1, 2, 2] e)
        <float[1, 2, 2] w = {small(4)}, float[1, 2, 2] r = {small(4, 1)},
         float[1, 4] b = {small(4, 2)}> {{
        [rnn] y, h = RNN<hidden_size = 2>(x, w, r, b, lens)
        [exp] e = Exp(h)
    }}"""


@case(low="mm")
def pow_int_exponent() -> str:
    """Pow's exponent has a type variable of its own: here an integer."""
    return """g (float[2, 2] x) => (float[2, 2] y)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}, int64 two = {2}> {
        [mm] a = MatMul(x, w)
        [pow] y = Pow(a, two)
    }"""


@case({"top": np.array(0.5, np.float32)}, low="mm")
def clip_operands() -> str:
    """Clip with both limits, with only the upper one, with none; a limit that is a graph input."""
    return """g (float[2, 2] x, float top) => (float[2, 2] y)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}, float bottom = {-1.0}> {
        [mm] a = MatMul(x, w)
        [both] b = Clip(a, bottom, top)
        [upper] c = Clip(b, , top)
        [lower] d = Clip(c, bottom)
        [none] y = Clip(d)
    }"""


@case(low="mm")
def dropout() -> str:
    """Ratio and mode are operands with types of their own; the mask is a result."""
    return """g (float[2, 2] x) => (float[2, 2] y, bool[2, 2] m)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}, float ratio = {0.5}, bool training = {0}> {
        [mm] a = MatMul(x, w)
        [drop] y, m = Dropout(a, ratio, training)
    }"""


@case(opset=22, low="conv")
def batch_norm() -> str:
    """Scale, mean and variance have type variables of their own since opset 15."""
    return f"""g ({IMAGE}) => (float[1, 1, 4, 4] y)
        <{K}, float[1] s = {{0.9}}, float[1] b = {{0.1}}, float[1] m = {{0.2}},
         float[1] v = {{0.04}}> {{
        [conv] c = Conv(x, k)
        [bn] y = BatchNormalization<epsilon = 0.00001>(c, s, b, m, v)
    }}"""


@case(low="mm")
def pad_and_where() -> str:
    """The value that is padded with, and the branch of a Where, must follow the data."""
    return """g (float[2, 2] x) => (float[4, 2] y)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}, int64[4] pads = {1, 0, 1, 0}, float value = {-0.5},
         float zero = {0.0}> {
        [mm] a = MatMul(x, w)
        [pad] p = Pad(a, pads, value)
        positive = Greater(p, zero)
        [where] y = Where(positive, p, value)
    }"""


@case(low="mm")
def one_operand_many_times() -> str:
    """A node reads one value, and one weight, at two positions."""
    return """g (float[2, 2] x) => (float[2, 2] y, float[2, 2] z)
        <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}> {
        [mm] a = MatMul(x, w)
        [square] y = Mul(a, a)
        [exp] e = Exp(x)
        [twice] z = MatMul(w, w)
    }"""


@case(low=("mm", "mm2"))
def split_and_concat() -> str:
    """Results of one node read in different types; operands of one node made in different types."""
    return """g (float[2, 4] x) => (float[2, 4] y) <float[2, 2] w = {0.1, 0.2, 0.3, 0.4}> {
        [split] a, b = Split<axis = 1, num_outputs = 2>(x)
        [mm] c = MatMul(a, w)
        [exp] d = Exp(b)
        [cat] e = Concat<axis = 1>(c, d)
        f, g0 = Split<axis = 1, num_outputs = 2>(e)
        [mm2] h = MatMul(g0, w)
        y = Concat<axis = 1>(f, h)
    }"""


@case(low="mm")
def layer_norm_statistics() -> str:
    """Mean and 1/deviation have the type that `stash_type` names, whatever the operands have."""
    return f"""g (float[2, 4] x) => (float[2, 4] y, float[2, 1] m, float[2, 1] r)
        <float[4, 4] w = {small(16)}, float[4] scale = {{1.0, 0.9, 1.1, 1.0}}> {{
        [mm] a = MatMul(x, w)
        [norm] y, m, v = LayerNormalization<stash_type = 1, epsilon = 0.00001>(a, scale)
        [act] r = Tanh(v)
    }}"""


@case({"m": np.tril(np.ones((3, 3), bool))}, opset=23, ir_version=11, low="attention")
def attention_23() -> str:
    """A boolean mask, operands that are left out, and softmax_precision, which names a type."""
    return """g (float[1, 2, 3, 4] x, bool[3, 3] m) => (float[1, 2, 3, 4] y)
        <float[4] scale = {1.0, 0.9, 1.1, 1.0}> {
        [norm] n = RMSNormalization<epsilon = 0.00001>(x, scale)
        [attention] y = Attention<softmax_precision = 1>(n, n, x, m)
    }"""
