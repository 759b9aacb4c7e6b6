"""Runs a converted graph and finds what left float16's range: where in the forward pass, and how
the gradients on the way back are spread.

Forward, every low op runs a second time in float32, on the float32 twins of its operands, from
where a region begins to where it ends. What is inf or NaN in float16 and finite in its twin has
overflowed; an infinity that a mask puts in is infinite in both. Twins live as long as the values
they belong to, and no longer. Backward, a hook per low value counts exponents. Everything stays on
the device until `Observer.read`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ampconvert.dtypes import FLOAT16, FLOAT32
from ampconvert.frontends.fx_nodes import is_getitem
from ampconvert.training.checkpoints import CHECKPOINT, checkpointed
from ampconvert.training.observation import (
    Arrival,
    Gradient,
    Observation,
    Overflow,
    Place,
    places,
)
from ampconvert.training.tally import (
    FLUSHED,
    OVERFLOWED,
    SCALE,
    Row,
    bits,
    histogram,
    number,
    tally,
)
from ampconvert.training.updates import statistics, updated
from ampconvert.training.watched import LOW, Layout, Watched, cast_operands

__all__ = ["Observation", "Observer", "Place", "places"]

_T = TypeVar("_T", Overflow, Gradient)


class Observer:
    """Watches the calls of one step: all microbatches, and all graphs of the model."""

    def __init__(self) -> None:
        self._forward: list[_Figures] = []
        self._backward: list[_Figures] = []
        self._where: dict[str, str] = {}
        self.calls = 0  # of graphs that were watched

    def run(
        self, module: fx.GraphModule, args: Sequence[Any], known: Mapping[str, Place] | None = None
    ) -> Any:
        """What `module(*args)` gives, with its effects; gradients flow as they would.

        `module` is a converted graph as `training.apply` makes it; `known` gives the places of its
        calls, by name. Bodies of activation checkpoints are watched as well.
        """
        self.calls += 1
        layout = Layout(module, known)
        self._where |= layout.where()
        return _Run(module, layout, self).run(*args)

    def read(self) -> Observation:
        """What was seen so far. Waits for the devices, once each."""
        rows = _fetch([c.figures for c in (*self._forward, *self._backward)])
        overflows: dict[str, Overflow] = {}
        for checked in self._forward:
            if magnitude := number(next(rows)[0]):
                _add(overflows, checked.name, Overflow(magnitude, checked.places))
        gradients: dict[str, Gradient] = {}
        first: Arrival | None = None
        for order, counted in enumerate(self._backward):
            gradient = counted.gradient(next(rows))
            if first is None and gradient.overflowed:
                outside = counted.exact and gradient.histogram.nonfinite > 0
                first = Arrival(order, counted.name, outside)
            _add(gradients, counted.name, gradient)
        return Observation(overflows, gradients, first, dict(self._where))

    def check(self, name: str, moved: tuple[str, ...], magnitude: Tensor) -> None:
        """Note a float32 magnitude of what overflowed, a tensor of one element; 0: nothing did."""
        self._forward.append(_Figures(name, moved, bits(magnitude.reshape(1))))

    def count(
        self, name: str, moved: tuple[str, ...], gradient: Tensor, factor: Any, *, exact: bool
    ) -> None:
        """Note the exponents of a gradient; see `tally`."""
        scale = 1.0 if factor is None else factor
        figures = tally(gradient, scale, LOW if exact else None)
        self._backward.append(_Figures(name, moved, figures, exact))


@dataclass(frozen=True, eq=False)
class _Figures:
    """Figures of one value, still on its device."""

    name: str
    places: tuple[str, ...]
    figures: Tensor
    exact: bool = False

    def gradient(self, row: Row) -> Gradient:
        return Gradient(
            histogram(row, scaled=not self.exact),
            self.places,
            number(row[SCALE]),
            int(row[FLUSHED]),
            int(row[OVERFLOWED]),
            self.exact,
        )


def _add(found: dict[str, _T], name: str, new: _T) -> None:
    found[name] = found[name].merge(new) if name in found else new


def _fetch(tensors: Sequence[Tensor]) -> Iterator[Row]:
    """The tensors on the host, in order, with one transfer per device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        by_device.setdefault(tensor.device, []).append(tensor)
    rows = {
        device: iter(np.split(_host(held), np.cumsum([len(t) for t in held])[:-1]))
        for device, held in by_device.items()
    }
    return (next(rows[tensor.device]) for tensor in tensors)


def _host(tensors: list[Tensor]) -> Row:
    found: Row = torch.cat(tensors).cpu().numpy()
    return found


class _Run(fx.Interpreter):
    """One call of a converted graph, in which low values have float32 twins."""

    def __init__(self, module: fx.GraphModule, layout: Layout, observer: Observer) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.extra_traceback = False  # else torch adds the graph's text to a model's own errors
        self.layout, self.observer = layout, observer
        self.twins: dict[fx.Node, Any] = {}
        self.departed: dict[fx.Node, Tensor] = {}  # whether a value differs from its finite twin
        self.factors: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Its result, as it would be."""
        watched = self.layout.watched.get(n)
        draws = _draws(n) if watched is not None else []
        before = _random_states(draws)
        result = super().run_node(n)
        if n in self.layout.factors:
            self.factors[n] = result
        if watched is not None:
            if watched.kind != "up":
                self._pair(n, watched, result, before)
            self._hook(watched, result)
        elif is_getitem(n) and n.args[0] in self.twins:
            source: Any = n.args[0]
            self.twins[n] = self.twins[source][n.args[1]]
            self._depart(n, [self.departed[source]] if source in self.departed else [])
        for done in self.user_to_last_uses.get(n, ()):
            self.twins.pop(done, None)
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A checkpoint's body is watched too, each time that it runs."""
        if target in (CHECKPOINT, checkpointed):
            body: Any = _Body(args[0], self.observer)
            return checkpointed(body, *args[1:], **kwargs)
        return super().call_function(target, args, kwargs)

    def _pair(self, n: fx.Node, watched: Watched, result: Any, before: list[Tensor]) -> None:
        """Give a result its twin, and note what it lost against that."""
        twin = self._twin(n, watched, before)
        found = list(zip(*map(pytree.tree_leaves, (result, twin)), strict=False))
        self.twins[n] = _widened(result) if twin is None else twin
        above = [self.departed[o] for o in n.all_input_nodes if o in self.departed]
        if watched.kind == "view" or twin is None:
            self._depart(n, above)
            return
        departed = []
        for i, (real, full) in enumerate(found):
            if isinstance(real, Tensor) and real.dtype == LOW and real.numel():
                lost = full.isfinite().logical_and_(real.detach().isfinite().logical_not_())
                departed.append(lost.any())
                # inf or NaN is its own doing if float16 can't hold the result, or if nothing that
                # it read had gone wrong before.
                size = full.abs()
                own = size >= FLOAT16.overflow
                if above:
                    own = own.logical_or_(torch.stack(above).any().logical_not_())
                    lost = lost.logical_and_(own)
                magnitude = torch.where(lost, size.clamp_min_(FLOAT32.tiny), 0.0).amax()
                name, moved = watched.named(i)
                if name:
                    self.observer.check(name, moved, magnitude)
        self._depart(n, departed)

    def _depart(self, n: fx.Node, flags: list[Tensor]) -> None:
        if flags:
            self.departed[n] = flags[0] if len(flags) == 1 else torch.stack(flags).any()

    def _twin(self, n: fx.Node, watched: Watched, before: list[Tensor]) -> Any:
        """The result in float32; None where the op can't be run again or has no such kernel."""
        with torch.no_grad():
            if watched.kind == "down":
                return [self._full(source) for source in cast_operands(n)]
            if not isinstance(n.target, torch._ops.OpOverload) or updated(n):
                return None
            draws = _draws(n)
            after = _random_states(draws)
            _set_random_states(draws, before)
            try:
                args, kwargs = self._twin_arguments(n)
                return n.target(*args, **kwargs)
            except (NotImplementedError, RuntimeError, TypeError):
                return None
            finally:
                _set_random_states(draws, after)

    def _twin_arguments(self, n: fx.Node) -> Any:
        kept = statistics(n)
        given = fx.map_arg(
            (n.args, dict(n.kwargs)),
            lambda o: self.env[o].clone() if o in kept else self._full(o),
        )
        return pytree.tree_map(lambda v: torch.float32 if v is LOW else v, given)

    def _full(self, n: fx.Node) -> Any:
        return self.twins[n] if n in self.twins else _widened(self.env[n])

    def _hook(self, watched: Watched, result: Any) -> None:
        """Count the gradient of what a call made, unless a cast up or the viewed value does."""
        exact = watched.kind == "up"
        if watched.kind == "view" or watched.border:
            return
        for i, tensor in enumerate(pytree.tree_leaves(result)):
            name, moved = watched.named(i)
            if not name or not isinstance(tensor, Tensor) or not tensor.requires_grad:
                continue
            if exact or tensor.dtype == LOW:
                count = self._counter(name, moved, watched.factor, exact)
                tensor.register_hook(count)  # type: ignore[no-untyped-call]

    def _counter(
        self, name: str, moved: tuple[str, ...], factor: Any, exact: bool
    ) -> Callable[[Tensor | None], None]:
        # Holds none of the run's values: a hook lives as long as its tensor, and would hold others.
        observer, factors = self.observer, self.factors

        def count(gradient: Tensor | None) -> None:
            if gradient is None:  # what is differentiated twice may have none here
                return
            scale = factors.get(factor) if isinstance(factor, fx.Node) else factor
            observer.count(name, moved, gradient, scale, exact=exact)

        return count


class _Body:
    """The body of an activation checkpoint, run by an observer."""

    def __init__(self, module: fx.GraphModule, observer: Observer) -> None:
        self.module, self.observer, self.meta = module, observer, module.meta

    def __call__(self, *args: Any) -> Any:
        return self.observer.run(self.module, args)


def _widened(value: Any) -> Any:
    """float16 tensors in float32, which holds them exactly; all else as it is."""
    return pytree.tree_map_only(
        Tensor, lambda t: t.detach().float() if t.dtype == LOW else t.detach(), value
    )


def _draws(n: fx.Node) -> list[torch.device]:
    """The devices whose random numbers a call may use."""
    if torch.Tag.nondeterministic_seeded not in getattr(n.target, "tags", ()):
        return []
    made = [t for t in pytree.tree_leaves(n.meta.get("val")) if isinstance(t, Tensor)]
    return sorted({torch.device("cpu"), *(t.device for t in made)}, key=str)


def _random_states(devices: Sequence[torch.device]) -> list[Tensor]:
    return [
        torch.get_rng_state() if d.type == "cpu" else torch.get_device_module(d).get_rng_state(d)
        for d in devices
    ]


def _set_random_states(devices: Sequence[torch.device], states: Sequence[Tensor]) -> None:
    for device, state in zip(devices, states, strict=True):
        if device.type == "cpu":
            torch.set_rng_state(state)
        else:
            torch.get_device_module(device).set_rng_state(state, device)
