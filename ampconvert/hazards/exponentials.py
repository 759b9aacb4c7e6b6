"""AMP605: exponentials that are added up, as in a log-sum-exp by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import LOGARITHMS, described, exponent_of, figure, written_softmax
from ampconvert.hazards.scene import HEADROOM, Scene


class ExponentialIntoSum(Hazard):
    """Exponentials are added up: one argument of 11.1, or a sum of smaller ones, is inf in float16.

    log(sum(exp(x))) is a number near the largest x, but exp(11.09) is already 65504 and the log of
    inf is inf. logsumexp takes the maximum out first. Kernel features of linear attention and
    partition functions by hand go the same way. bfloat16 overflows at 88.7, like float32.

    Source: Blanchard, Higham and Higham 2021, https://doi.org/10.1093/imanum/draa038
    """

    CODE = "AMP605"
    NAME = "exponential-into-sum"
    ADVICE = (
        "Use logsumexp, or take the maximum out of the exponent first; else keep exp, sum and what "
        "follows in FP32."
    )
    VALID = (
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            y = ReduceLogSumExp<keepdims = 1>(x, axes)
        }"""),
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            m = ReduceMax<keepdims = 1>(x, axes)
            z = Sub(x, m)
            e = Exp(z)
            s = ReduceSum<keepdims = 1>(e, axes)
            l = Log(s)
            y = Add(l, m)
        }"""),
        # Gaussian weights are 1 at most.
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            q = Mul(x, x)
            n = Neg(q)
            e = Exp(n)
            y = ReduceSum<keepdims = 1>(e, axes)
        }"""),
        Case(
            """g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            e = Exp(x)
            s = ReduceSum<keepdims = 1>(e, axes)
            y = Log(s)
        }""",
            {"x": (-8.0, 3.0), "s": (0.5, 70.0)},
        ),
    )
    INVALID = (
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            e = Exp(x)
            s = ReduceSum<keepdims = 1>(e, axes)
            y = Log(s)
        }"""),
        Case(
            """g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            e = Exp(x)
            y = ReduceMean<keepdims = 1>(e, axes)
        }""",
            {"x": (-3.0, 8.0)},
        ),
        Case("""g (float[2,8] x) => (float[2,8] y) <int64 axis = {1}> {
            e = Exp(x)
            y = CumSum(e, axis)
        }"""),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Sums of exponentials that no softmax is made of."""
        if scene.limits.max > 1e9:
            return
        softmaxes = {
            made.node.name
            for call in scene.of("div")
            if (made := written_softmax(scene, call)) is not None
        }
        for call in scene.of("sum", "mean", "cumsum"):
            exponential = exponent_of(scene, call.name(0))
            if exponential is None or exponential.node.name in softmaxes:
                continue
            told = too_large(scene, exponential, call)
            if told is None:
                continue
            message, severity = told
            logs = [
                node
                for node, reader, _ in scene.uses(call.result.name)
                if reader is not None and reader.function in LOGARITHMS
            ]
            what = "log(sum(exp(x))) by hand" if logs else f"{described(call)} of exponentials"
            edge = f"{math.log(scene.limits.overflow):.4g}"
            yield self.finding(
                f"{what}: exp overflows {scene.low} from {edge} on{message}",
                exponential.node, (call.node, *logs), severity,
            )  # fmt: skip


def too_large(
    scene: Scene, exponential: Call, whole: Call | None = None
) -> tuple[str, Severity] | None:
    """What was seen of an exponential and of the sum of many, and how bad that is; None when it
    fits with room to spare.
    """
    limit = scene.limits.overflow
    edge = math.log(limit)
    most = scene.bounds(exponential.name(0))[1]
    if most <= 0 or scene.limits.max > 1e9:
        return None
    if most < edge and _fits_in_sum(scene, most, whole):
        return None
    seen = _largest_seen(scene, exponential)
    if seen is None:
        return "", "warning"
    total = None if whole is None else scene.seen(whole.result.name)
    added = 0.0 if total is None else total.absmax
    if seen >= edge or added >= limit:
        return f", and {figure(seen)} was seen", "error"
    # Twice the logit is what the headroom of other values is to a number that is squared.
    if seen * 2 < edge and added * HEADROOM < limit:
        return None
    return f"; up to {figure(seen)} was seen", "warning"


def _largest_seen(scene: Scene, exponential: Call) -> float | None:
    """The largest argument that was seen, or the logarithm of the largest result."""
    argument = scene.seen(exponential.name(0))
    if argument is not None:
        return argument.maximum
    result = scene.seen(exponential.result.name)
    return math.log(result.maximum) if result is not None and result.maximum > 0 else None


def _fits_in_sum(scene: Scene, most: float, whole: Call | None) -> bool:
    if whole is None or whole.function == "mean":
        return True
    terms = scene.size(whole.name(0), whole.axes())
    return terms is not None and math.exp(most) * terms < scene.limits.overflow
