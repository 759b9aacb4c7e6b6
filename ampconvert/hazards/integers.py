"""AMP608: ids, positions and counts that pass through floating point."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ampconvert.findings import Finding, Severity
from ampconvert.functions import Call
from ampconvert.graph import Node
from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.patterns import figure
from ampconvert.hazards.scene import PASSES, Scene

# What is done to a position or count that is still one afterwards.
KEEPS = PASSES | {"add", "sub", "mul", "div", "neg", "abs", "floor", "ceil", "round", "trunc",
                  "clamp", "maximum", "minimum", "where", "masked_fill", "concat", "stack",
                  "slice", "select", "split", "gather", "remainder", "cumsum", "flip"}  # fmt: skip
SMALL = ("bool", "uint8", "int8")  # float16 and bfloat16 hold all of these


class IntegersInFloat(Hazard):
    """Integers go through a float type that is not exact that far, and become integers again.

    float16 holds every integer up to 2048 and bfloat16 up to 256; above that only every second,
    fourth, ... one. Position 2049 becomes 2048 and token 30521 becomes 30528: another row of the
    table, without any error. A count that is only divided by is fine: it rounds like any number.

    Source: IEEE 754-2019, binary16: 11 significant bits
    """

    CODE = "AMP608"
    NAME = "integers-in-float"
    ADVICE = (
        "Keep ids, positions and counts in an integer type, or in FP32 until they are integers."
    )
    VALID = (
        # A mean over a number of tokens.
        Case(
            """g (float[2,8] x, int64[2,1] n) => (float[2,8] y) {
            f = Cast<to = 1>(n)
            y = Div(x, f)
        }""",
            {"f": (3000.0, 9000.0)},
        ),
        # Never more than 511.
        Case("""g (float[512,8] table) => (float[512,8] y)
        <int64 start = {0}, int64 end = {512}, int64 step = {1}, float half = {1.0}> {
            r = Range(start, end, step)
            f = Cast<to = 1>(r)
            h = Mul(f, half)
            i = Cast<to = 7>(h)
            y = Gather(table, i)
        }"""),
        # Compared with a number that the type holds.
        Case(
            """g (int64[2,8] n) => (bool[2,8] y) <float zero = {0.0}> {
            f = Cast<to = 1>(n)
            y = Greater(f, zero)
        }""",
            {"f": (0.0, 30000.0)},
        ),
        Case("""g (uint8[2,8] n) => (int64[2,8] y) {
            f = Cast<to = 1>(n)
            y = Cast<to = 7>(f)
        }"""),
        # How many there are is not known.
        Case("""g (int64[2,8] n) => (int64[2,8] y) <float half = {0.5}> {
            f = Cast<to = 1>(n)
            h = Mul(f, half)
            y = Cast<to = 7>(h)
        }"""),
    )
    INVALID = (
        Case("""g (float[4096,8] table) => (float[4096,8] y)
        <int64 start = {0}, int64 end = {4096}, int64 step = {1}, float half = {0.5}> {
            r = Range(start, end, step)
            f = Cast<to = 1>(r)
            h = Mul(f, half)
            l = Floor(h)
            i = Cast<to = 7>(l)
            y = Gather(table, i)
        }"""),
        # Token ids of a large vocabulary.
        Case("""g (int64[2,8] ids, float[30522,4] table) => (float[2,8,4] y) <float zero = {0.0}> {
            f = Cast<to = 1>(ids)
            m = Max(f, zero)
            i = Cast<to = 7>(m)
            y = Gather(table, i)
        }"""),
        Case(
            """g (int64[2,8] a, int64[2,8] b) => (bool[2,8] y) {
            f = Cast<to = 1>(a)
            h = Cast<to = 1>(b)
            y = Equal(f, h)
        }""",
            {"f": (0.0, 5000.0)},
        ),
        Case(
            """g (float[1000,8] table) => (float[1000,8] y)
        <float start = {0.0}, float end = {1000.0}, float step = {1.0}> {
            r = Range(start, end, step)
            i = Cast<to = 7>(r)
            y = Gather(table, i)
        }""",
            low="bfloat16",
        ),
    )

    def check(self, scene: Scene) -> Iterator[Finding]:
        """Integers above what `low` counts exactly, from where they become float to where not."""
        told: set[str] = set()
        for call in scene.of("cast", "arange"):
            if not _brings_integers(call):
                continue
            for node, way, rows in _back_to_integers(scene, call.result.name):
                known = _largest(scene, call, rows)
                if known is None or node.name in told:
                    continue
                most, is_seen = known
                told.add(node.name)
                exact = scene.limits.exact_integers
                severity: Severity = "error" if is_seen else "warning"
                kind = node.op.rpartition("::")[2]
                yield self.finding(
                    f"integers up to {figure(most)} go through float on their way to {kind} "
                    f"({node.name}): {scene.low} is exact to {exact}",
                    call.node, (*way, node), severity,
                )  # fmt: skip


def _brings_integers(call: Call) -> bool:
    if call.function == "arange":
        return True
    value = call.value(0)
    return value is not None and "int" in value.dtype and value.dtype not in SMALL


def _largest(scene: Scene, call: Call, rows: float) -> tuple[float, bool] | None:
    """The largest integer that may come, if `low` is not exact up to there, and whether it was
    seen; `rows` is what the table holds that they are looked up in.
    """
    exact = scene.limits.exact_integers
    seen = scene.seen(call.result.name)
    if seen is not None and seen.absmax > exact:
        return seen.absmax, True
    reach = min(scene.reach(call.result.name), _of_integers(scene, call))
    if math.isfinite(reach):
        return (reach, False) if reach > exact else None
    return (rows - 1, False) if rows - 1 > exact else None


def _of_integers(scene: Scene, call: Call) -> float:
    return scene.reach(call.name(0)) if call.function == "cast" else math.inf


def _back_to_integers(scene: Scene, start: str) -> Iterator[tuple[Node, tuple[Node, ...], float]]:
    """The nodes that make integers or booleans of what `start` holds, the float nodes on the way,
    and the rows of the table that the integers are looked up in (0 without one).
    """
    stack: list[tuple[str, tuple[Node, ...]]] = [(start, ())]
    known: set[str] = set()
    while stack:
        name, way = stack.pop()
        if name in known:
            continue
        known.add(name)
        for node, place in scene.graph.readers[name]:
            made = scene.graph.output_values(node)
            call = scene.calls.get(node.name)
            if made and not any("float" in value.dtype for value in made):
                if not _compares_with_exact(scene, node, place):
                    yield node, way, _rows(scene, node)
            elif call is not None and call.function in KEEPS and _keeps(scene, call, name):
                stack.extend((out, (*way, node)) for out in node.outputs)


def _keeps(scene: Scene, call: Call, name: str) -> bool:
    """Whether the result still counts something: no activation comes in."""
    if call.function == "gather":
        return call.name(0) == name
    if call.function not in ("mul", "div", "add", "sub"):
        return True
    other = call.operands[1] if call.operands[0] == name else call.operands[0]
    if not isinstance(other, str) or call.function in ("add", "sub"):
        return True
    source = scene.graph.values[scene.source(other) or other]
    return source.kind == "weight" or not source.is_float32


def _compares_with_exact(scene: Scene, node: Node, place: int) -> bool:
    """Whether `node` compares with a number that `low` holds: rounding keeps the order."""
    others = [name for p, name in enumerate(node.inputs) if p != place and name is not None]
    given = [a for a in node.attrs.values() if isinstance(a, int | float) and a is not True]
    made = scene.graph.output_values(node)
    if not made or made[0].dtype != "bool":
        return False
    numbers = [scene.bounds(name) for name in others] + [(float(a), float(a)) for a in given]
    exact = scene.limits.exact_integers
    return bool(numbers) and all(
        low == high and abs(low) <= exact and low == int(low) for low, high in numbers
    )


def _rows(scene: Scene, node: Node) -> float:
    """The rows of the first table that the integers of `node` are looked up in; 0 without one."""
    for name in node.outputs:
        for reader, call, _ in scene.uses(name):
            tables = [call.value(0)] if call is not None else []
            if call is None or call.function not in ("gather", "embedding"):
                continue
            for table in tables:
                if table is not None and table.name != name and table.shape:
                    axis = int(reader.attrs.get("axis", 0) or 0)
                    rows = table.shape[axis]
                    return float(rows) if isinstance(rows, int) else 0.0
    return 0.0
