"""The loss scale that a model's gradients allow, from the exponents of one backward pass.

A loss that is multiplied by 2^k moves every gradient k binary exponents up, and nothing else: the
histogram of their exponents shows for every scale at once which gradients would overflow in the low
type and which would be lost below its smallest subnormal number. (Micikevicius et al., Mixed
Precision Training, ICLR 2018, section 3.2, look at the same histogram.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.graph import Graph

SHARE = 0.01  # of a tensor's nonzero gradient elements that may be lost
MASS = 1e-3  # of the sum of their squares
MARGIN = 2  # bits: gradients may grow fourfold, as on data that was not seen

Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


@dataclass(frozen=True)
class ExponentHistogram:
    """How many elements have which binary exponent e, that is 2^(e-1) <= |x| < 2^e, as frexp has
    it. Everything is exact, merged in any order.
    """

    counts: Mapping[int, int]
    zeros: int = 0
    nonfinite: int = 0  # inf or NaN
    largest: float = 0.0  # magnitude, of the finite ones

    @classmethod
    def of(cls, array: Array) -> ExponentHistogram:
        """That of a float32 array."""
        bits = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint32) & 0x7FFFFFFF
        tally = np.bincount(bits >> 23, minlength=256)
        counts = {e - 126: int(tally[e]) for e in range(1, 255) if tally[e]}
        zeros = 0
        if tally[0]:
            small = bits[bits < 1 << 23]  # zeros and float32's own subnormals: n * 2^-149
            lengths = np.frexp(small.astype(np.float64))[1]
            for length, count in enumerate(np.bincount(lengths)):
                if length and count:
                    counts[length - 149] = counts.get(length - 149, 0) + int(count)
            zeros = int(np.count_nonzero(small == 0))
        finite = bits[bits < 0x7F800000] if tally[255] else bits
        top = finite.max(initial=0).astype(np.uint32)
        return cls(counts, zeros, int(tally[255]), float(top.view(np.float32)))

    def merge(self, other: ExponentHistogram) -> ExponentHistogram:
        """That of both together."""
        exponents = self.counts.keys() | other.counts.keys()
        return ExponentHistogram(
            {e: self.counts.get(e, 0) + other.counts.get(e, 0) for e in exponents},
            self.zeros + other.zeros,
            self.nonfinite + other.nonfinite,
            max(self.largest, other.largest),
        )

    @property
    def nonzero(self) -> int:
        """Finite elements that are not zero."""
        return sum(self.counts.values())

    def lost(self, exponent: int, low: Low) -> float:
        """The share of the nonzero elements below `low`'s smallest subnormal number once they are
        multiplied by 2^exponent.
        """
        first = _first_kept(low) - exponent
        gone = sum(count for e, count in self.counts.items() if e < first)
        return gone / self.nonzero if gone else 0.0


@dataclass(frozen=True)
class TensorScale:
    """The powers of two, smallest and largest, that one tensor's gradient can be multiplied by.

    `smallest` > `largest` where its own spread is wider than the low type. `lost` is the share of
    its nonzero elements that vanish without any scale, `largest_gradient` its largest magnitude.
    """

    name: str
    smallest: int
    largest: int
    largest_gradient: float
    lost: float
    nonfinite: int = 0
    label: str = ""  # a parameter's own name
    scope: str = ""
    where: str = ""

    def allows(self, exponent: int) -> bool:
        """Whether 2^exponent is between the two."""
        return self.smallest <= exponent <= self.largest


@dataclass(frozen=True)
class LossScale:
    """What loss scale a model's gradients allow.

    `window` holds the exponents a <= b of the scales 2^a .. 2^b that every tensor allows, None
    where there is none; then `recommended` is the scale that the most tensors allow, and `outside`
    are the others, fewest per layer first. `loss` says what was differentiated, `reason` what the
    figures mean.
    """

    low: Low
    window: tuple[int, int] | None
    recommended: float
    needed: bool  # whether anything is lost, or overflows, without a scale
    outside: tuple[TensorScale, ...]
    tensors: tuple[TensorScale, ...]
    reason: str
    loss: str = ""


def advise(
    histograms: Mapping[str, ExponentHistogram],
    low: Low,
    graph: Graph | None = None,
    *,
    share: float = SHARE,
    mass: float = MASS,
    margin: int = MARGIN,
    full: Collection[str] = (),
    loss: str = "",
) -> LossScale:
    """The window of loss scales for gradients with these histograms, by value name.

    A tensor's largest scale keeps its largest gradient below `low`'s largest number over 2^margin.
    Its smallest one is where at most `share` of its nonzero elements, with at most `mass` of the
    sum of squares, fall below `low`'s smallest subnormal number. `mass` is counted by exponent, so
    it is right to a factor of 4. Tensors without a gradient have no say, nor have those of `full`,
    whose gradients stay float32. `graph` gives each value its layer and source line.
    """
    tensors = tuple(
        _tensor(name, found, low, share, mass, margin, graph)
        for name, found in histograms.items()
        if (found.nonzero or found.nonfinite) and name not in full
    )
    usable = [t for t in tensors if not t.nonfinite]
    smallest = max((t.smallest for t in usable), default=0)
    largest = min((t.largest for t in usable), default=0)
    window = (smallest, largest) if smallest <= largest and len(usable) == len(tensors) else None
    best = _middle(window) if window else _most_allowed(usable)
    outside = _by_layer([t for t in tensors if t.nonfinite or not t.allows(best)])
    needed = any(not t.allows(0) for t in tensors)
    if not needed and low == "bfloat16":
        best = 0
    reason = _reason(low, window, best, needed, outside, margin)
    return LossScale(low, window, 2.0**best, needed, outside, tensors, reason, loss)


def _tensor(
    name: str,
    found: ExponentHistogram,
    low: Low,
    share: float,
    mass: float,
    margin: int,
    graph: Graph | None,
) -> TensorScale:
    label, scope, where = _place(graph, name)
    return TensorScale(
        name,
        _first_kept(low) - _first_needed(found, share, mass),
        _largest_exponent(found.largest, low, margin),
        found.largest,
        found.lost(0, low),
        found.nonfinite,
        label,
        scope,
        where,
    )


def _first_kept(low: Low) -> int:
    """The exponent of `low`'s smallest subnormal number: that of 2^-24 is -23."""
    return math.frexp(FLOAT_TYPES[low].smallest)[1]


def _first_needed(found: ExponentHistogram, share: float, mass: float) -> int:
    """The smallest exponent that has to be kept, when all below it may be lost."""
    exponents = sorted(found.counts)
    if not exponents:
        return 0
    top = exponents[-1]
    weights = {e: found.counts[e] * 4.0 ** (e - top) for e in exponents}
    total = sum(weights.values())
    gone, energy = 0, 0.0
    for e in exponents:
        gone += found.counts[e]
        energy += weights[e]
        if gone > share * found.nonzero or energy > mass * total:
            return e
    return top


def _largest_exponent(largest: float, low: Low, margin: int) -> int:
    """The largest k with largest * 2^k <= max / 2^margin."""
    if not largest:
        return 0
    limit, top = math.frexp(FLOAT_TYPES[low].max)
    mantissa, exponent = math.frexp(largest)
    return top - margin - exponent - (mantissa > limit)


def _middle(window: tuple[int, int]) -> int:
    """As far from overflow as from underflow; the larger one of two."""
    return -((-window[0] - window[1]) // 2)


def _most_allowed(tensors: list[TensorScale]) -> int:
    """The middle of the exponents that the most tensors allow."""
    steps: dict[int, int] = {}
    for tensor in tensors:
        if tensor.smallest <= tensor.largest:
            steps[tensor.smallest] = steps.get(tensor.smallest, 0) + 1
            steps[tensor.largest + 1] = steps.get(tensor.largest + 1, 0) - 1
    best, most, allowed = (0, 0), 0, 0
    borders = sorted(steps)
    for left, right in itertools.pairwise(borders):
        allowed += steps[left]
        if allowed > most:
            best, most = (left, right - 1), allowed
    return _middle(best)


def _by_layer(tensors: list[TensorScale]) -> tuple[TensorScale, ...]:
    """Layers with few tensors first."""
    count: dict[str, int] = {}
    for tensor in tensors:
        count[tensor.scope] = count.get(tensor.scope, 0) + 1
    return tuple(sorted(tensors, key=lambda t: (count[t.scope], t.scope)))


def _place(graph: Graph | None, name: str) -> tuple[str, str, str]:
    """Label, module path and source line; a parameter's are those of its first reader."""
    if graph is None or name not in graph.values:
        return "", "", ""
    value = graph.values[name]
    node = graph.producers.get(name)
    if node is None and graph.readers[name]:
        node = graph.readers[name][0][0]
    label = value.label if value.kind == "weight" else ""
    return label, node.scope if node else "", node.where if node else ""


def _reason(
    low: Low,
    window: tuple[int, int] | None,
    best: int,
    needed: bool,
    outside: tuple[TensorScale, ...],
    margin: int,
) -> str:
    if any(t.nonfinite for t in outside):
        return "Gradients are infinite or NaN in float32 already: no scale mends that."
    if window is None:
        count = len(outside)
        are = "1 tensor is" if count == 1 else f"{count} tensors are"
        return (
            f"No single scale fits all gradients: at 2^{best} {are} outside {low}'s range. "
            "Keep their layers in FP32, train in BF16, or scale them apart."
        )
    if not needed:
        if low == "bfloat16":
            return (
                "BF16 has the exponents of FP32, so gradients neither overflow nor vanish in it: "
                "no scale is needed."
            )
        return (
            "Gradients neither overflow nor vanish without a scale: none is needed. "
            f"Up to 2^{window[1]} does no harm; 2^{best} is as far from either end."
        )
    return (
        f"Every scale from 2^{window[0]} to 2^{window[1]} keeps all gradients in {low}'s range, "
        f"with a factor of {2**margin} left for larger ones; 2^{best} is the middle."
    )
