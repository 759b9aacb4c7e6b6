"""Updates in place: taken out of a graph where that is exact, else kept away from casts.

A cast is a copy of what a value held when it was made. So a call that reads memory which has been
updated since, or makes memory which will be, has to stay in the type that the memory has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from ampconvert.frontends.fx_nodes import is_getitem, is_tensor
from ampconvert.training.refusal import NotCapturable
from ampconvert.training.regions import autocasts, grad_modes
from ampconvert.training.updates import has_effect, statistics, updated

_UPDATED = "It touches memory that the model updates in place, where a cast would hold what was."
_MODES = "It runs without gradients on what is read with gradients too: one cast can't serve both."


def settle_updates(graph: fx.Graph, mode: FakeTensorMode) -> None:
    """Replace updates in place where nothing can tell, give the calls that share memory with one
    that stays meta["ampconvert_bound"], the reason why they run in float32, and placeholders that
    are updated meta["ampconvert_updated"]. Calls without use or effect go.

    An update goes where the memory was made in the graph, no other name of it is read later, and
    the call that makes a new tensor gives the same type, sizes and strides. Raises NotCapturable.
    """
    memory = _Memory(graph)
    writer = _Writer(graph, mode, memory)
    for node in list(graph.nodes):
        writer.settle(node)
    writer.read_after_updates()
    writer.bind()
    writer.spell_views()
    _erase_unused(graph)


class _Memory:
    """Which values share memory: as the fake tensors did, and apart again where an update went."""

    def __init__(self, graph: fx.Graph) -> None:
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.blocks: dict[fx.Node, dict[int, int]] = {}  # node -> {storage: block}
        self.members: dict[int, list[fx.Node]] = defaultdict(list)
        self.foreign: set[int] = set()  # blocks that live outside the graph
        self.updates: dict[int, list[fx.Node]] = defaultdict(list)
        self._outside: dict[int, int] = {}
        self._count = 0

    def see(self, node: fx.Node) -> None:
        """Take the next node of the graph into account."""
        outside = node.op in ("placeholder", "get_attr")
        known = dict(self._outside) if outside else self._known(node)
        found = {s: known.get(s) or self._new_block() for s in _storages(node)}
        if outside:
            self._outside |= found
            self.foreign |= set(found.values())
        self._enter(node, found)

    def see_instead(self, new: fx.Node, old: fx.Node) -> None:
        """Take `new` into account, which stands for the update `old`. The fake tensors of what
        reads it lie in the memory that was updated, and so belong to it.
        """
        storages = {*_storages(new), *_storages(old)}
        known = self._known(old) if _renames(old) else {}
        block = next((known[s] for s in storages if s in known), None) or self._new_block()
        self._enter(new, dict.fromkeys(storages, block))

    def _known(self, node: fx.Node) -> dict[int, int]:
        known: dict[int, int] = {}
        for operand in node.all_input_nodes:
            known |= self.blocks.get(operand, {})
        return known

    def _new_block(self) -> int:
        self._count += 1
        return self._count

    def _enter(self, node: fx.Node, blocks: dict[int, int]) -> None:
        self.blocks[node] = blocks
        for block in dict.fromkeys(blocks.values()):
            self.members[block].append(node)

    def of(self, node: fx.Node) -> set[int]:
        """The blocks that a node's tensors lie in."""
        return set(self.blocks.get(node, {}).values())

    def place(self, new: fx.Node, at: fx.Node) -> None:
        """`new` takes place as `at` does, and `at` is no member of anything."""
        self.order[new] = self.order[at]

    def later(self, readers: Iterable[fx.Node], than: fx.Node) -> list[fx.Node]:
        """Those of `readers` that run after the node `than`."""
        return [r for r in readers if r is not than and self.order[r] > self.order[than]]


class _Writer:
    """Goes through a graph in order, takes updates out and notes those that stay."""

    def __init__(self, graph: fx.Graph, mode: FakeTensorMode, memory: _Memory) -> None:
        self.graph, self.mode, self.memory = graph, mode, memory
        self.enabled, self.autocasts = grad_modes(graph), autocasts(graph)
        self.with_history: set[fx.Node] = set()  # what gradients may flow back from

    def settle(self, node: fx.Node) -> None:
        """Replace one update, or note what it updates and let later calls read its result."""
        memory = self.memory
        written = [w for w in updated(node) if is_tensor(w)]
        may_have = self.enabled[node] if node.op != "placeholder" else _requires_grad(node)
        if may_have or self.with_history & {*written}:
            self.with_history.add(node)
        if len(written) == 1 and self._replaced(node, written[0]):
            return
        if _renames(node) and not self.enabled[node] and node in self.with_history:
            raise NotCapturable(
                f"{node.name} changes the sizes of a tensor without telling its gradient"
            )
        memory.see(node)
        for target in (*written, *statistics(node)):
            for block in memory.of(target):
                memory.updates[block].append(node)
                for member in memory.members[block]:
                    if member.op == "placeholder":
                        member.meta["ampconvert_updated"] = True
        if len(written) == 1 and _returns_operand(node):
            self._redirect(written[0], node)

    def _replaced(self, node: fx.Node, target: fx.Node) -> bool:
        new = self._functional(node, target)
        if new is None:
            return False
        self.memory.place(new, node)
        self.enabled[new] = self.enabled[node]
        if node in self.with_history:
            self.with_history.add(new)
        self.memory.see_instead(new, node)
        for reader in self.memory.later(list(target.users), node):
            reader.replace_input_with(target, new)
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        return True

    def _functional(self, node: fx.Node, target: fx.Node) -> fx.Node | None:
        """The call that makes a new tensor, before `node`; None where that is not the same."""
        overload = _out_of_place(node)
        if overload is None or self.autocasts.get(node) or self._loses_history(node, target):
            return None
        if not self._is_unseen(node, target):
            return None
        values = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        with self.mode, torch.no_grad():
            made = overload(*values[0], **values[1])
        if not _renames(node) and not _is_alike(made, target.meta["val"]):
            return None
        with self.graph.inserting_before(node):
            new = self.graph.call_function(overload, node.args, node.kwargs)
        new.meta = {**node.meta, "val": made}
        return new

    def _loses_history(self, node: fx.Node, target: fx.Node) -> bool:
        """Without gradients, an update keeps what made the tensor; a new tensor would not, and a
        view could not be updated where there are gradients again.
        """
        lost = target in self.with_history or (_renames(node) and torch.is_grad_enabled())
        return not self.enabled[node] and lost

    def _is_unseen(self, node: fx.Node, target: fx.Node) -> bool:
        """Whether the memory is the graph's own and nothing reads it by another name later."""
        memory = self.memory
        blocks = memory.of(target)
        if len(blocks) != 1 or blocks & memory.foreign:
            return False
        return _renames(node) or not any(
            memory.later(member.users, node)
            for block in blocks
            for member in memory.members[block]
            if member is not target
        )

    def _redirect(self, target: fx.Node, update: fx.Node) -> None:
        """Later calls read what the update returns, which is the same tensor."""
        for reader in self.memory.later(list(target.users), update):
            if reader.op != "output" and self.enabled.get(reader) == self.enabled[update]:
                reader.replace_input_with(target, update)

    def read_after_updates(self) -> None:
        """Let calls after the last update of a block read it by a name that is made then: a cast of
        that name holds what they are to read, and has a gradient where they have one.
        """
        order = self.memory.order
        for block, updates in list(self.memory.updates.items()):
            last = max(updates, key=order.__getitem__)
            for member in list(self.memory.members[block]):
                if is_tensor(member) and _is_float32(member) and order[member] <= order[last]:
                    for mode in (True, False):
                        if member is not last or mode is not self.enabled[last]:
                            self._reread(member, last, mode)

    def _reread(self, member: fx.Node, last: fx.Node, mode: bool) -> None:
        readers = [
            reader
            for reader in self.memory.later(member.users, last)
            if reader.op != "output" and self.enabled[reader] is mode
            and member not in statistics(reader)
        ]  # fmt: skip
        if not readers:
            return
        first = min(readers, key=self.memory.order.__getitem__)
        place = last if self.enabled[last] is mode else first.prev
        while is_getitem(place.next):
            place = place.next
        with self.graph.inserting_after(place):
            new = self.graph.call_function(torch.ops.aten.alias.default, (member,))
        new.meta = {k: v for k, v in member.meta.items() if not k.startswith("ampconvert")}
        new.meta["ampconvert_bound"] = _UPDATED
        self.memory.place(new, last if place is last else first)
        self.enabled[new] = mode
        self.memory.see(new)
        for reader in readers:
            reader.replace_input_with(member, new)

    def bind(self) -> None:
        """Give the calls that a cast would mislead their reason."""
        memory = self.memory
        for block, updates in memory.updates.items():
            for update in updates:
                if updated(update):
                    _bind(update)
                if update in self.with_history and not self.enabled[update]:
                    # A cast of what it returns would stand where there are no gradients.
                    for reader in update.users:
                        if self.enabled[reader]:
                            _bind(reader)
            for member in filter(_is_float32, memory.members[block]):
                later = memory.later(updates, member)
                if later or member in updates:
                    _bind(member)
                if later:
                    first = min(later, key=memory.order.__getitem__)
                    for reader in memory.later(member.users, first):
                        if member not in statistics(reader):
                            _bind(reader)
        for value in pytree.tree_leaves(self.graph.output_node().args):
            # What comes in and is handed out again stays the same memory.
            if isinstance(value, fx.Node) and memory.of(value) & memory.foreign:
                _bind(value)
        self._bind_modes()

    def _bind_modes(self) -> None:
        """A value that came in is cast where it is read first: not where that has no gradients."""
        starts = torch.is_grad_enabled()
        for node in self.graph.find_nodes(op="placeholder"):
            if not _requires_grad(node):
                continue
            readers = [reader for reader in node.users if reader.op != "output"]
            modes = {self.enabled[reader] for reader in readers}
            if modes == {True, False} or (True in modes and not starts):
                for reader in readers:
                    if self.enabled[reader] is not starts or not starts:
                        _bind(reader, _MODES)

    def spell_views(self) -> None:
        """Reshape for view, but for memory that is updated: a view holds for the strides of the
        kernel that ran when it was captured, and another type may run another kernel.
        """
        for node in self.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
            if not any(self.memory.updates[block] for block in self.memory.of(node)):
                node.target = torch.ops.aten.reshape.default


def _bind(node: fx.Node, reason: str = _UPDATED) -> None:
    maker = node.args[0] if is_getitem(node) else node
    if isinstance(maker, fx.Node) and maker.op == "call_function":
        maker.meta.setdefault("ampconvert_bound", reason)


def _out_of_place(node: fx.Node) -> Any:
    """The overload that makes a new tensor of what `node` writes over; None where there is none
    with the same arguments and gradient.
    """
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not _returns_operand(node):
        return None
    space, _, name = target._schema.name.partition("::")
    if not name.endswith("_") or name.endswith("__"):
        return None
    packet = getattr(getattr(torch.ops, space), name[:-1], None)
    overload = getattr(packet, target._overloadname, None)
    if overload is None or torch.Tag.generated in overload.tags or name == "copy_":
        return None  # those that were generated have no gradient
    is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(
        overload.name(), "CompositeImplicitAutograd"
    )
    if torch.Tag.nondeterministic_seeded in target.tags and not is_composite:
        return None  # it may draw other numbers
    theirs, mine = ([str(a.type) for a in o._schema.arguments] for o in (overload, target))
    takes = {a.name for a in overload._schema.arguments}
    fits = theirs == mine and set(node.kwargs) <= takes and not overload._schema.is_mutable
    return overload if fits else None


def _returns_operand(node: fx.Node) -> bool:
    """Whether a call gives the one tensor that it updates."""
    schema: Any = getattr(node.target, "_schema", None)
    if schema is None or len(schema.returns) != 1:
        return False
    back = schema.returns[0].alias_info
    written = [a for a in schema.arguments if a.alias_info and a.alias_info.is_write]
    return len(written) == 1 and back is not None and back.is_write


def _renames(node: fx.Node) -> bool:
    """Whether an update only changes sizes and strides: t_(), squeeze_()."""
    return torch.Tag.inplace_view in getattr(node.target, "tags", ())


def _is_alike(made: Any, old: torch.Tensor) -> bool:
    return (
        isinstance(made, torch.Tensor)
        and made.dtype == old.dtype
        and made.device == old.device
        and made.size() == old.size()
        and made.stride() == old.stride()
    )


def _requires_grad(node: fx.Node) -> bool:
    return any(t.requires_grad for t in _tensors(node))


def _is_float32(node: fx.Node) -> bool:
    return any(t.dtype == torch.float32 for t in _tensors(node))


def _storages(node: fx.Node) -> list[int]:
    return [t.untyped_storage()._cdata for t in _tensors(node) if t.layout == torch.strided]


def _tensors(node: fx.Node) -> list[torch.Tensor]:
    return [t for t in pytree.tree_leaves(node.meta.get("val")) if isinstance(t, torch.Tensor)]


def _erase_unused(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.target is torch.ops.aten._assert_tensor_metadata.default or (
            not node.users and not has_effect(node)
        ):
            graph.erase_node(node)
