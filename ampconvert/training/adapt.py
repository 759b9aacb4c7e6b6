"""Which ops run in FP32 while a model trains, and when they are tried in float16 again.

A forward overflow is repaired by no loss scale: the op moves to FP32. A gradient is: the scale is
lowered where one overflows, as long as nothing else is lost by that. Where the scale that one
gradient can bear loses another, no scale fits both, and the fewest ops that keep the others in
range move to FP32.

All is decided from what `heard` is told, so ranks that are told the same decide the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

from ampconvert.dtypes import FLOAT16
from ampconvert.ranges.loss_scale import (
    MARGIN,
    MASS,
    SHARE,
    ExponentHistogram,
    LossScale,
    TensorScale,
    advise,
)
from ampconvert.training.observation import Gradient, Observation
from ampconvert.training.reasons import count, described, figure, with_reasons


class Scales(Protocol):
    """What knows S: `training.scaling.Scaling`."""

    def value(self, name: str = ...) -> float:
        """S of a group."""


@dataclass(frozen=True)
class Promotion:
    """A place that runs in FP32: why, since which step, and after how many good steps from then
    on it is tried in float16 again. `good` counts them.
    """

    reason: str
    step: int
    wait: int
    good: int = 0


@dataclass(frozen=True)
class Changes:
    """What a step leads to, with a line for people about each change.

    `promote` are places that run in FP32 from now on, with the reason, `retry` those that return to
    float16. `restore`: the step was skipped for what runs in FP32 now, so S should be what it was
    before this step. `scales` has the groups whose S may go up at once, and to what, since what
    kept it down runs in FP32 now.
    """

    promote: Mapping[str, str] = field(default_factory=dict)
    retry: tuple[str, ...] = ()
    restore: bool = False
    scales: Mapping[str, float] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.promote or self.retry)


def one_group(place: str) -> str:
    """The group of every place where one S is for all."""
    return ""


class Adaptation:
    """The policy of one model.

    A place that was tried again and overflowed again waits twice as long as before. `patience` is
    how many observed steps in a row have to lose a gradient before ops move for it, unless S was
    just lowered for an overflow. `group_of` gives the group whose S a place's gradient carries.
    """

    def __init__(
        self,
        *,
        retry_after: int = 1000,
        observe_every: int = 200,
        patience: int = 3,
        share: float = SHARE,
        mass: float = MASS,
        group_of: Callable[[str], str] = one_group,
    ) -> None:
        self.retry_after, self.observe_every, self.patience = retry_after, observe_every, patience
        self.share, self.mass, self.group_of = share, mass, group_of
        self.promotions: dict[str, Promotion] = {}
        self.last: Observation | None = None  # what was heard last
        self.history: list[str] = []  # a line about each change
        self._waits: dict[str, int] = {}  # how long each place waited, when it was promoted last
        self._suspects: frozenset[str] = frozenset()  # overflowed forward when seen last
        self._strikes: dict[str, int] = {}  # observed steps in a row that lost this gradient
        self._needs: dict[str, int] = {}  # the smallest exponent of S that keeps each gradient
        self._skipped = False  # the last step
        self._freed: frozenset[str] = frozenset()  # groups that lost what kept S down
        self._lowered_for = ""  # whose gradient overflowed in the skipped steps just before

    @property
    def promoted(self) -> Mapping[str, str]:
        """The places that run in FP32 now, and why."""
        return {place: held.reason for place, held in self.promotions.items()}

    def wants(self, step: int, skipped: bool) -> bool:
        """Whether to observe this step: the first, one after a skipped one, every so many, and one
        after something was seen for the first time. `skipped`: the step before was.
        """
        due = self.observe_every > 0 and step % self.observe_every == 0
        return skipped or bool(self._suspects) or self.last is None or due

    def heard(
        self, step: int, skipped: bool, scales: Scales, observation: Observation | None
    ) -> Changes:
        """What follows from a step. `scales` has S as it is now, lowered already if the step was
        skipped; `observation` is what was seen, equal on all ranks, None where the step was not
        observed.
        """
        moved: dict[str, str] = {}
        restore, room = False, {}
        if observation is not None:
            seen = observation.without(frozenset(self.promotions))
            moved = self._overflowed(seen)
            if moved:
                restore = skipped
            elif skipped:
                moved, restore = self._after_overflow(seen, scales)
                self._freed |= self._groups(moved)
            else:
                moved = self._unfitting(seen)
                room = self._room(seen, moved, scales)
                self._freed = frozenset()
            self.last = observation
        where = observation.where if observation is not None else {}
        lines = self._promote(step, moved, where)
        retried = () if skipped else self._count_good(set(moved))
        lines += [
            f"step {step}: {described(place)} is tried in float16 again after "
            f"{self._waits[place]} good steps"
            for place in retried
        ]
        self.history += lines
        self._skipped = skipped
        if not skipped:
            self._lowered_for = ""
        return Changes(moved, retried, restore, room, tuple(lines))

    def state_dict(self) -> dict[str, Any]:
        """The policy's memory in plain dicts, lists and numbers; not what it heard last."""
        return {
            "promoted": {place: asdict(p) for place, p in self.promotions.items()},
            "history": list(self.history),
            "waits": dict(self._waits),
            "suspects": sorted(self._suspects),
            "strikes": dict(self._strikes),
            "needs": dict(self._needs),
            "skipped": self._skipped,
            "freed": sorted(self._freed),
            "lowered_for": self._lowered_for,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.promotions = {place: Promotion(**p) for place, p in state["promoted"].items()}
        self.history = [str(line) for line in state["history"]]
        self._waits = {place: int(n) for place, n in state["waits"].items()}
        self._suspects = frozenset(state["suspects"])
        self._strikes = {name: int(n) for name, n in state["strikes"].items()}
        self._needs = {name: int(n) for name, n in state["needs"].items()}
        self._skipped = bool(state["skipped"])
        self._freed = frozenset(state["freed"])
        self._lowered_for = str(state["lowered_for"])

    def _overflowed(self, seen: Observation) -> dict[str, str]:
        """Places of values that overflowed forward twice in a row; a skipped step counts as one."""
        moved: dict[str, str] = {}
        names = sorted(seen.overflows)
        for name in names:
            overflow = seen.overflows[name]
            if self._skipped or name in self._suspects:
                if overflow.magnitude > FLOAT16.max:
                    what = f"{figure(overflow.magnitude)} > {FLOAT16.max:.0f}"
                else:
                    what = f"inf or NaN inside, {figure(overflow.magnitude)} in float32"
                moved = with_reasons(
                    moved, name, overflow.places, f"overflowed float16 in forward: {what}",
                    f"reads {described(name)}, which overflowed float16 in forward: {what}",
                )  # fmt: skip
        self._suspects = frozenset(
            n for n in names if not set(seen.overflows[n].places) & set(moved)
        )
        return moved

    def _unfitting(self, seen: Observation) -> dict[str, str]:
        """Places of gradients that no S fits together with the others."""
        groups: dict[str, dict[str, Gradient]] = {}
        for name, gradient in sorted(seen.gradients.items()):
            if not gradient.overflowed:
                groups.setdefault(self._group(gradient), {})[name] = gradient
        self._needs = {}
        moved: dict[str, str] = {}
        strikes: dict[str, int] = {}
        for gradients in groups.values():
            for name, reason in self._outside(gradients).items():
                strikes[name] = self._strikes.get(name, 0) + 1
                if self._lowered_for or strikes[name] >= self.patience:
                    moved = with_reasons(moved, name, gradients[name].places, reason)
        self._strikes = {name: n for name, n in strikes.items() if name not in moved}
        return moved

    def _outside(self, gradients: Mapping[str, Gradient]) -> dict[str, str]:
        """The fewest gradients of one group without which one S fits all the others, and why."""
        tails = {name: with_tail(gradient) for name, gradient in gradients.items()}
        advice = self._advice(tails)
        self._needs |= {t.name: t.smallest for t in advice.tensors}
        if advice.window is not None:
            return {}
        left_out = {tensor.name for tensor in advice.outside}
        top = min((t.largest for t in advice.tensors if t.name not in left_out), default=0)
        found: dict[str, str] = {}
        for tensor in sorted(advice.outside, key=lambda t: t.name):
            lost = tails[tensor.name].lost(top, "float16")
            if lost > self.share:
                found[tensor.name] = (
                    f"loses {lost:.0%} of its gradient below float16's range at S = 2^{top}, "
                    f"the largest that the others allow{self._blame()}"
                )
            elif tensor.largest < round(math.log2(advice.recommended)):
                found[tensor.name] = self._too_large(tensor, advice)
        return found

    def _advice(self, histograms: Mapping[str, ExponentHistogram]) -> LossScale:
        # By mass, since most of a softmax's gradient may vanish without anyone missing it; `share`
        # is asked for where something is to move.
        return advise(histograms, "float16", share=1.0, mass=self.mass, margin=0)

    def _too_large(self, tensor: TensorScale, advice: LossScale) -> str:
        others = sum(t.smallest > tensor.largest for t in advice.tensors)
        return (
            f"has a gradient up to {figure(tensor.largest_gradient)}, which overflows float16 "
            f"above S = 2^{tensor.largest}; a smaller scale loses {count(others, 'other gradient')}"
        )

    def _blame(self) -> str:
        if not self._lowered_for:
            return ""
        return f" since the gradient of {described(self._lowered_for)} overflowed"

    def _after_overflow(self, seen: Observation, scales: Scales) -> tuple[dict[str, str], bool]:
        """Places to move when a gradient overflowed and S was lowered: none, as long as the lower S
        loses nothing. And whether the one that overflowed is among them.
        """
        first = seen.first
        culprit = seen.gradients.get(first.name) if first is not None else None
        if first is None or culprit is None or first.outside:
            return {}, False
        self._lowered_for = first.name
        mates = {
            name: gradient
            for name, gradient in sorted(seen.gradients.items())
            if name != first.name and self._group(gradient) == self._group(culprit)
        }
        needs = self._needs | self._needed(mates)
        now = math.log2(scales.value(self._group(culprit)))
        lost = [name for name in mates if needs.get(name, -math.inf) > now]
        what = f"has a gradient that overflows float16 at S = 2^{math.log2(culprit.scale):.0f}"
        if not needs and culprit.scale <= 1:
            reason = f"{what}, where nothing is scaled up"
            return with_reasons({}, first.name, culprit.places, reason), True
        places = {place for name in lost for place in mates[name].places}
        if places and len(culprit.places) <= len(places):
            reason = f"{what}; a smaller scale loses {count(len(lost), 'other gradient')}"
            return with_reasons({}, first.name, culprit.places, reason), True
        moved: dict[str, str] = {}
        for name in lost:
            reason = (
                f"loses its gradient below float16's range at S = 2^{now:.0f}, "
                f"which that of {described(first.name)} needs"
            )
            moved = with_reasons(moved, name, mates[name].places, reason)
        return moved, False

    def _needed(self, gradients: Mapping[str, Gradient]) -> dict[str, int]:
        """What S those gradients need that the overflow has not reached."""
        whole = {
            name: with_tail(gradient)
            for name, gradient in gradients.items()
            if not gradient.histogram.nonfinite
        }
        return {tensor.name: tensor.smallest for tensor in self._advice(whole).tensors}

    def _room(
        self, seen: Observation, moved: Mapping[str, str], scales: Scales
    ) -> dict[str, float]:
        """S of the groups where something moved, now or in the skipped steps just before, if the
        other gradients allow more than it is.
        """
        rest = suggest_scales(seen.without(frozenset(moved)), self.group_of)
        groups = self._freed | self._groups(moved)
        return {g: s for g, s in sorted(rest.items()) if g in groups and s > scales.value(g)}

    def _groups(self, places: Iterable[str]) -> frozenset[str]:
        return frozenset(self.group_of(place) for place in places)

    def _group(self, gradient: Gradient) -> str:
        return self.group_of(gradient.places[0])

    def _promote(self, step: int, moved: Mapping[str, str], where: Mapping[str, str]) -> list[str]:
        lines = []
        for place, reason in moved.items():
            wait = 2 * self._waits[place] if place in self._waits else self.retry_after
            self._waits[place] = wait
            self.promotions[place] = Promotion(reason, step, wait)
            lines.append(
                f"step {step}: {described(place, where)} {reason}; it runs in float32 from now on, "
                f"and is tried again after {wait} good steps"
            )
        return lines

    def _count_good(self, new: Iterable[str]) -> tuple[str, ...]:
        """The places that have waited long enough, now that a step was good."""
        fresh = set(new)
        for place, promotion in self.promotions.items():
            if place not in fresh:
                self.promotions[place] = replace(promotion, good=promotion.good + 1)
        retried = tuple(sorted(p for p, held in self.promotions.items() if held.good >= held.wait))
        for place in retried:
            del self.promotions[place]
        return retried


def with_tail(gradient: Gradient) -> ExponentHistogram:
    """A gradient's histogram with an estimate of what float16 flushed where that could not be seen.

    Near zero, gradients are spread evenly, so about as many lie below float16's smallest number as
    between it and its double; no more than there are zeros.
    """
    found = gradient.histogram
    last = math.frexp(FLOAT16.smallest)[1] - round(math.log2(gradient.scale))
    gone = 0 if gradient.exact else min(found.zeros, found.counts.get(last, 0))
    if not gone:
        return found
    counts = {**found.counts, last - 1: found.counts.get(last - 1, 0) + gone}
    return replace(found, counts=counts, zeros=found.zeros - gone)


def suggest_scales(
    observation: Observation, group_of: Callable[[str], str] = one_group, margin: int = MARGIN
) -> dict[str, float]:
    """S per group by what its gradients can bear: the largest power of two that keeps the largest
    one below float16's largest number over 2^margin. Groups without a finite gradient are left out.

    Zhao et al., Adaptive Loss Scaling for Mixed Precision Training, 2019, arXiv 1910.12385.
    """
    groups: dict[str, dict[str, ExponentHistogram]] = {}
    for name, gradient in sorted(observation.gradients.items()):
        if gradient.histogram.nonzero and not gradient.histogram.nonfinite:
            group = groups.setdefault(group_of(gradient.places[0]), {})
            group[name] = gradient.histogram
    return {
        group: 2.0 ** min(t.largest for t in advise(held, "float16", margin=margin).tensors)
        for group, held in groups.items()
    }
