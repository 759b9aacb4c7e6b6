"""AMP601: an epsilon that is zero in the low type."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import denominators, described, exponent_of, figure
from ampconvert.hazards.scene import Scene


class EpsilonBelowRange(Hazard):
    """An epsilon that guards a division, a root below a division or a logarithm is lost.

    The smallest number of float16 is 2^-24, about 6e-8; half of it and less rounds to zero. An
    epsilon of 1e-8 or 1e-12 is then no guard: the first row of zeros divides by zero. A reciprocal
    is also lost to a larger epsilon: 1/1e-6 is 1e6, and float16 ends at 65504. The epsilon of a
    fused normalisation is no hazard, for its kernel computes in float32.

    Source: IEEE 754-2019, binary16; https://docs.pytorch.org/docs/stable/amp.html
    """

    CODE = "AMP601"
    NAME = "epsilon-below-range"
    ADVICE = (
        "Take an epsilon that the type holds (1e-5 or more for float16), or keep the guard and the "
        "division in FP32."
    )
    VALID = (
        Case("""g (float[2,8] x) => (float[2,8] y)
        <float two = {2.0}, int64[1] axes = {-1}, float eps = {1e-5}> {
            s = Pow(x, two)
            m = ReduceMean<keepdims = 1>(s, axes)
            a = Add(m, eps)
            r = Sqrt(a)
            y = Div(x, r)
        }"""),
        # A root alone takes a zero well.
        Case("""g (float[2,8] x) => (float[2,8] y) <float eps = {1e-12}> {
            s = Mul(x, x)
            a = Add(s, eps)
            y = Sqrt(a)
        }"""),
        # The inverse of the root of 1e-6 is 1000.
        Case("""g (float[2,8] x) => (float[2,8] y)
        <int64[1] axes = {-1}, float eps = {1e-6}> {
            s = Mul(x, x)
            m = ReduceMean<keepdims = 1>(s, axes)
            a = Add(m, eps)
            r = Sqrt(a)
            i = Reciprocal(r)
            y = Mul(x, i)
        }"""),
        # The largest exponential of a softmax is 1, and so is the least that their sum can be.
        Case("""g (float[2,8] x) => (float[2,8] y)
        <int64[1] axes = {-1}, float eps = {1e-9}> {
            m = ReduceMax<keepdims = 1>(x, axes)
            z = Sub(x, m)
            e = Exp(z)
            s = ReduceSum<keepdims = 1>(e, axes)
            d = Add(s, eps)
            y = Div(e, d)
        }"""),
        Case("""g (float[2,8] x, float[8] w, float[8] b) => (float[2,8] y) {
            y = LayerNormalization<epsilon = 1e-12>(x, w, b)
        }"""),
        Case(
            """g (float[2,8] x) => (float[2,8] y) <float eps = {1e-12}> {
            a = Add(x, eps)
            y = Log(a)
        }""",
            low="bfloat16",
        ),
    )
    INVALID = (
        Case("""g (float[2,8] x) => (float[2,8] y)
        <float two = {2.0}, int64[1] axes = {-1}, float eps = {1e-8}> {
            s = Pow(x, two)
            m = ReduceMean<keepdims = 1>(s, axes)
            a = Add(m, eps)
            r = Sqrt(a)
            y = Div(x, r)
        }"""),
        # torch.nn.functional.normalize
        Case("""g (float[2,8] x) => (float[2,8] y)
        <int64[1] axes = {-1}, float eps = {1e-12}, int64[2] shape = {2, 8}> {
            n = ReduceL2<keepdims = 1>(x, axes)
            c = Clip(n, eps)
            e = Expand(c, shape)
            y = Div(x, e)
        }"""),
        Case("""g (float[2,8] x) => (float[2,8] y) <float eps = {1e-10}> {
            p = Sigmoid(x)
            a = Add(eps, p)
            y = Log(a)
        }"""),
        Case("""g (float[2,8] x) => (float[2,8] y) <float eps = {1e-9}> {
            p = Abs(x)
            a = Max(p, eps)
            y = Reciprocal(a)
        }"""),
        # The epsilon survives, its reciprocal does not.
        Case("""g (float[2,8] x) => (float[2,8] y) <float eps = {1e-6}> {
            p = Abs(x)
            a = Add(p, eps)
            y = Reciprocal(a)
        }"""),
        Case(
            """g (float[2,8] x) => (float[2,8] y) <float eps = {1e-42}> {
            p = Abs(x)
            a = Add(p, eps)
            y = Log(a)
        }""",
            low="bfloat16",
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Small constants added to a denominator or argument, or its least value."""
        for call in scene.of("add", "sub", "clamp", "maximum"):
            eps, guarded = _epsilon(scene, call)
            if eps is None or not 0 < eps < scene.limits.tiny or _is_far(scene, guarded):
                continue
            seen = scene.seen(call.result.name)
            severity: Severity = "warning"
            if seen is not None and seen.minimum > scene.limits.tiny:
                severity = "info"
            for sink, way, power in denominators(scene, call.result.name):
                wrong = _wrong(scene, eps, power, sink)
                if wrong:
                    where = f"{described(sink)} ({sink.node.name})"
                    yield self.finding(f"eps {figure(eps)} {wrong.format(where)}", call.node, way,
                                       severity)  # fmt: skip
                    break


def _epsilon(scene: Scene, call: Call) -> tuple[float | None, str | None]:
    """The small constant of `call`, and the value that it guards."""
    if call.function == "clamp":
        least = call.number(1)
        return call.attr("min") if least is None else least, call.name(0)
    for place in (1, 0):
        found = scene.number(call, place)
        if found is not None:
            sign = -1.0 if call.function == "sub" and place == 1 else 1.0
            return found * sign, call.name(1 - place)
    return None, None


def _wrong(scene: Scene, eps: float, power: float, sink: Call) -> str:
    """What `eps`, raised to `power` on its way, does to `sink`; "" when it does its work."""
    limits = scene.limits
    if eps <= limits.smallest / 2:
        smallest = figure(limits.smallest)
        return f"is 0 in {scene.low} (smallest {smallest}): {{}} gets a zero"
    numerator = sink.number(0) if sink.function == "div" else None
    inverts = sink.function == "reciprocal" or (numerator is not None and abs(numerator) >= 1)
    inverse = eps**-power
    if inverts and inverse >= limits.overflow:
        largest = figure(limits.max)
        return f"makes {{}} give {figure(inverse)} on a zero, beyond {scene.low}'s {largest}"
    return ""


def _is_far(scene: Scene, name: str | None) -> bool:
    """Whether `name` stays away from zero by itself."""
    if scene.bounds(name)[0] > scene.limits.tiny:
        return True
    call = scene.maker(name)
    if call is None or call.function != "sum":
        return False
    # One of the exponentials below a maximum is 1.
    exponential = exponent_of(scene, call.name(0))
    below = None if exponential is None else scene.maker(exponential.name(0))
    taken = None if below is None or below.function != "sub" else scene.maker(below.name(1))
    return taken is not None and taken.function == "amax"
