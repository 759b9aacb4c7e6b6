"""Shapes in a graph that more than one hazard looks for, each found from the value it makes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.functions import Call
from ampconvert.graph import Node
from ampconvert.hazards.scene import Scene

LOGARITHMS = frozenset({"log", "log2", "log10"})


def square_root_of(scene: Scene, name: str | float | None) -> str | None:
    """The value that `name` is the square of: x * x, x ** 2, square(x); else None."""
    factors = factors_of(scene, name)
    return factors[0] if factors is not None and factors[0] == factors[1] else None


def factors_of(scene: Scene, name: str | float | None) -> tuple[str, str] | None:
    """The two computed factors of the product `name`, a square's being the same; else None."""
    call = scene.maker(name)
    if call is None:
        return None
    x, y = scene.source(call.name(0)), scene.source(call.name(1))
    if call.function == "square" or (call.function == "pow" and call.number(1) == 2):
        y = x
    elif call.function != "mul":
        return None
    if x is None or y is None:
        return None
    held = [scene.graph.values[v] for v in (x, y)]
    return (x, y) if all(v.kind != "weight" and v.is_float32 for v in held) else None


def averaged(scene: Scene, name: str | float | None) -> tuple[str, tuple[object, ...]] | None:
    """(x, how) when `name` is a mean of x: by mean, sum and a constant factor, pooling, or a
    convolution with fixed weights. Two means that weigh elements alike have an equal `how`.
    """
    call = scene.maker(name)
    call = unscaled(scene, call)
    if call is None or call.name(0) is None:
        return None
    if call.function in ("mean", "sum"):
        how: tuple[object, ...] = ("mean", call.axes())
    elif call.function == "avg_pool":
        how = (call.node.op, str(sorted(call.node.attrs.items())))
    elif call.function == "conv":
        weight = call.value(1)
        if weight is None or weight.kind != "weight":
            return None
        how = ("conv", scene.source(call.name(1)))
    else:
        return None
    return call.name(0) or "", how


def unscaled(scene: Scene, call: Call | None) -> Call | None:
    """`call`, or what makes the data that it multiplies with or divides by a constant."""
    while call is not None and call.function in ("mul", "div"):
        constants = [place for place in (0, 1) if is_constant(scene, call, place)]
        if constants == [1]:
            call = scene.maker(call.name(0))
        elif constants == [0] and call.function == "mul":
            call = scene.maker(call.name(1))
        else:
            break
    return call


def is_constant(scene: Scene, call: Call, place: int) -> bool:
    """Whether the operand at `place` is a number, a weight, or counts elements."""
    if scene.number(call, place) is not None:
        return True
    source = scene.source(call.name(place))
    if source is None:
        return False
    value = scene.graph.values[source]
    return value.kind == "weight" or not value.is_float32


def exponent_of(scene: Scene, name: str | float | None) -> Call | None:
    """The exp that makes `name`, behind changes of shape and masking; else None."""
    call = scene.maker(name)
    while call is not None and call.function in ("masked_fill", "where", "mul"):
        places = (0,) if call.function == "masked_fill" else (1, 2)
        if call.function == "mul":
            places = (0, 1)
        made = [(p, m) for p in places if (m := scene.maker(call.name(p))) is not None]
        kept = [m for _, m in made if m.function in ("exp", "masked_fill", "where", "mul")]
        if len(kept) != 1 or (
            call.function == "mul" and not any(counts(scene, call.name(p)) for p in (0, 1))
        ):
            return None
        call = kept[0]
    return call if call is not None and call.function == "exp" else None


def written_softmax(scene: Scene, call: Call) -> Call | None:
    """The exp of a softmax written as exp(z) / sum(exp(z)), where `call` is its division."""
    if call.function != "div":
        return None
    above = exponent_of(scene, call.name(0))
    whole = scene.maker(call.name(1))
    while whole is not None and whole.function in ("add", "clamp", "maximum"):
        whole = scene.maker(whole.name(0))
    if above is None or whole is None or whole.function != "sum":
        return None
    below = exponent_of(scene, whole.name(0))
    if below is None or scene.source(below.name(0)) != scene.source(above.name(0)):
        return None
    return below  # the same as `above`, or its like computed twice


def is_softmax(scene: Scene, call: Call | None) -> bool:
    """Whether `call` makes a softmax's probabilities, fused or by hand."""
    if call is None:
        return False
    return call.function == "softmax" or written_softmax(scene, call) is not None


def denominators(scene: Scene, name: str) -> Iterator[tuple[Call, tuple[Node, ...], float]]:
    """Where a zero in `name` gives an infinity or NaN: divisions, reciprocals, logarithms.

    Each with the nodes on the way there, over square roots, magnitudes and changes of shape, and
    the power that the roots raise it to.
    """
    stack: list[tuple[str, tuple[Node, ...], float]] = [(name, (), 1.0)]
    while stack:
        read, way, power = stack.pop()
        for node, call, place in scene.uses(read):
            if call is None or not call.result.is_float32:
                continue
            if call.function in ("sqrt", "abs"):
                root = 0.5 if call.function == "sqrt" else 1.0
                stack.append((call.result.name, (*way, node), power * root))
            elif divides(call, place):
                yield call, (*way, node), power


def divides(call: Call, place: int) -> bool:
    """Whether zero at the operand `place` of `call` gives an infinity."""
    if call.function == "div":
        return place == 1
    if call.function == "pow":
        exponent = call.number(1)
        return place == 0 and exponent is not None and exponent < 0
    return call.function in ("reciprocal", "rsqrt") or call.function in LOGARITHMS


def described(call: Call) -> str:
    """The operator as its format names it, for a message: "ReduceMean", "mean"."""
    return call.node.op.rpartition("::")[2]


def figure(number: float) -> str:
    """A number as people write it: 1e-8, 65504, 0.25."""
    if number and math.isfinite(number) and not 1e-3 <= abs(number) < 1e6:
        mantissa, exponent = f"{number:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}"
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def counts(scene: Scene, name: str | float | None) -> bool:
    """Whether `name` is float by a cast alone: integers or booleans, and constants with them."""
    stack, found = [name], False
    while stack:
        source = scene.source(stack.pop())
        if source is None:
            continue
        value = scene.graph.values[source]
        if not value.is_float32:
            found = True
        elif value.kind != "weight":
            call = scene.maker(source)
            if call is None or call.function not in ("add", "sub", "mul"):
                return False
            stack.extend(call.operands[:2])
    return found
