"""AMP602: squares on their way into a sum or mean."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import described, figure, square_root_of
from ampconvert.hazards.scene import HEADROOM, Scene


class SquaresOverflow(Hazard):
    """The squares of an RMSNorm, a variance or an L2 norm by hand leave float16's range.

    A square passes 65504 from 256 on, and the residual stream of a trained transformer is larger
    than that in places. The mean is then inf, its inverse root 0, and the row's result all zeros,
    without a NaN that anyone would notice. Fused normalisations compute in float32 inside. bfloat16
    has float32's range.

    Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467, for the form; IEEE 754-2019,
    binary16, for the range
    """

    CODE = "AMP602"
    NAME = "squares-overflow"
    ADVICE = (
        "Scale by a power of two before squaring (--repair scale-squares), or keep square, "
        "reduction and root in FP32."
    )
    VALID = (
        # Seen small enough, with room.
        Case(
            """g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            s = Mul(x, x)
            y = ReduceMean<keepdims = 1>(s, axes)
        }""",
            {"x": (-20.0, 31.0)},
        ),
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            t = Tanh(x)
            s = Mul(t, t)
            y = ReduceMean<keepdims = 1>(s, axes)
        }"""),
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            t = Softmax(x)
            y = ReduceSumSquare<keepdims = 1>(t, axes)
        }"""),
        Case(
            """g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            s = Mul(x, x)
            y = ReduceMean<keepdims = 1>(s, axes)
        }""",
            low="bfloat16",
        ),
        # A product of two different things is no square.
        Case("""g (float[2,8] x, float[2,8] z) => (float[2,1] y) <int64[1] axes = {-1}> {
            s = Mul(x, z)
            y = ReduceMean<keepdims = 1>(s, axes)
        }"""),
    )
    INVALID = (
        # RMSNorm
        Case("""g (float[2,8] x) => (float[2,8] y)
        <float two = {2.0}, int64[1] axes = {-1}, float eps = {1e-5}> {
            s = Pow(x, two)
            m = ReduceMean<keepdims = 1>(s, axes)
            a = Add(m, eps)
            r = Sqrt(a)
            y = Div(x, r)
        }"""),
        # LayerNorm
        Case(
            """g (float[2,8] x) => (float[2,8] y)
        <float two = {2.0}, int64[1] axes = {-1}, float eps = {1e-5}> {
            n = ReduceMean<keepdims = 1>(x, axes)
            d = Sub(x, n)
            s = Pow(d, two)
            m = ReduceMean<keepdims = 1>(s, axes)
            a = Add(m, eps)
            r = Sqrt(a)
            y = Div(d, r)
        }""",
            {"d": (-900.0, 400.0)},
        ),
        # GroupNorm
        Case("""g (float[2,8,4,4] x) => (float[2,2,1] y)
        <int64[1] axes = {-1}, int64[3] groups = {2, 2, -1}> {
            f = Reshape(x, groups)
            n = ReduceMean<keepdims = 1>(f, axes)
            d = Sub(f, n)
            s = Mul(d, d)
            y = ReduceMean<keepdims = 1>(s, axes)
        }"""),
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            y = ReduceSumSquare<keepdims = 1>(x, axes)
        }"""),
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            y = ReduceL2<keepdims = 1>(x, axes)
        }"""),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Reductions of squares whose operand may be too large for it."""
        if scene.limits.max > 1e9:  # the squares of bfloat16 end where float32's do
            return
        for call in scene.of("sum", "mean", "avg_pool", "sum_square", "l2_norm"):
            inside = call.function in ("sum_square", "l2_norm")
            root = scene.source(call.name(0)) if inside else square_root_of(scene, call.name(0))
            if root is None or not scene.graph.values[root].is_float32:
                continue
            square = call if inside else scene.maker(call.name(0)) or call
            told = _told(scene, root, call)
            if told is not None:
                message, severity = told
                what = f"{described(square)} squares what {described(call)} adds up"
                if inside:
                    what = f"{described(call)} adds up squares"
                yield self.finding(f"{what}: {message}", square.node, (call.node,),
                                   severity)  # fmt: skip


def _told(scene: Scene, root: str, call: Call) -> tuple[str, Severity] | None:
    """What is wrong with squaring `root`, and how bad; None when it was seen to fit."""
    limit = scene.limits.overflow
    terms = 1 if call.function in ("mean", "avg_pool") else scene.size(call.name(0), call.axes())
    if terms is not None and scene.reach(root) ** 2 * terms < limit:
        return None
    edge, largest = figure(math.sqrt(limit)), figure(scene.limits.max)
    seen, total = scene.seen(root), scene.seen(call.result.name)
    if seen is None:
        return f"in {scene.low} a square overflows from {edge} on", "warning"
    square = seen.absmax**2
    added = 0.0 if total is None else total.absmax ** (2 if call.function == "l2_norm" else 1)
    if max(square, added) * HEADROOM < limit:
        return None
    what = f"{figure(seen.absmax)} was seen, its square is {figure(square)}"
    if added > square:
        what = f"the sum of squares was seen at {figure(added)}"
    over = max(square, added) >= limit
    how = "beyond" if over else f"within {HEADROOM:g} times of"
    return f"{what}, {how} {scene.low}'s {largest}", "error" if over else "warning"
