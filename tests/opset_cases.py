"""Small ONNX models whose nodes are written differently in later opsets, and some that look alike.

Each is an opset and a graph in ONNX's text format; ONNX Runtime runs it before and after raising.
Sizes that the text leaves open are 4, inputs are random.
"""

from __future__ import annotations

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
_WINDOW = "kernel_shape=[3,3], strides=[2,2]"
_BORDER = "kernel_shape=[2,2], strides=[3,3], pads=[0,0,1,1]"


def _one(node: str, result: str = "float[a,b]", data: str = "float[4,6]") -> str:
    """A graph of one node, `y = node(x)`."""
    return f"g ({data} x) => ({result} y) {{ y = {node} }}"


def _resize(attributes: str, scales: str, opset: int) -> tuple[int, str]:
    roi, given = (", float[0] r = {}", "x, r, s") if opset >= 11 else ("", "x, s")
    return (
        opset,
        "g (float[1,2,5,7] x) => (float[1,2,a,b] y) "
        f"<float[4] s = {{{scales}}}{roi}> {{ y = Resize <{attributes}> ({given}) }}",
    )


# Nodes that later opsets write in another way, or with another meaning.
CHANGED: list[tuple[int, str]] = [
    (7, _one("Softmax (x)", "float[2,3,4]", "float[2,3,4]")),
    (12, _one("Softmax (x)", "float[2,3]", "float[2,3]")),
    (12, _one("Softmax <axis=-1> (x)", "float[2,3,4]", "float[2,3,4]")),
    (
        12,  # nobody says how many dimensions h has
        "g (float[2,3,4] x) => (float[2,3,4] y) { h = Identity (x) y = Softmax <axis=1> (h) }",
    ),
    (11, _one("LogSoftmax <axis=-2> (x)", "float[2,3,4]", "float[2,3,4]")),
    (12, _one("Hardmax <axis=0> (x)", "float[2,3,4]", "float[2,3,4]")),
    (7, _one("Clip <min=-0.3, max=0.4> (x)")),
    (10, _one("Clip <max=0.4> (x)")),
    (10, _one("Clip <min=-3.4028234663852886e+38, max=0.4> (x)", "float16[a,b]", "float16[4,6]")),
    (10, _one("Pad <pads=[1,0,1,2], value=3.5> (x)")),
    (10, _one("Pad <pads=[1,0,1,2]> (x)", "double[a,b]", "double[4,6]")),
    (10, _one('Pad <pads=[1,0,1,2], mode="reflect", value=2.0> (x)')),
    (9, _one("Slice <starts=[-3,1], ends=[9223372036854775807,-1], axes=[0,1]> (x)")),
    (9, _one("Slice <starts=[1], ends=[3]> (x)")),
    (9, "g (float[4,6] x) => (float[4,2] y, int64[4,2] i) { y, i = TopK <k=2> (x) }"),
    (
        8,
        _one(
            'Upsample <mode="nearest", scales=[1.0,1.0,2.0,2.0]> (x)',
            "float[1,2,6,8]",
            "float[1,2,3,4]",
        ),
    ),
    (
        9,
        "g (float[1,2,3,4] x) => (float[1,2,a,b] y) <float[4] s = {1,1,1.3,2.5}> "
        '{ y = Upsample <mode="linear"> (x, s) z = Upsample (x, s) }',
    ),
    _resize('mode="nearest"', "1,1,0.6,0.6", 10),
    _resize('mode="nearest"', "1,1,1.7,2.3", 10),
    _resize('mode="linear"', "1,1,0.6,2.3", 10),
    (
        10,
        "g (float[1,2,5,7] x, float[1,2,9,11] other) => (float[1,2,a,b] y) { n = Shape (other) "
        "m = Shape (x) p = Cast <to=1> (n) q = Cast <to=1> (m) s = Div (p, q) "
        'y = Resize <mode="linear"> (x, s) }',
    ),
    *(
        _resize(
            'mode="nearest", nearest_mode="floor", '
            'coordinate_transformation_mode="tf_half_pixel_for_nn"',
            scales,
            11,
        )
        for scales in ("1,1,1.7,2.3", "1,1,0.7,0.9", "1,1,2,3")
    ),
    _resize('mode="cubic"', "1,1,1.7,2.3", 11),
    (
        9,
        "g (float[3,3] x, float[1,2] u) => (float[3,3] y) <int64[1,2] i = {1,0}> "
        "{ y = Scatter <axis=1> (x, i, u) }",
    ),
    (7, "g (float[2,3] x) => (float[2,3] y) { y, m = Dropout (x) }"),
    (10, _one("Dropout <ratio=0.3> (x)")),
    (11, "g (float[2,3] x) => (float[2,3] y) { y, m = Dropout <ratio=0.3> (x) }"),
    *(
        (
            opset,
            "g (float[2,3,4] x, float[3] s, float[3] b, float[3] m) => (float[2,3,4] y) "
            f"<float[3] v = {{1,2,3}}> {{ y = BatchNormalization {attributes} (x, s, b, m, v) }}",
        )
        for opset, attributes in ((8, "<spatial=1>"), (9, "<epsilon=0.1>"))
    ),
    (7, "g (float[6,2] x) => (float[2,2] y, float[4,2] z) { y, z = Split <split=[2,4]> (x) }"),
    *(
        (opset, "g (float[2,6] x) => (float[2,3] y, float[2,3] z) { y, z = Split <axis=1> (x) }")
        for opset in (7, 13)
    ),
    (
        13,
        "g (float[2,6] x) => (float[2,2] y, float[2,4] z) <int64[2] s = {2,4}> "
        "{ y, z = Split <axis=1> (x, s) }",
    ),
    (11, _one("Squeeze <axes=[-2]> (x)", "float[2,3]", "float[2,1,3]")),
    (7, _one("Squeeze (x)", "float[2,3]", "float[2,1,3]")),
    (11, _one("Unsqueeze <axes=[0,2]> (x)", "float[1,4,1,6]")),
    *(
        (opset, f"g (float[2,3,4] x) => (float[{shape}] y) {{ a = Abs (x) y = {op} <{how}> (a) }}")
        for op in _REDUCTIONS
        for opset in ((7,) if op == "ReduceSum" else (7, 17))
        for how, shape in (("axes=[1], keepdims=0", "2,4"), ("keepdims=1", "1,1,1"))
    ),
    (12, _one("Erf (x)")),
    (
        15,
        "g (float[1,2,8,8] x) => (float[2,2,3,3] y) "
        "<float[2,4] r = {0.5,1,5,6,2,2,7,7}, int64[2] i = {0,0}> "
        "{ y = RoiAlign <output_height=3, output_width=3, sampling_ratio=2> (x, r, i) }",
    ),
    *(
        (
            16,
            "g (float[1,2,5,5] x, float[1,4,4,2] p) => (float[1,2,4,4] y) "
            f"{{ y = GridSample <{how}> (x, p) }}",
        )
        for how in ('mode="bilinear"', 'mode="bicubic"', 'mode="nearest"', "align_corners=1")
    ),
    (17, _one("DFT (x)", "float[1,8,6,2]", "float[1,8,6,1]")),
    (17, _one("DFT <axis=2, inverse=1> (x)", "float[1,8,6,2]", "float[1,8,6,2]")),
    (
        17,
        "g (float[1,8,6,1] x) => (float[1,3,6,2] y) <int64 n = {4}> "
        "{ y = DFT <onesided=1> (x, n) }",
    ),
    (
        18,
        "g (float[1,4,3] x) => (float[1,4,3] y) <float[2] s = {1.5,0.5}, float[2] b = {0.1,3}> "
        "{ y = GroupNormalization <num_groups=2> (x, s, b) }",
    ),
    (
        20,
        "g (float[N,C,H,W] x, float[2] s, float[2] b) => (float[N,C,H,W] y) "
        "{ y = GroupNormalization <num_groups=2, epsilon=0.1> (x, s, b) }",
    ),
    (
        12,
        "g (float[2,3,4] x) => (float[2,3,4] y) { c = Constant <value = bool {1}> () y = If <"
        "then_branch = t () => (float[2,3,4] p) { p = Softmax (x) }, "
        "else_branch = e () => (float[2,3,4] q) { q = Relu (x) }> (c) }",
    ),
    (
        9,
        "g (float[2,3] x) => (float[2,3] y, float[4,2,1] s) <int64 n = {4}, bool c = {1}> "
        "{ y, s = Loop <body = b (int64 i, bool k, float[2,3] u) => "
        "(bool k1, float[2,3] w, float[2,1] o) { k1 = Identity (k) w = Clip <min=-0.5> (u) "
        "o = Slice <starts=[0], ends=[1], axes=[1]> (w) }> (n, c, x) }",
    ),
    (
        9,
        "g (float[3] h, float[5,3] x) => (float[3] z, float[5,3] ys) "
        "{ z, ys = Scan <num_scan_inputs=1, body = b (float[3] a, float[3] t) => "
        "(float[3] a1, float[3] o) { a1 = Add (a, t) u = Unsqueeze <axes=[0]> (a1) "
        "v = Softmax (u) o = Squeeze <axes=[0]> (v) }> (h, x) }",
    ),
]

# Nodes whose text changed from opset to opset though they mean the same: only the number changes.
SAME: list[tuple[int, str]] = [
    *(
        (
            opset,
            _one(
                f"AveragePool <{how}, ceil_mode={ceil}, count_include_pad={counted}> (x)", *shapes
            ),
        )
        for opset in (10, 11, 19)
        for how in (f"{_WINDOW}, pads=[1,1,1,1]", _BORDER)
        for ceil in (0, 1)
        for counted in (0, 1)
        for shapes in [("float[1,1,a,b]", "float[1,1,6,6]")]
    ),
    *(
        (7, _one(f'{op} <{_WINDOW}, auto_pad="{how}"> (x)', "float[1,1,a,b]", "float[1,1,7,8]"))
        for op in ("AveragePool", "LpPool", "MaxPool")
        for how in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    *(
        (
            opset,
            "g (float[1,1,6,6] x) => (float[1,1,a,b] y, int64[1,1,a,b] i) "
            f"{{ y, i = MaxPool <{_BORDER}, ceil_mode=1> (x) }}",
        )
        for opset in (10, 12)
    ),
    *(
        (
            10,
            "g (float[1,1,5,5] x, float[1,1,2,2] w) => (float[1,1,a,b] y) "
            f"{{ y = ConvTranspose <{how}> (x, w) }}",
        )
        for how in ('auto_pad="SAME_UPPER"', 'auto_pad="SAME_LOWER"', "output_shape=[5,5]")
    ),
    *(
        (
            7,
            f"g (float[5,2,3] x, float[1,{4 * n},3] w, float[1,{4 * n},4] r) => "
            f"(float[5,1,2,4] y) {{ y = {op} <hidden_size=4> (x, w, r) }}",
        )
        for op, n in (("GRU", 3), ("LSTM", 4), ("RNN", 1))
    ),
    (
        10,
        "g (float[2,3] x) => (uint8[2,3] y, float[2,3] z) <float s = {0.1}, uint8 p = {128}> "
        "{ y = QuantizeLinear (x, s, p) z = DequantizeLinear (y, s, p) }",
    ),
    (
        10,
        "g (float[1,4,4] b, float[1,1,4] s) => (int64[n,3] y) <int64 k = {2}> "
        "{ y = NonMaxSuppression (b, s, k) }",
    ),
    (
        9,
        "g (float[2] v) => (float[3,3] y) <int64[3] i = {0,2,7}, int64 d = {3}> "
        "{ y = OneHot (i, d, v) }",
    ),
    (7, "g (float[2,3] x, float[3] s) => (float[2,3] y) { y = PRelu (x, s) }"),
    (10, _one("DepthToSpace <blocksize=2> (x)", "float[1,2,4,4]", "float[1,8,2,2]")),
    (9, _one("MeanVarianceNormalization <axes=[0,2]> (x)", "float[2,3,4]", "float[2,3,4]")),
    (7, _one("Selu (x)")),
]
