"""A Plan applied to a captured training graph: parameters stay float32, casts stand in the graph,
and in float16 the casts carry the loss scale.

Before:  linear(x, weight)            weight a float32 parameter
After:   x16 = to_low(S, x); w16 = to_low(S, weight); y = to_full(S, linear(x16, w16))

On the way back `to_full` multiplies the gradient by S before it becomes float16, and `to_low`
divides it by S once it is float32 again: gradients outside the `low` regions are the true ones.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

from ampconvert.frontends.fx_apply import (
    TORCH,
    calls,
    clamped,
    first_place,
    holders,
    inherited,
    low_readers,
    point_readers,
    set_types,
)
from ampconvert.frontends.fx_nodes import is_getitem, operands, results
from ampconvert.frontends.fx_program import copied
from ampconvert.plan import FLOAT32, Cast, Plan
from ampconvert.training import casts
from ampconvert.training.scaling import Scale, Scaling

# Bytes of float32 weights that one call casts. One call for many saves time in small layers; a call
# waits for all its gradients on the way back, so that a larger one would hold up what reduces them.
BUCKET = 4 * 2**20

Readers = tuple[tuple[str, int], ...]


def apply(
    module: fx.GraphModule,
    plan: Plan,
    scaling: Scaling | None = None,
    groups: Mapping[str, str] | None = None,
    *,
    compiled: bool = False,
) -> fx.GraphModule:
    """A copy of `module` that computes as `plan` says; `module` is left as it was.

    With `scaling` the casts carry the loss scale of their group, on the device of what they cast;
    `groups` names the group of each call, "" for those that are missing. Without it the casts are
    plain ones, as bfloat16 and graphs without gradients have them. `compiled`: the module is for a
    compiler, and not for PyTorch itself.
    """
    converted = copied(module)
    writer = _Writer(converted, plan, scaling, groups or {}, compiled)
    for name, node in calls(converted.graph).items():
        if name in plan.compute:
            set_types(node, plan)
        node.meta["custom"] = {**node.meta.get("custom", {}), "ampconvert": name}
    point_readers(converted.graph, writer.replacements())
    converted.graph.lint()
    converted.recompile()
    return converted


class _Writer:
    """Puts the casts of a plan into a graph, and knows who reads which."""

    def __init__(
        self,
        module: fx.GraphModule,
        plan: Plan,
        scaling: Scaling | None,
        groups: Mapping[str, str],
        compiled: bool,
    ) -> None:
        self.module, self.graph, self.plan = module, module.graph, plan
        self.scaling, self.groups, self.compiled = scaling, groups, compiled
        self.held, self.named = holders(module.graph), calls(module.graph)
        self.scales: dict[tuple[str, str], tuple[fx.Node, fx.Node]] = {}
        self.order = {node: i for i, node in enumerate(module.graph.nodes)}

    def replacements(self) -> dict[tuple[str, int], fx.Node]:
        """What each reader that needs another type, or another scale, is to read."""
        new: dict[tuple[str, int], fx.Node] = {}
        new |= self._weights()
        for cast in self.plan.casts:
            for group, readers in self._by_group(cast).items():
                new |= dict.fromkeys(readers, self._cast(cast, group))
        if self.scaling is not None:
            if len(set(self.groups.values())) > 1:
                new |= self._rescaled()
            new |= self._kept(new)
        return new

    def _by_group(self, cast: Cast) -> dict[str, Readers]:
        """A cast's readers by scale group: that of the reader down to `low`, of the maker up."""
        if self.scaling is None:
            return {"": cast.readers}
        if cast.to == FLOAT32:
            return {self._group_of_value(cast.value): cast.readers}
        return _grouped(cast.readers, lambda reader: self._group(reader[0]))

    def _cast(self, cast: Cast, group: str) -> fx.Node:
        holder = self.held[cast.value]
        source, place = holder, first_place(holder)
        if cast.clamp and cast.to != FLOAT32:
            source = place = clamped(self.graph, holder, place, self.plan)
        if self.scaling is None or not _may_have_gradient(holder):
            return self._plain(source, place, holder, TORCH[cast.to])
        if cast.to == FLOAT32:
            factor, _ = self._scale(group, holder)
            return self._call(place, casts.to_full, (factor, source), holder, torch.float32)
        return self._to_low([(holder, source)], group, place)[holder]

    def _weights(self) -> dict[tuple[str, int], fx.Node]:
        """Casts of parameters and constants, those of one scale group many at a time."""
        new: dict[tuple[str, int], fx.Node] = {}
        wanted: dict[tuple[str, torch.device], dict[fx.Node, Readers]] = defaultdict(dict)
        for name, types in self.plan.weights.items():
            if self.plan.low not in types:
                continue
            holder = self.held[name]
            for group, readers in _grouped(
                low_readers(holder, self.plan), lambda reader: self._group(reader[0])
            ).items():
                wanted[group, holder.meta["val"].device][holder] = readers
        for (group, _), by_holder in wanted.items():
            for holders_ in self._buckets(by_holder):
                cast = self._cast_weights(holders_, by_holder, group)
                for holder, node in cast.items():
                    new |= dict.fromkeys(by_holder[holder], node)
        return new

    def _buckets(self, wanted: Mapping[fx.Node, Readers]) -> Iterator[list[fx.Node]]:
        """The weights in the order of their first use, in buckets of so many bytes."""
        bucket: list[fx.Node] = []
        size = 0
        for holder in sorted(wanted, key=lambda h: self._first_use(wanted[h])):
            many = _bytes(holder)
            if bucket and size + many > BUCKET:
                yield bucket
                bucket, size = [], 0
            bucket.append(holder)
            size += many
        if bucket:
            yield bucket

    def _first_use(self, readers: Iterable[tuple[str, int]]) -> int:
        return min(self.order[self.named[name]] for name, _ in readers)

    def _cast_weights(
        self, bucket: list[fx.Node], wanted: Mapping[fx.Node, Readers], group: str
    ) -> dict[fx.Node, fx.Node]:
        low = TORCH[self.plan.low]
        masks = self.plan.masks
        made: dict[fx.Node, fx.Node] = {}
        scaled: list[tuple[fx.Node, fx.Node]] = []
        for holder in bucket:
            source, place = holder, self._before(wanted[holder])
            if holder.name in masks:
                source = place = clamped(self.graph, holder, place, self.plan)
            if self.scaling is not None and _may_have_gradient(holder):
                scaled.append((holder, source))
            else:
                made[holder] = self._plain(source, place, holder, low)
        if scaled:
            first = [reader for holder, _ in scaled for reader in wanted[holder]]
            made |= self._to_low(scaled, group, self._before(first))
        return made

    def _before(self, readers: Iterable[tuple[str, int]]) -> fx.Node:
        """The last node before all these readers after which a call may stand."""
        return min((self.named[name] for name, _ in readers), key=self.order.__getitem__).prev

    def _to_low(
        self,
        pairs: list[tuple[fx.Node, fx.Node]],
        group: str,
        place: fx.Node,
        dtype: torch.dtype | None = None,
    ) -> dict[fx.Node, fx.Node]:
        """One call that casts the second of each pair, described as the first; in float32 it only
        takes the scale off the gradient.
        """
        low = dtype or TORCH[self.plan.low]
        factor, overflowed = self._scale(group, pairs[0][0])
        args = (factor, overflowed, *(source for _, source in pairs))
        if low == torch.float32:
            call = self._call(place, casts.kept, args, pairs[0][0], low)
        else:
            call = self._call(place, casts.to_low, (low, *args), pairs[0][0], low)
        place = call
        call.meta["val"] = tuple(holder.meta["val"].to(low) for holder, _ in pairs)
        made: dict[fx.Node, fx.Node] = {}
        for i, (holder, _) in enumerate(pairs):
            made[holder] = place = self._call(place, operator.getitem, (call, i), holder, low)
        return made

    def _plain(
        self, source: fx.Node, place: fx.Node, holder: fx.Node, dtype: torch.dtype
    ) -> fx.Node:
        node = self._call(place, torch.ops.aten._to_copy.default, (source,), holder, dtype)
        node.kwargs = {"dtype": dtype}
        return node

    def _call(
        self,
        place: fx.Node,
        target: Any,
        args: tuple[Any, ...],
        holder: fx.Node,
        dtype: torch.dtype,
    ) -> fx.Node:
        """A call after `place`, and after the scales, of what `holder` holds in another type."""
        while place.next.op in ("placeholder", "get_attr"):
            place = place.next
        with self.graph.inserting_after(place):
            node = self.graph.call_function(target, args)
        node.meta = {**inherited(holder), "val": holder.meta["val"].to(dtype)}
        node.meta["custom"] = {"ampconvert_cast": holder.name}
        return node

    def _rescaled(self) -> dict[tuple[str, int], fx.Node]:
        """Where a `low` result goes on in another scale group: its gradient changes scale."""
        new: dict[tuple[str, int], fx.Node] = {}
        low = self.plan.low
        for name, call in self.named.items():
            if self.plan.compute.get(name) != low:
                continue
            for _, holder, _ in results(call):
                if holder is None or holder.meta["val"].dtype != TORCH[low]:
                    continue
                others = _grouped(low_readers(holder, self.plan), lambda r: self._group(r[0]))
                for group, readers in others.items():
                    if group != self._group(name):
                        node = self._rescale(holder, self._group(name), group)
                        new |= dict.fromkeys(readers, node)
        return new

    def _kept(self, new: Mapping[tuple[str, int], fx.Node]) -> dict[tuple[str, int], fx.Node]:
        """What `low` calls read in float32: their gradients for it are scaled as well."""
        found: dict[tuple[str, int], fx.Node] = {}
        wanted: dict[tuple[str, torch.device], dict[fx.Node, Readers]] = defaultdict(dict)
        for name, call in self.named.items():
            if self.plan.compute.get(name) != self.plan.low:
                continue
            for i, operand in enumerate(operands(call)):
                holder = new.get((name, i), operand.node)
                if holder is None or self.plan.type_at(name, i) != FLOAT32:
                    continue
                if holder.meta["val"].dtype == torch.float32 and _may_have_gradient(holder):
                    readers = wanted[self._group(name), holder.meta["val"].device]
                    readers[holder] = (*readers.get(holder, ()), (name, i))
        for (group, _), by_holder in wanted.items():
            held = {h: r for h, r in by_holder.items() if h.op == "placeholder"}
            made = [[h] for h in by_holder if h not in held]
            for bucket in (*self._buckets(held), *made):
                first = [reader for holder in bucket for reader in by_holder[holder]]
                pairs = [(holder, holder) for holder in bucket]
                cast = self._to_low(pairs, group, self._before(first), torch.float32)
                for holder, node in cast.items():
                    found |= dict.fromkeys(by_holder[holder], node)
        return found

    def _rescale(self, holder: fx.Node, inner: str, outer: str) -> fx.Node:
        factors = [self._scale(group, holder)[0] for group in (inner, outer)]
        place = first_place(holder)
        return self._call(place, casts.rescale, (holder, *factors), holder, TORCH[self.plan.low])

    def _scale(self, group: str, holder: fx.Node) -> tuple[fx.Node, fx.Node]:
        """The nodes that hold the scale and the flag of a group, on the device of `holder`."""
        assert self.scaling is not None
        device = holder.meta["val"].device
        key = group, str(device)
        if key not in self.scales:
            scale: Scale = self.scaling.group(group, device)
            number = len(self.scales)
            self.scales[key] = (
                self._attribute(f"_scale_{number}", scale.factor),
                self._attribute(
                    f"_overflowed_{number}", scale.probe if self.compiled else scale.overflowed
                ),
            )
        return self.scales[key]

    def _attribute(self, name: str, tensor: torch.Tensor) -> fx.Node:
        self.module.register_buffer(name, tensor)
        last = [n for n in self.graph.nodes if n.op == "placeholder"][-1]
        with self.graph.inserting_after(last):
            return self.graph.get_attr(name)

    def _group(self, name: str) -> str:
        return self.groups.get(name, "")

    def _group_of_value(self, value: str) -> str:
        holder = self.held[value]
        maker = holder.args[0] if is_getitem(holder) else holder
        return self._group(maker.name) if isinstance(maker, fx.Node) else ""


def _grouped(readers: Iterable[tuple[str, int]], key: Any) -> dict[str, Readers]:
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for reader in readers:
        found[key(reader)].append(reader)
    return {group: tuple(members) for group, members in found.items()}


def _may_have_gradient(holder: fx.Node) -> bool:
    """Whether a gradient may come back here: not to what comes in and needs none."""
    return holder.op == "call_function" or bool(holder.meta["val"].requires_grad)


def _bytes(holder: fx.Node) -> int:
    fake: torch.Tensor = holder.meta["val"]
    return int(fake.numel()) * fake.element_size()
