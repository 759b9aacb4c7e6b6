"""What rounding values of an ONNX model does to its outputs, measured by running it.

There are no gradients to predict it with. Groups of values are rounded together: where that does no
harm, none of them does; else smaller groups are tried, or each value's part is estimated from
groups that cross. An energy is a squared relative error, as in `ranges.sensitivity`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import ChainMap, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.errors import UserError
from ampconvert.frontends.onnx_data import tensor_of
from ampconvert.frontends.onnx_groups import evenly, fitted, kinds_of, members_of
from ampconvert.frontends.onnx_load import numbers
from ampconvert.frontends.onnx_rounded import TYPES, round_array, rounded, switched
from ampconvert.frontends.onnx_scopes import Layout
from ampconvert.verify.segments import outputs, visit

RUNS = 12  # of the model, at most, to find what does no harm
ALL_RUNS = 28  # to share out the error among all values
SINGLES = 112  # values at most that are measured one by one: one loaded model serves all runs
CROSSED = 0.375  # of these for each of two ways to group; what is left splits the worst
_NEAR = 0.9  # of the overflow: values beyond may overflow when others are rounded

Array = np.ndarray[Any, Any]
Feeds = Sequence[Mapping[str, Any]]
Tell = Callable[[int, int], None]


def rounding_errors(
    model: ir.Model, names: Sequence[str], feed: Mapping[str, Array], low: Low, harmless: float
) -> dict[str, float]:
    """For each of `names`, weights and results of nodes, a bound on the squared relative error of
    the outputs when it is rounded to `low`; infinite where it was not found to be below `harmless`.

    One group of values shares its bound: that of rounding all of them. `feed` is one batch.
    """
    (truth,) = outputs(model, [feed])
    found = dict.fromkeys(names, float("inf"))
    waiting = [list(names)] if names else []
    for _ in range(RUNS):
        if not waiting:
            break
        group = waiting.pop(0)
        (answers,) = outputs(rounded(model, group, low), [feed])
        energy = _largest(answers, truth)
        if energy <= harmless:
            found |= dict.fromkeys(group, energy)
        elif len(group) > 1:
            half = len(group) // 2
            waiting += [group[:half], group[half:]]
    return found


def shared_errors(
    model: ir.Model,
    names: Sequence[str],
    feed: Mapping[str, Array],
    low: Low,
    tell: Tell,
    runs: int = ALL_RUNS,
    singles: int = SINGLES,
) -> dict[str, float]:
    """Each value's part in the energy of rounding all of `names` to `low`; infinite where rounding
    it makes an output infinite or NaN.

    `names` are in order of execution. Up to `singles` values are measured one by one. More are put
    into groups in two ways, neighbours in the order of execution and values of one kind (operator
    that makes or reads it, size), with a share CROSSED of `runs` for each way. A value's part is
    the product of a factor of its neighbourhood and one of its kind that gives every group the
    energy measured for it (iterative proportional fitting, Deming and Stephan, 1940). With the
    other runs the crossing of two groups that is left with most is split in two, again and again.
    What rounding does not change has no part. `tell` hears of each run; where something overflows
    there are up to RUNS more, to find what.
    """
    seen = _seen(model, names, [feed], low)
    found = {name: 0.0 for name in names if seen[name].lost == 0.0}
    outside = [name for name in names if seen[name].lost == math.inf]
    regular = [name for name in names if 0.0 < seen[name].lost < math.inf]
    few = len(regular) <= singles
    measure = _Measure(model, feed, low, seen, tell, len(regular) if few else runs)
    if few:
        parts = measure.energies([[name] for name in regular])
        found |= dict(zip(regular, parts, strict=True))
    else:
        half = max(1, int(runs * CROSSED))
        kinds = kinds_of(model, regular, {name: seen[name].size for name in regular})
        ways = [evenly(np.arange(len(regular)), half), evenly(kinds, half)]
        groups = [members_of(regular, way) for way in ways]
        energies = measure.energies([group for way in groups for group in way])
        sums = [np.array(energies[: len(groups[0])]), np.array(energies[len(groups[0]) :])]
        found |= dict(zip(regular, fitted(ways, sums).tolist(), strict=True))
        crossings = members_of(regular, ways[0] * (int(ways[1].max()) + 1) + ways[1])
        found |= _split(crossings, found, measure, runs)
    suspects = [name for name in regular if not math.isfinite(found[name])]
    return found | _bisected(model, [*outside, *suspects], feed, low)


class _Measure:
    """Energies of groups of values, and how many runs they took."""

    def __init__(
        self,
        model: ir.Model,
        feed: Mapping[str, Array],
        low: Low,
        seen: Mapping[str, _Seen],
        tell: Tell,
        total: int,
    ) -> None:
        self.model, self.feeds, self.low, self.seen = model, [feed], low, seen
        self.tell, self.total, self.runs = tell, total, 0

    def energies(self, groups: Sequence[Sequence[str]]) -> list[float]:
        """Of rounding each group."""
        before = self.runs
        found = _energies(
            self.model, groups, self.feeds, self.low, self.seen,
            lambda done, _: self.tell(before + done, self.total),
        )  # fmt: skip
        self.runs += len(groups)
        return found


def _split(
    groups: Sequence[Sequence[str]], parts: Mapping[str, float], measure: _Measure, runs: int
) -> dict[str, float]:
    """New parts, where the group with the most is measured in halves, again and again."""
    found = dict(parts)
    numbers = itertools.count()  # keep groups from being compared
    heap = [
        (-sum(found[name] for name in group), next(numbers), list(group))
        for group in groups
        if len(group) > 1 and all(math.isfinite(found[name]) for name in group)
    ]
    heapq.heapify(heap)
    while heap and measure.runs + 2 <= runs:
        _, _, group = heapq.heappop(heap)
        halves = [group[: len(group) // 2], group[len(group) // 2 :]]
        for half, energy in zip(halves, measure.energies(halves), strict=True):
            have = sum(found[name] for name in half)
            for name in half:
                share = found[name] / have if have else 1 / len(half)
                found[name] = energy * share if energy else 0.0
            if len(half) > 1 and math.isfinite(energy):
                heapq.heappush(heap, (-energy, next(numbers), half))
    return found


def measured_errors(
    model: ir.Model,
    names: Sequence[str],
    feeds: Feeds,
    low: Low,
    tell: Tell | None = None,
) -> dict[str, float]:
    """The energy of rounding one value to `low`, everything else in float32, for each of `names`:
    inputs, weights and results of nodes.

    Infinite where an output becomes infinite or NaN. One run per value and batch, on ONNX Runtime
    in float32: energies below about 1e-13 are its own noise.
    """
    seen = _seen(model, names, feeds, low)
    energies = _energies(model, [[name] for name in names], feeds, low, seen, tell)
    return dict(zip(names, energies, strict=True))


@dataclass(frozen=True)
class _Seen:
    """What one value held: its own squared relative rounding error, and its elements. The error is
    infinite where the value is, or may become, beyond `low`.
    """

    lost: float
    size: int


def _energies(
    model: ir.Model,
    groups: Sequence[Sequence[str]],
    feeds: Feeds,
    low: Low,
    seen: Mapping[str, _Seen],
    tell: Tell | None,
) -> list[float]:
    """The energy of rounding each group, all in one loaded model where that is possible."""
    truth = outputs(model, feeds)
    plain = [i for i, group in enumerate(groups) if all(seen[n].lost < math.inf for n in group)]
    found: dict[int, float] = {}
    try:
        picked = [groups[i] for i in plain]
        energies = _switched_energies(model, picked, feeds, low, truth, tell) if plain else []
        found = dict(zip(plain, energies, strict=True))
    except UserError:  # an operator that takes no computed weight, an infinity inside a body
        found = {}
    rest = [i for i in range(len(groups)) if i not in found]
    for done, i in enumerate(rest):
        found[i] = _rounded_energy(model, groups[i], feeds, low, truth)
        if tell is not None:
            tell(len(groups) - len(rest) + done + 1, len(groups))
    return [found[i] for i in range(len(groups))]


def _rounded_energy(
    model: ir.Model,
    names: Sequence[str],
    feeds: Feeds,
    low: Low,
    truth: Sequence[Mapping[str, Any]],
) -> float:
    """The same for one group, in a model of its own."""
    energy = _Energy()
    answers = outputs(rounded(model, names, low), feeds)
    for got, right in zip(answers, truth, strict=True):
        for name in right:
            energy.add(name, got[name], right[name])
    return energy.total()


def _switched_energies(
    model: ir.Model,
    groups: Sequence[Sequence[str]],
    feeds: Feeds,
    low: Low,
    truth: Sequence[Mapping[str, Any]],
    tell: Tell | None,
) -> list[float]:
    """The same in one model that rounds what is asked for. Raises UserError where it does not load,
    or is no longer the same model with nothing rounded.
    """
    copy, switches = switched(model, list(dict.fromkeys(n for g in groups for n in g)), low)
    off = dict.fromkeys(switches.values(), np.zeros((), np.float32))
    on = np.ones((), np.float32)
    found = [_Energy() for _ in groups]
    for number, feed in enumerate(feeds):
        chosen = [{switches[n]: on for n in group if n in switches} for group in groups]
        runs = [ChainMap(part, off, dict(feed)) for part in ({}, *chosen)]
        same: dict[str, Any] = {}  # outputs of the run that rounds nothing

        def see(run: int, name: str, value: Any, n: int = number, kept: Any = same) -> None:
            if run:
                found[run - 1].add(name, value, kept[name])
            else:
                _check_same(value, truth[n][name])
                kept[name] = np.array(value) if isinstance(value, np.ndarray) else value

        def progress(done: int, before: int = number) -> None:
            if tell is not None:
                tell((before * len(groups) + max(0, done - 1)) // len(feeds), len(groups))

        visit(copy, runs, list(truth[number]), see, tell=progress)
    return [energy.total() for energy in found]


def _check_same(value: Any, right: Any) -> None:
    """An infinity times 0 is no number: then the switches can't be used."""
    is_float = isinstance(right, np.ndarray) and right.dtype.kind == "f"
    if is_float and not np.array_equal(np.isfinite(value), np.isfinite(right)):
        raise UserError("a value of the model holds an infinity")


class _Energy:
    """The energy of one change over several batches."""

    def __init__(self) -> None:
        self.sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, answer: Any, right: Any) -> None:
        """Count one output of one batch; only floating-point ones count."""
        if isinstance(right, np.ndarray) and right.dtype.kind == "f":
            for i, part in enumerate(_squares(answer, right)):
                self.sums[name][i] += part

    def total(self) -> float:
        """The sum over the outputs."""
        return _finite(sum(_ratio(lost, size) for lost, size in self.sums.values()))


def _largest(answers: Mapping[str, Any], truth: Mapping[str, Any]) -> float:
    """The largest squared relative L2 error among the floating-point outputs."""
    floats = {n: r for n, r in truth.items() if isinstance(r, np.ndarray) and r.dtype.kind == "f"}
    errors = (_ratio(*_squares(answers[name], right)) for name, right in floats.items())
    return _finite(max(errors, default=0.0))


def _squares(answer: Array, right: Array) -> tuple[float, float]:
    """Of the difference and of the right answer, where that is finite."""
    expected = right.astype(np.float64)
    shown = np.isfinite(expected)
    difference = answer.astype(np.float64)[shown] - expected[shown]
    return float(np.square(difference).sum()), float(np.square(expected[shown]).sum())


def _ratio(lost: float, size: float) -> float:
    """Absolute where the right answer is zero throughout, as in parity."""
    return lost / (size or 1.0)


def _finite(energy: float) -> float:
    return energy if math.isfinite(energy) else math.inf


def _seen(model: ir.Model, names: Sequence[str], feeds: Feeds, low: Low) -> dict[str, _Seen]:
    """What each value held on `feeds`. What the bodies of control flow make is not seen: it counts
    as one element that rounding changes.
    """
    layout = Layout(model)
    values = {name: value for value, name in layout.values.items()}
    found: dict[str, _Seen] = {}

    def see(_: int, name: str, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.dtype == np.float32:
            lost = _lost(value, low)
            if name not in found or lost > found[name].lost:
                found[name] = _Seen(lost, value.size)

    for name in names:
        if name in layout.weights:
            see(0, name, numbers(tensor_of(values[name])))
    main = {value.name for node in model.graph for value in node.outputs}
    main |= {value.name for value in model.graph.inputs}
    visit(model, feeds, [n for n in names if n in main and n not in layout.weights], see)
    return {name: found.get(name, _Seen(1.0, 1)) for name in names}


def _lost(array: Array, low: Low) -> float:
    largest = float(np.abs(array).max(initial=0.0))
    if not largest < FLOAT_TYPES[low].overflow * _NEAR:
        return math.inf
    lost = (round_array(array, TYPES[low]) - array).astype(np.float64)
    return _ratio(float(np.square(lost).sum()), float(np.square(array, dtype=np.float64).sum()))


def _bisected(
    model: ir.Model, names: Sequence[str], feed: Mapping[str, Any], low: Low
) -> dict[str, float]:
    """The energies of values that may overflow: shared out evenly in a group that comes out finite,
    else each half is tried again; infinite for a value that does not, or was not reached.
    """
    found = dict.fromkeys(names, math.inf)
    waiting = [list(names)] if names else []
    truth = outputs(model, [feed]) if names else []
    for _ in range(RUNS):
        if not waiting:
            break
        group = waiting.pop(0)
        energy = _rounded_energy(model, group, [feed], low, truth)
        if math.isfinite(energy):
            found |= dict.fromkeys(group, energy / len(group))
        elif len(group) > 1:
            half = len(group) // 2
            waiting += [group[:half], group[half:]]
    return found
