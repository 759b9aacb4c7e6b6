"""The loss scales of one prepared model.

A scale S is a power of two that the gradients of low values carry, so that small ones are not lost
below the low type's smallest number (Micikevicius et al. 2018, arXiv 1710.03740). How it moves is
GradScaler's way: a gradient that is not finite halves it, 2000 good steps double it. It is 1 until
a guard skips steps (`steps.skip_nonfinite_steps`), so that a loop with a scaler of its own trains
as before.

The numbers live here, in Python; the tensors that graphs hold are copies, one per group and
device, written only when a number changes.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ampconvert.errors import UserError

LossScale = float | Literal["dynamic", "layerwise"]

ALL = ""  # the group of everything where layers have no scales of their own
# S and 1/S stay normal float32 numbers, so that multiplying and dividing by them is exact.
SMALLEST, LARGEST = 2.0**-126, 2.0**126


@dataclass(frozen=True, eq=False)
class Scale:
    """The tensors of one group's S on one device, float32 [1], never replaced but written in place.

    `factor` is S. `overflowed` is set to 1 by the casts' backward pass where a gradient is not
    finite, and cleared by the guard. In compiled graphs `probe` does that: a leaf, whose gradient
    is the number of casts that saw one.
    """

    factor: Tensor
    overflowed: Tensor
    probe: Tensor = field(default_factory=lambda: torch.zeros(1, requires_grad=True))

    def clear(self) -> None:
        """Forget what was seen."""
        self.overflowed.zero_()
        self.probe.grad = None


@dataclass(frozen=True)
class Schedule:
    """How S starts, grows and backs off; the names and defaults are GradScaler's.

    Raises UserError for numbers that make no sense. All factors are powers of two, so that S is
    one: scaling then rounds nothing.
    """

    init_scale: float = 65536.0
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        for name in ("init_scale", "growth_factor", "backoff_factor"):
            check_power_of_two(name, getattr(self, name))
        if self.growth_factor < 1:
            raise UserError(f"growth_factor is {self.growth_factor}: give a power of two >= 1")
        if self.backoff_factor >= 1:
            raise UserError(f"backoff_factor is {self.backoff_factor}: give a power of two < 1")
        if self.growth_interval < 1:
            raise UserError(f"growth_interval is {self.growth_interval}: give 1 step or more")


def check_power_of_two(name: str, value: float) -> None:
    """Raises UserError unless `value` is a power of two, normal in float32 as its inverse is."""
    if not (SMALLEST <= value <= LARGEST and math.frexp(value)[0] == 0.5):
        raise UserError(
            f"{name} is {value!r}: give a power of two, so that multiplying by it rounds nothing"
        )


class Scaling:
    """The scales of one model, by group: one group for all, or one per layer.

    `loss_scale` is "dynamic" for one S, "layerwise" for one per group, or the S that never changes
    and holds from the start: 1 where there is no scaling, as in bfloat16. A copy (deepcopy, pickle)
    starts anew: it has no guard.
    """

    def __init__(self, loss_scale: LossScale = "dynamic") -> None:
        if not isinstance(loss_scale, str):
            check_power_of_two("loss_scale", loss_scale)
        self.loss_scale = loss_scale
        self.guarded = False
        self.schedule = Schedule()
        self.blamed: frozenset[str] = frozenset()  # whose S the last step with an overflow lowered
        self._scales: dict[tuple[str, torch.device], Scale] = {}
        self._first = 1.0  # S of groups that have no value of their own yet
        self._values: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._good: dict[str, int] = {}  # steps since S last changed, by group
        self._resumed = False
        self._overflows = 0  # how often casts saw what is not finite
        self._lowered = 0  # how often S was lowered
        # Of both counts, what each guard knew at its last step.
        self._known: weakref.WeakKeyDictionary[object, tuple[int, int]]
        self._known = weakref.WeakKeyDictionary()
        self._round: weakref.WeakSet[object] = weakref.WeakSet()

    def __reduce__(self) -> tuple[Any, ...]:
        return Scaling, (self.loss_scale,)

    @property
    def layerwise(self) -> bool:
        """Whether groups have scales of their own."""
        return self.loss_scale == "layerwise"

    @property
    def static(self) -> bool:
        """Whether S is a number that never changes."""
        return not isinstance(self.loss_scale, str)

    def group(self, name: str, device: torch.device) -> Scale:
        """The tensors of a group on a device: made on first use, the same ever after.

        Groups share one S, and one Scale per device, unless scales are layer-wise.
        """
        name = name if self.layerwise else ALL
        # A graph is compiled under modes that would make these fake, or unfit for autograd.
        with _disable_current_modes(), torch.inference_mode(False):
            flag = torch.zeros((1,), device=device)
            factor = torch.full_like(flag, self.value(name))
            probe = torch.zeros_like(flag, requires_grad=True)
        return self._scales.setdefault((name, flag.device), Scale(factor, flag, probe))

    def join(self, guard: object, schedule: Schedule) -> None:
        """`guard` skips steps from now on: S goes from 1 to its first value, unless another guard
        started it already or it was loaded.
        """
        self.schedule = schedule
        self._known.setdefault(guard, (self._overflows, self._lowered))
        if self.guarded:
            return
        self.guarded = True
        for scale in self._scales.values():
            scale.clear()
        if not self._resumed:
            self._values.clear()
            self._first = schedule.init_scale
        self._write()

    def leave(self, guard: object) -> None:
        """`guard` skips no more; without any other, S is 1 again."""
        self._known.pop(guard, None)
        if not self._known:
            self.stop()

    def stop(self) -> None:
        """S is 1 from now on, unless it is static."""
        self.guarded, self._resumed = False, False
        self._values.clear()
        self._good.clear()
        self._write()

    def value(self, name: str = ALL) -> float:
        """S of a group. Reads no device."""
        if not isinstance(self.loss_scale, str):
            return float(self.loss_scale)
        if not self.guarded:
            return 1.0
        return self._values.get(name, self._first)

    def values(self) -> dict[str, float]:
        """S by group, of all groups that graphs use, or of the one for all."""
        names = {name for name, _ in self._scales} | (
            set(self._values) if self.layerwise else {ALL}
        )
        return {name: self.value(name) for name in sorted(names)}

    def set(self, name: str, value: float) -> None:
        """Make S of a group `value`, a power of two. A static S and one that no guard has started
        stay as they are.
        """
        check_power_of_two("S", value)
        if self.guarded and not self.static:
            self._values[name if self.layerwise else ALL] = value
            self._write()

    def restore(self) -> None:
        """Take the last lowering back: it turned out that S was not to blame for the overflow."""
        before, self._before = self._before, {}
        for name, value in before.items():
            self.set(name, value)

    def flags(self) -> Iterator[tuple[str, Tensor]]:
        """The flags that casts set, float32 [1] each, with the names of their groups."""
        for (name, _), scale in self._scales.items():
            yield name, scale.overflowed
            if scale.probe.grad is not None:
                yield name, scale.probe.grad

    def overflowed_since(self, guard: object) -> bool:
        """Has another guard met an overflow since this one's last step? Then their gradients are of
        the same backward pass, as far as anyone can tell.
        """
        return self._known[guard][0] < self._overflows

    def update(self, guard: object, flagged: Collection[str], found: bool) -> None:
        """After one guard's step: `flagged` are the groups whose casts saw a gradient that is not
        finite, on any rank, since they were last asked; `found` says that the step was skipped and
        that this model may be why.

        An overflow lowers S once, however many guards find it; a step that no cast is to blame for
        lowers S as well, as GradScaler would, unless scales are layer-wise. Good steps count once
        per round of all guards.
        """
        for (name, _), scale in self._scales.items():
            if name in flagged:
                scale.clear()
        if guard in self._round:
            self._round.clear()
        opens = not self._round
        self._round.add(guard)
        bad = set(flagged)
        self._overflows += bool(bad)
        lowered = self._known[guard][1] < self._lowered
        if found and not bad and not self.layerwise and not lowered:
            bad = {ALL}
        if bad:
            self._back_off(bad)
        if opens and (bad or not found):
            self._count_good(set(self.values()) - bad)
        self._known[guard] = self._overflows, self._lowered

    def state_dict(self) -> dict[str, Any]:
        """S and the good steps by group, plain numbers."""
        return {"scales": self.values(), "good": dict(self._good)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` gave, also before a guard starts; a static S stays. Where
        groups are others than they were, layer-wise or not, the smallest S is what all can bear.
        """
        scales = {str(name): float(value) for name, value in state["scales"].items()}
        if not scales:
            return
        self._first = min(scales.values())
        self._values = {name: s for name, s in scales.items() if self.layerwise == (name != ALL)}
        good = {str(name): int(steps) for name, steps in state["good"].items()}
        self._good = {name: steps for name, steps in good.items() if name in self._values}
        self._resumed = True
        self._write()

    def _back_off(self, names: Collection[str]) -> None:
        self._lowered += 1
        self.blamed = frozenset(names)
        self._before = {name: self.value(name) for name in names}
        for name, value in self._before.items():
            self._good[name] = 0
            self._values[name] = max(value * self.schedule.backoff_factor, SMALLEST)
        self._write()

    def _count_good(self, names: Collection[str]) -> None:
        grown = False
        for name in names:
            self._good[name] = self._good.get(name, 0) + 1
            if self._good[name] >= self.schedule.growth_interval:
                self._good[name] = 0
                self._values[name] = min(self.value(name) * self.schedule.growth_factor, LARGEST)
                grown = True
        if grown:
            self._write()

    def _write(self) -> None:
        # An optimizer may step while gradients still flow (in a hook of a parameter). What was
        # multiplied by S before has to be divided by the same S after.
        if torch._C._current_graph_task_id() != -1:
            torch.autograd.Variable._execution_engine.queue_callback(self._write_now)
        else:
            self._write_now()

    def _write_now(self) -> None:
        for (name, _), scale in self._scales.items():
            # Through .data, which autograd doesn't watch: between a forward pass and its backward
            # pass S may change, and the backward pass takes the S of its time.
            scale.factor.data.fill_(self.value(name))
