"""What one observed training step shows, as values: which op left float16's range, and how a
region's gradients are spread. No tensor is held.

Everything is keyed by the name of a `Place`, the same when a module is traced again and
on every rank. A tensor that a cast brought into a region goes by the place that reads it and the
operand's name: "blocks.3.attn/matmul:self".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ampconvert.dtypes import FLOAT16
from ampconvert.graph import Graph
from ampconvert.ranges.loss_scale import ExponentHistogram

_T = TypeVar("_T", "Overflow", "Gradient")

# The largest exponent, as frexp has it, of float16's subnormal numbers: they are below 2^-14.
_LAST_SUBNORMAL = math.frexp(FLOAT16.tiny)[1] - 1


@dataclass(frozen=True)
class Place:
    """An op as people know it: the `number`th call of `operator` in the module `scope`.

    `where` is the source line; it is no part of the name.
    """

    scope: str
    operator: str
    number: int
    where: str = ""

    @property
    def name(self) -> str:
        """The same for every trace of the module: "blocks.3.attn/matmul#0"."""
        inner = f"{self.operator}#{self.number}"
        return f"{self.scope}/{inner}" if self.scope else inner


def places(graph: Graph) -> dict[str, Place]:
    """The Place of each node, by node name.

    Calls are numbered per module and operator, so what one mode or batch size alone has (dropout,
    sizes) leaves the other names as they are. An op and its in-place form are one operator.
    """
    seen: Counter[tuple[str, str]] = Counter()
    found: dict[str, Place] = {}
    for node in graph.nodes:
        operator = _operator(node.op)
        key = (node.scope, operator)
        found[node.name] = Place(node.scope, operator, seen[key], node.where)
        seen[key] += 1
    return found


def scope_of(name: str) -> str:
    """The module path in a place's name."""
    return name.rpartition("/")[0]


def _operator(op: str) -> str:
    """`aten::add_` is "add", `torchvision::nms` "torchvision.nms"."""
    name = op.removeprefix("aten::").replace("::", ".")
    return name.removesuffix("_") if not name.endswith("__") else name


@dataclass(frozen=True)
class Overflow:
    """A value that float16 can't hold though its op was given finite numbers.

    `magnitude` is the largest float32 magnitude of the elements that became inf or NaN; one below
    65504 means that the op overflowed inside. `places` have to run in FP32 for the value to be
    float32: the op that makes it and those that read it.
    """

    magnitude: float
    places: tuple[str, ...]

    def merge(self, other: Overflow) -> Overflow:
        """That of both together."""
        return Overflow(max(self.magnitude, other.magnitude), _union(self.places, other.places))


@dataclass(frozen=True)
class Gradient:
    """The gradient of one value that float16 stores, without the loss scale.

    `histogram` has the exponents of the true gradient. `exact`: they were counted in FP32, where a
    gradient enters a region; otherwise in float16, times `scale`, where what vanished is zero.
    `flushed` counts the elements that were nonzero in FP32 and became zero in float16, `overflowed`
    those that are inf or NaN in float16, both exactly. `places` as in `Overflow`.
    """

    histogram: ExponentHistogram
    places: tuple[str, ...]
    scale: float = 1.0
    flushed: int = 0
    overflowed: int = 0
    exact: bool = False

    @property
    def subnormal(self) -> int:
        """Elements that are nonzero in float16 and have lost bits: below 2^-14."""
        border = _LAST_SUBNORMAL - round(math.log2(self.scale))
        counts = self.histogram.counts
        return max(0, sum(n for e, n in counts.items() if e <= border) - self.flushed)

    def merge(self, other: Gradient) -> Gradient:
        """That of both together; `scale` is the larger one."""
        return Gradient(
            self.histogram.merge(other.histogram),
            _union(self.places, other.places),
            max(self.scale, other.scale),
            self.flushed + other.flushed,
            self.overflowed + other.overflowed,
            self.exact and other.exact,
        )


@dataclass(frozen=True)
class Arrival:
    """The first gradient of a backward pass that was inf or NaN: its name, and its number in the
    order of that pass. `outside`: it was so in FP32, before a region took it.
    """

    order: int
    name: str
    outside: bool = False


@dataclass(frozen=True)
class Observation:
    """One step, or several merged: of microbatches, or of ranks.

    `where` gives the source line of each place that is named.
    """

    overflows: Mapping[str, Overflow] = field(default_factory=dict)
    gradients: Mapping[str, Gradient] = field(default_factory=dict)
    first: Arrival | None = None
    where: Mapping[str, str] = field(default_factory=dict)

    @property
    def underflow(self) -> float:
        """The share of nonzero gradient elements that float16 flushed to zero or holds with fewer
        bits than it has.
        """
        gradients = self.gradients.values()
        nonzero = sum(g.histogram.nonzero for g in gradients)
        return sum(g.flushed + g.subnormal for g in gradients) / nonzero if nonzero else 0.0

    def merge(self, other: Observation) -> Observation:
        """That of both together, in whichever order."""
        arrivals = [a for a in (self.first, other.first) if a is not None]
        return Observation(
            _merged(self.overflows, other.overflows),
            _merged(self.gradients, other.gradients),
            min(arrivals, key=lambda a: (a.order, a.name, a.outside), default=None),
            {
                name: max(self.where.get(name, ""), other.where.get(name, ""))
                for name in sorted(self.where.keys() | other.where.keys())
            },
        )

    def without(self, places: frozenset[str]) -> Observation:
        """What concerns none but other places."""
        return replace(
            self,
            overflows={k: v for k, v in self.overflows.items() if not places.issuperset(v.places)},
            gradients={k: v for k, v in self.gradients.items() if not places.issuperset(v.places)},
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers that `from_json` reads."""
        return {
            "overflows": {
                k: {"magnitude": v.magnitude, "places": list(v.places)}
                for k, v in self.overflows.items()
            },
            "gradients": {k: _gradient_to_json(v) for k, v in self.gradients.items()},
            "first": self.first and [self.first.order, self.first.name, self.first.outside],
            "where": dict(self.where),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Observation:
        """The observation that `to_json` wrote."""
        return cls(
            {
                k: Overflow(float(v["magnitude"]), tuple(v["places"]))
                for k, v in data["overflows"].items()
            },
            {k: _gradient_from_json(v) for k, v in data["gradients"].items()},
            Arrival(*data["first"]) if data["first"] else None,
            dict(data["where"]),
        )


def _merged(one: Mapping[str, _T], other: Mapping[str, _T]) -> dict[str, _T]:
    """What either names, in one order on all ranks."""
    found: dict[str, _T] = {}
    for name in sorted(one.keys() | other.keys()):
        both = [side[name] for side in (one, other) if name in side]
        found[name] = both[0].merge(both[1]) if len(both) == 2 else both[0]
    return found


def _union(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return one if one == other else tuple(sorted({*one, *other}))


def _gradient_to_json(gradient: Gradient) -> dict[str, Any]:
    histogram = gradient.histogram
    return {
        "counts": [[e, n] for e, n in sorted(histogram.counts.items())],
        "zeros": histogram.zeros,
        "nonfinite": histogram.nonfinite,
        "largest": histogram.largest,
        "places": list(gradient.places),
        "scale": gradient.scale,
        "flushed": gradient.flushed,
        "overflowed": gradient.overflowed,
        "exact": gradient.exact,
    }


def _gradient_from_json(data: Mapping[str, Any]) -> Gradient:
    counts = {int(e): int(n) for e, n in data["counts"]}
    return Gradient(
        ExponentHistogram(counts, data["zeros"], data["nonfinite"], float(data["largest"])),
        tuple(data["places"]),
        float(data["scale"]),
        int(data["flushed"]),
        int(data["overflowed"]),
        bool(data["exact"]),
    )
