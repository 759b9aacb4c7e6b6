"""AMP611: attention scores that are scaled after the product."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import figure
from ampconvert.hazards.scene import HEADROOM, Scene

# From this width on, elements of 16 are enough for a score beyond 65504.
WIDE = 256
PRODUCTS = frozenset({"matmul", "einsum"})


class ScoresBeforeScaling(Hazard):
    """Attention scores overflow before they are divided by sqrt(d).

    q k^T adds d products. In a head of width 512, as in a VAE's attention, elements of 11.3 that
    agree in sign already pass 65504, though the score that the softmax gets is 22 times smaller.
    Scaling q before the product costs nothing and, by a power of two, changes no bit.

    Source: https://arxiv.org/abs/1706.03762, section 3.2.1
    """

    CODE = "AMP611"
    NAME = "scores-before-scaling"
    ADVICE = (
        "Scale the query before the product (--repair scale-query), or use "
        "scaled_dot_product_attention; else keep the product in FP32."
    )
    VALID = (
        # The query is scaled.
        Case("""g (float[1,8,512] q, float[1,512,8] k) => (float[1,8,8] y) <float c = {0.0442}> {
            s = Mul(q, c)
            p = MatMul(s, k)
            y = Softmax(p)
        }"""),
        # A narrow head, and one that was seen to stay small.
        Case("""g (float[1,8,64] q, float[1,64,8] k) => (float[1,8,8] y) <float c = {8.0}> {
            p = MatMul(q, k)
            d = Div(p, c)
            y = Softmax(d)
        }"""),
        Case(
            """g (float[1,8,512] q, float[1,512,8] k) => (float[1,8,8] y) <float c = {0.0442}> {
            p = MatMul(q, k)
            d = Mul(p, c)
            y = Softmax(d)
        }""",
            {"p": (-300.0, 900.0)},
        ),
        Case(
            """g (float[1,8,512] q, float[1,512,8] k) => (float[1,8,8] y) <float c = {0.0442}> {
            p = MatMul(q, k)
            d = Mul(p, c)
            y = Softmax(d)
        }""",
            low="bfloat16",
        ),
    )
    INVALID = (
        Case("""g (float[1,8,512] q, float[1,512,8] k) => (float[1,8,8] y) <float c = {0.0442}> {
            p = MatMul(q, k)
            d = Mul(p, c)
            y = Softmax(d)
        }"""),
        Case(
            """g (float[1,8,64] q, float[1,64,8] k, float[8,8] mask) => (float[1,8,8] y)
        <float c = {8.0}> {
            p = MatMul(q, k)
            d = Div(p, c)
            a = Add(d, mask)
            y = Softmax(a)
        }""",
            {"p": (-20000.0, 9000.0)},
        ),
        Case(
            """g (float[1,8,64] q, float[1,64,8] k, bool[8,8] m) => (float[1,8,8] y)
        <float c = {0.125}, float least = {-1e4}> {
            p = MatMul(q, k)
            d = Mul(c, p)
            a = Where(m, d, least)
            y = Softmax(a)
        }""",
            {"p": (-200.0, 90000.0)},
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Softmaxes of a product of activations that is scaled down behind it."""
        if scene.limits.max > 1e9:
            return
        for call in scene.of("softmax"):
            scaling = _scaling(scene, call)
            product = None if scaling is None else _product(scene, scaling)
            if scaling is None or product is None:
                continue
            told = _told(scene, product)
            if told is not None:
                message, severity = told
                yield self.finding(message, product.node, (scaling.node,), severity)


def _scaling(scene: Scene, softmax: Call) -> Call | None:
    """The scaling of what `softmax` gets, behind masks."""
    call = scene.maker(softmax.name(0))
    while call is not None and call.function in ("add", "where", "masked_fill"):
        places = {"add": (0, 1), "where": (1, 2), "masked_fill": (0,)}[call.function]
        made = [scene.maker(call.name(place)) for place in places]
        kept = [m for m in made if m is not None and m.function in _ON_THE_WAY]
        call = kept[0] if kept else None
    return call if call is not None and call.function in ("mul", "div") else None


_ON_THE_WAY = frozenset({"add", "where", "masked_fill", "mul", "div"})


def _product(scene: Scene, scaling: Call) -> Call | None:
    """The product of two activations that `scaling` makes smaller by one number."""
    for place in (0, 1) if scaling.function == "mul" else (0,):
        made = scene.maker(scaling.name(place))
        if made is None or made.function not in PRODUCTS or not _shrinks(scaling, 1 - place):
            continue
        operands = [scene.graph.values[scene.source(o) or ""] for o in made.operands[:2]]
        if len(operands) == 2 and all(v.kind != "weight" for v in operands):
            return made
    return None


def _shrinks(scaling: Call, place: int) -> bool:
    number = scaling.number(place)
    if number is None:  # sqrt(d) of a shape is computed in some exports
        value = scaling.value(place)
        return scaling.function == "div" and value is not None and value.shape in ((), (1,))
    return abs(number) < 1 if scaling.function == "mul" else abs(number) > 1


def _told(scene: Scene, product: Call) -> tuple[str, Severity] | None:
    limit, largest = scene.limits.overflow, figure(scene.limits.max)
    head = "scores are scaled after the product q k^T"
    seen = scene.seen(product.result.name)
    if seen is not None:
        if seen.absmax * HEADROOM < limit:
            return None
        over = seen.absmax >= limit
        how = "beyond" if over else f"within {HEADROOM:g} times of"
        what = f"{head}, which was seen at {figure(seen.absmax)}"
        return f"{what}: {how} {scene.low}'s {largest}", "error" if over else "warning"
    width = _width(product)
    if width is None or width < WIDE:
        return None
    if scene.reach(product.name(0)) * scene.reach(product.name(1)) * width < limit:
        return None
    edge = figure(math.sqrt(limit / width))
    return f"{head}: over {width} terms, elements of {edge} pass {scene.low}'s {largest}", "warning"


def _width(product: Call) -> int | None:
    """Terms of each element of a matrix product."""
    query = product.value(0)
    if product.function != "matmul" or query is None or not query.shape:
        return None
    width = query.shape[-1]
    return width if isinstance(width, int) else None
