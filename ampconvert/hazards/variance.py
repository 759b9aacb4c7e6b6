"""AMP603: a variance as the difference of two large means."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import averaged, factors_of, figure, square_root_of, unscaled
from ampconvert.hazards.scene import Scene

HARMLESS = 0.01  # of the variance: an error that a normalisation hardly shows


class VarianceCancellation(Hazard):
    """E[x^2] - E[x]^2 subtracts two nearly equal numbers, and what is left is their rounding.

    Each mean carries a relative error of up to 2^-11 in float16 and 2^-8 in bfloat16. Where the
    mean is 32 times the deviation (11 times in bfloat16), both errors together are as large as the
    variance itself: it can be negative, and its root is NaN. float32 gets there at 2900.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 1.9
    """

    CODE = "AMP603"
    NAME = "variance-cancellation"
    ADVICE = (
        "Subtract the mean before squaring: E[(x - E[x])^2] (--repair two-pass-variance), or keep "
        "both means and the difference in FP32."
    )
    VALID = (
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            m = ReduceMean<keepdims = 1>(x, axes)
            d = Sub(x, m)
            s = Mul(d, d)
            y = ReduceMean<keepdims = 1>(s, axes)
        }"""),
        # The difference of the squares of two different things.
        Case("""g (float[2,8] x, float[2,8] z) => (float[2,1] y) <int64[1] axes = {-1}> {
            s = Mul(x, x)
            a = ReduceMean<keepdims = 1>(s, axes)
            m = ReduceMean<keepdims = 1>(z, axes)
            b = Mul(m, m)
            y = Sub(a, b)
        }"""),
        # A mean near zero takes nothing away.
        Case(
            """g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            s = Mul(x, x)
            a = ReduceMean<keepdims = 1>(s, axes)
            m = ReduceMean<keepdims = 1>(x, axes)
            b = Mul(m, m)
            y = Sub(a, b)
        }""",
            {"b": (0.0, 0.01), "y": (0.5, 1.5)},
        ),
    )
    INVALID = (
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}, float two = {2.0}> {
            s = Pow(x, two)
            a = ReduceMean<keepdims = 1>(s, axes)
            m = ReduceMean<keepdims = 1>(x, axes)
            b = Pow(m, two)
            y = Sub(a, b)
        }"""),
        # By sums and a count.
        Case("""g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}, float n = {8.0}> {
            s = Mul(x, x)
            t = ReduceSum<keepdims = 1>(s, axes)
            a = Div(t, n)
            u = ReduceSum<keepdims = 1>(x, axes)
            m = Div(u, n)
            b = Mul(m, m)
            y = Sub(a, b)
        }"""),
        # SSIM: the covariance of two images under a window.
        Case("""g (float[1,1,16,16] x, float[1,1,16,16] z) => (float[1,1,14,14] y)
        <float[1,1,3,3] w = {0.1, 0.1, 0.1, 0.1, 0.2, 0.1, 0.1, 0.1, 0.1}> {
            p = Mul(x, z)
            a = Conv(p, w)
            m = Conv(x, w)
            n = Conv(z, w)
            b = Mul(m, n)
            y = Sub(a, b)
        }"""),
        Case(
            """g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
            s = Mul(x, x)
            a = ReduceMean<keepdims = 1>(s, axes)
            m = ReduceMean<keepdims = 1>(x, axes)
            b = Mul(m, m)
            y = Sub(a, b)
        }""",
            {"b": (0.0, 400.0), "y": (0.1, 1.5)},
            "bfloat16",
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Differences of a mean of products and the product of the means."""
        for call in scene.of("sub"):
            means = _means(scene, call)
            if means is None or abs(call.factor) != 1:
                continue
            told = _told(scene, call)
            if told is not None:
                message, severity = told
                yield self.finding(message, call.node, tuple(c.node for c in means), severity)


def _means(scene: Scene, call: Call) -> tuple[Call, ...] | None:
    """The calls behind E[xy] - E[x]E[y]; None when `call` is something else."""
    whole = averaged(scene, call.name(0))
    subtracted = unscaled(scene, scene.maker(call.name(1)))
    if whole is None or subtracted is None:
        return None
    inner = factors_of(scene, whole[0])
    outer = factors_of(scene, subtracted.result.name)
    if inner is None or outer is None:
        return None
    means = [averaged(scene, name) for name in outer]
    known = [mean for mean in means if mean is not None and mean[1] == whole[1]]
    if len(known) != 2 or sorted(inner) != sorted(scene.source(mean[0]) or "" for mean in known):
        return None
    calls = (scene.maker(call.name(0)), scene.maker(whole[0]), subtracted,
             *(scene.maker(name) for name in outer))  # fmt: skip
    return tuple(made for made in calls if made is not None)


def _told(scene: Scene, call: Call) -> tuple[str, Severity] | None:
    """What the rounding of both means does to their difference; None where that is little."""
    kind = "variance" if square_root_of(scene, call.name(1)) else "difference of means"
    form = f"{kind} as E[x^2] - E[x]^2"
    taken, left = scene.seen(call.name(1)), scene.seen(call.result.name)
    unit = scene.limits.unit
    if taken is None or left is None:
        worth = f"each mean is off by up to {figure(unit * 100)} % in {scene.low}"
        return f"{form}: {worth}, of a number that may be far larger than what is left", "warning"
    error = taken.absmax * unit
    if left.minimum > 0 and error <= HARMLESS * left.minimum:
        return None
    lost = f"E[x]^2 was seen at {figure(taken.absmax)} and rounds by {figure(error)} in {scene.low}"
    least = figure(left.minimum)
    severity: Severity = "error" if error >= left.minimum else "warning"
    return f"{form}: {lost}; the difference was seen down to {least}", severity
