"""AMP609: angles too large for sin and cos in the low type."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.graph import Node
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import figure, is_constant
from ampconvert.hazards.scene import PASSES, Scene

ROOM = 2.0  # angles that were seen may be this much larger on other data
FINE = 1 / 16  # rad between neighbours: sin and cos are off by up to half of that, 3 %
# What computes angles from positions and frequencies.
COMPUTES = PASSES | {"mul", "matmul", "outer", "einsum", "div", "add", "sub", "concat", "stack",
                     "gather", "slice", "select", "split", "cumsum", "flip"}  # fmt: skip


class AnglesTooLarge(Hazard):
    """sin and cos of a large angle: the low type's numbers lie too far apart there.

    From 128 rad on neighbours in float16 are 1/8 rad apart, in bfloat16 from 16 rad on; at position
    2000 the fastest rotary frequency is off by half a radian in float16 and by 4 in bfloat16. The
    table of sines then describes other positions. Frequencies and positions are exact; it is their
    product that must not be rounded.

    Source: https://github.com/InternLM/InternLM/pull/239, rotary embeddings put back into float32
    """

    CODE = "AMP609"
    NAME = "angles-too-large"
    ADVICE = (
        "Compute positions, angles, sin and cos in FP32 and cast the result, or store the table."
    )
    VALID = (
        # 64 positions.
        Case("""g (float[64,4] x) => (float[64,4] y)
        <int64 start = {0}, int64 end = {64}, int64 step = {1}, int64[1] axes = {1},
         float[1,4] freq = {1.0, 0.1, 0.01, 0.001}> {
            r = Range(start, end, step)
            f = Cast<to = 1>(r)
            u = Unsqueeze(f, axes)
            a = MatMul(u, freq)
            y = Cos(a)
        }"""),
        # Activations of unknown size.
        Case("""g (float[64,4] x, float[4,4] w) => (float[64,4] y) {
            a = MatMul(x, w)
            y = Sin(a)
        }"""),
        Case(
            """g (float[64,4] x) => (float[64,4] y) <float w = {30.0}> {
            a = Mul(x, w)
            y = Sin(a)
        }""",
            {"a": (-20.0, 15.0)},
        ),
        # Positions as shares of the whole, as in DETR.
        Case("""g (bool[1,s] m) => (float[1,s] y)
        <int64 axis = {1}, int64[1] last = {-1}, float eps = {1e-6}, float circle = {6.28}> {
            f = Cast<to = 1>(m)
            c = CumSum(f, axis)
            n = Gather<axis = 1>(c, last)
            d = Add(n, eps)
            r = Div(c, d)
            a = Mul(r, circle)
            y = Sin(a)
        }"""),
        # Timesteps between 0 and 1.
        Case("""g (float[2,1] t) => (float[2,4] y) <float[1,4] freq = {1.0, 2.0, 4.0, 8.0}> {
            s = Sigmoid(t)
            a = MatMul(s, freq)
            y = Sin(a)
        }"""),
    )
    INVALID = (
        # Rotary embedding, as many positions as the text has.
        Case("""g (int64[b,s] ids) => (float[b,s,4] y)
        <int64[1] axes = {2}, float[1,4] freq = {1.0, 0.1, 0.01, 0.001}> {
            f = Cast<to = 1>(ids)
            u = Unsqueeze(f, axes)
            a = MatMul(u, freq)
            y = Cos(a)
        }"""),
        Case("""g (float[64,4] x) => (float[4096,4] y, float[4096,4] z)
        <int64 start = {0}, int64 end = {4096}, int64 step = {1}, int64[1] axes = {1},
         float[1,4] freq = {1.0, 0.1, 0.01, 0.001}> {
            r = Range(start, end, step)
            f = Cast<to = 1>(r)
            u = Unsqueeze(f, axes)
            a = Mul(u, freq)
            y = Cos(a)
            z = Sin(a)
        }"""),
        Case(
            """g (float[64,4] x) => (float[64,4] y) <float w = {30.0}> {
            a = Mul(x, w)
            y = Sin(a)
        }""",
            {"a": (-200.0, 150.0)},
        ),
        # 64 positions are enough for bfloat16.
        Case(
            """g (float[64,4] x) => (float[64,4] y)
        <float start = {0.0}, float end = {64.0}, float step = {1.0}, int64[1] axes = {1},
         float[1,4] freq = {1.0, 0.1, 0.01, 0.001}> {
            r = Range(start, end, step)
            u = Unsqueeze(r, axes)
            a = Mul(u, freq)
            y = Cos(a)
        }""",
            low="bfloat16",
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Operands of sin and cos that reach where `low` is coarse; one finding per angle."""
        together: dict[str, list[Call]] = {}
        for call in scene.of("sin", "cos"):
            together.setdefault(scene.source(call.name(0)) or "", []).append(call)
        for angle, calls in together.items():
            computed, positions = _computed(scene, angle)
            told = _told(scene, angle, positions)
            if told is not None:
                message, severity = told
                nodes = (*computed, *(call.node for call in calls))
                yield self.finding(message, calls[0].node, nodes, severity)


def coarse_from(scene: Scene) -> float:
    """The magnitude from which neighbours in `low` are more than FINE apart, a power of two."""
    return 2.0 ** (math.floor(math.log2(FINE / (2 * scene.limits.unit))) + 1)


def _told(scene: Scene, angle: str, positions: str) -> tuple[str, Severity] | None:
    edge, limits = coarse_from(scene), scene.limits
    far = f"from {figure(edge)} rad on neighbours in {scene.low} are {figure(2 * FINE)} rad apart"
    most, seen = scene.reach(angle), scene.seen(angle)
    if most < edge:
        return None
    if seen is not None and seen.absmax >= edge:
        gap = figure(2 * limits.unit * 2.0 ** math.floor(math.log2(seen.absmax)))
        what = f"angles up to {figure(seen.absmax)} rad were seen: there neighbours in {scene.low}"
        return f"{what} are {gap} rad apart", "error"
    if positions and math.isfinite(most):
        return f"angles up to {figure(most)} rad: {far}", "warning"
    near = seen is not None and seen.absmax * ROOM >= edge
    if positions and (seen is None or positions == "counted" or near):
        found = "" if seen is None else f" ({figure(seen.absmax)} rad was seen)"
        grow = "the number of positions" if positions == "counted" else "the integers given"
        return f"angles grow with {grow}{found}: {far}", "warning"
    if seen is not None and near:
        return f"angles up to {figure(seen.absmax)} rad were seen: {far}", "warning"
    return None


def _computed(scene: Scene, angle: str) -> tuple[tuple[Node, ...], str]:
    """The float nodes that compute `angle`, and what it grows with: "counted" positions, integers
    that are "given" to the model, or "" for anything else. A division by a computed number takes
    positions to a fixed interval.
    """
    stack, known, positions, normalised = [angle], {angle}, "", False
    nodes: list[Node] = []
    while stack:
        name = stack.pop()
        call = scene.calls.get(scene.graph.producers[name].name) if _is_made(scene, name) else None
        if call is None:
            continue
        if call.function == "arange":
            positions = "counted"
        value = call.value(0)
        if call.function == "cast" and value is not None and "int" in value.dtype:
            counted = scene.maker(value.name)
            is_range = counted is not None and counted.function in ("arange", "cumsum")
            positions = "counted" if is_range else positions or "given"
            nodes.append(call.node)
            continue
        if call.function not in COMPUTES or not call.result.is_float32:
            continue
        nodes.append(call.node)
        if call.function == "div" and not is_constant(scene, call, 1):
            normalised = True
        read = [operand for operand in call.operands if isinstance(operand, str)]
        stack.extend(operand for operand in read if operand not in known)
        known.update(read)
    return tuple(nodes), "" if normalised else positions


def _is_made(scene: Scene, name: str) -> bool:
    return name in scene.graph.producers
