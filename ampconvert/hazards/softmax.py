"""AMP604: a softmax by hand that does not subtract its maximum."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.exponentials import too_large
from ampconvert.hazards.patterns import written_softmax
from ampconvert.hazards.scene import Scene


class SoftmaxWithoutMaximum(Hazard):
    """A softmax written as exp(x) / sum(exp(x)) overflows in float16 from x = 11.1 on.

    exp(11.09) is 65504. One such logit makes the sum inf and its own share inf/inf, NaN; logits of
    30 are common. A softmax subtracts the row's maximum first, so that no exponential exceeds 1.
    bfloat16 overflows at 88.7, like float32.

    Source: Goodfellow, Bengio and Courville 2016, Deep Learning, section 4.1,
    https://www.deeplearningbook.org/contents/numerical.html
    """

    CODE = "AMP604"
    NAME = "softmax-without-maximum"
    ADVICE = (
        "Use softmax, or subtract the row's maximum before exp; else keep exp, sum and division in "
        "FP32."
    )
    VALID = (
        Case("""g (float[2,8] x) => (float[2,8] y) <int64[1] axes = {-1}> {
            m = ReduceMax<keepdims = 1>(x, axes)
            z = Sub(x, m)
            e = Exp(z)
            s = ReduceSum<keepdims = 1>(e, axes)
            y = Div(e, s)
        }"""),
        Case("""g (float[2,8] x) => (float[2,8] y) { y = Softmax(x) }"""),
        # Attention weights of cosines: exp(1) is the most there is.
        Case("""g (float[2,8] x) => (float[2,8] y) <int64[1] axes = {-1}> {
            c = Tanh(x)
            e = Exp(c)
            s = ReduceSum<keepdims = 1>(e, axes)
            y = Div(e, s)
        }"""),
        Case(
            """g (float[2,8] x) => (float[2,8] y) <int64[1] axes = {-1}> {
            e = Exp(x)
            s = ReduceSum<keepdims = 1>(e, axes)
            y = Div(e, s)
        }""",
            {"x": (-7.0, 2.5), "e": (0.0009, 12.2), "s": (0.1, 60.0)},
        ),
        Case(
            """g (float[2,8] x) => (float[2,8] y) <int64[1] axes = {-1}> {
            e = Exp(x)
            s = ReduceSum<keepdims = 1>(e, axes)
            y = Div(e, s)
        }""",
            low="bfloat16",
        ),
    )
    INVALID = (
        Case("""g (float[2,8] x) => (float[2,8] y) <int64[1] axes = {-1}> {
            e = Exp(x)
            s = ReduceSum<keepdims = 1>(e, axes)
            y = Div(e, s)
        }"""),
        # The maximum of something else.
        Case("""g (float[2,8] x, float[2,1] m) => (float[2,8] y)
        <int64[1] axes = {-1}, float eps = {1e-5}> {
            z = Sub(x, m)
            e = Exp(z)
            s = ReduceSum<keepdims = 1>(e, axes)
            d = Add(s, eps)
            y = Div(e, d)
        }"""),
        # Masked by a factor of zeros and ones.
        Case(
            """g (float[2,8] x, bool[2,8] keep) => (float[2,8] y) <int64[1] axes = {-1}> {
            f = Cast<to = 1>(keep)
            e = Exp(x)
            p = Mul(e, f)
            s = ReduceSum<keepdims = 1>(p, axes)
            y = Div(p, s)
        }""",
            {"x": (-9.0, 14.0)},
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Divisions of exponentials by their sum."""
        for call in scene.of("div"):
            exponential = written_softmax(scene, call)
            if exponential is None:
                continue
            told = too_large(scene, exponential)
            if told is not None:
                message, severity = told
                whole = scene.maker(call.name(1))
                nodes = (call.node, *(() if whole is None else (whole.node,)))
                edge = f"{math.log(scene.limits.overflow):.4g}"
                yield self.finding(
                    f"exp / sum(exp) without subtracting the maximum: exp overflows {scene.low} "
                    f"from {edge} on{message}",
                    exponential.node, nodes, severity,
                )  # fmt: skip
