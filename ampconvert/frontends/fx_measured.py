"""The error of rounding one value or one op of a program, measured by running it.

The reference and the changed run both compute in float64, so that nothing but the rounding in
question shows; where an operator has no float64 kernel, both compute in float32. A changed run
starts at the first node that sees the change and ends where nothing differs any more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.dtypes import Low
from ampconvert.frontends.capture import Batch
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.frontends.fx_float64 import Float64, doubled
from ampconvert.frontends.fx_nodes import is_tensor, operands
from ampconvert.frontends.fx_run import flat_inputs
from ampconvert.frontends.fx_targets import as_real, target_nodes
from ampconvert.graph import Graph

Tell = Callable[[int, int], None]
Keep = Mapping[str, Collection[int]]
Change = Callable[["_Reference"], dict[fx.Node, Any]]


def measured_errors(
    program: ExportedProgram,
    batches: Sequence[Batch],
    low: Low,
    names: Collection[str] | None = None,
    tell: Tell | None = None,
) -> dict[str, float]:
    """The energy (see `ranges.sensitivity`) of rounding one float32 value to `low`, everything else
    as it was, for each of `names` (all: inputs, weights and results of calls).

    Infinite where an output becomes infinite or NaN. The results of one batch are in memory at a
    time, in float64. `tell` hears how many runs of how many are done.
    """
    nodes = [node for node in program.graph.nodes if _is_float32(node)]
    picked = [node for node in nodes if names is None or node.name in names]

    def rounding(node: fx.Node) -> Change:
        return lambda reference: {node: _rounded(reference.env[node], low)}

    changes = {node.name: rounding(node) for node in picked}
    return _measure(program, batches, changes, tell)


def measured_op_errors(
    program: ExportedProgram,
    graph: Graph,
    batches: Sequence[Batch],
    low: Low,
    ops: Collection[str] | None = None,
    tell: Tell | None = None,
    *,
    keep: Keep | None = None,
) -> dict[str, float]:
    """The energy of running one op in `low`: its float32 operands, weights among them, are rounded
    where it reads them, and so are its results. For each of `ops`, nodes of `graph`.

    `keep` gives the input positions that stay float32. Nodes without a float32 operand or result
    are left out. Raises nothing of its own; infinities as in `measured_errors`.
    """
    calls = {node.name: node for node in program.graph.nodes if node.op == "call_function"}

    def lowering(node: fx.Node) -> Change:
        kept = (keep or {}).get(node.name, ())
        return lambda reference: {node: reference.lowered(node, low, kept)}

    changes = {
        node.name: lowering(calls[node.name])
        for node in graph.nodes
        if (ops is None or node.name in ops) and _touches_float32(calls[node.name])
    }
    return _measure(program, batches, changes, tell)


def measured_total(
    program: ExportedProgram,
    graph: Graph,
    batches: Sequence[Batch],
    low: Low,
    ops: Collection[str] | None = None,
    *,
    keep: Keep | None = None,
) -> float:
    """The energy of running all of `ops` (all nodes of `graph`) in `low` at once."""
    picked = {node.name for node in graph.nodes if ops is None or node.name in ops}
    sums = _Sums(len(target_nodes(program)))
    for batch in batches:
        reference = _Reference(program, batch)
        sums.size(reference)
        sums.add("", reference, reference.all_lowered(picked, low, keep or {}))
    return sums.energy("")


class Trials:
    """Errors of plans on one batch, measured by running the program with what they store in `low`
    rounded. All results of the float32 program are kept in memory, in float64.
    """

    def __init__(
        self, program: ExportedProgram, batch: Batch, low: Low, keep: Keep | None = None
    ) -> None:
        self.low = low
        self.keep = keep or {}
        self.targets = len(target_nodes(program))
        self.reference = _Reference(program, batch)

    def error(self, ops: Collection[str]) -> float:
        """The relative L2 error of the worst output where `ops` run in `low`; infinite where one
        that was finite is not.
        """
        sums = _Sums(self.targets)
        sums.size(self.reference)
        sums.add("", self.reference, self.reference.all_lowered(ops, self.low, self.keep))
        return sums.worst("")


def _measure(
    program: ExportedProgram,
    batches: Sequence[Batch],
    changes: Mapping[str, Change],
    tell: Tell | None,
) -> dict[str, float]:
    sums = _Sums(len(target_nodes(program)))
    done, total = 0, len(changes) * len(batches)
    for batch in batches:
        reference = _Reference(program, batch)
        sums.size(reference)
        for name, change in changes.items():
            sums.add(name, reference, reference.rerun(change(reference)))
            done += 1
            if tell is not None:
                tell(done, total)
    return {name: sums.energy(name) for name in changes}


class _Sums:
    """Squared differences and norms of each target, over batches."""

    def __init__(self, targets: int) -> None:
        self.sizes = [0.0] * targets
        self.lost: dict[str, list[float]] = {}

    def size(self, reference: _Reference) -> None:
        """Count the targets of one batch."""
        for i, tensor in enumerate(reference.answers):
            finite = torch.where(tensor.isfinite(), tensor, 0.0)
            self.sizes[i] += float(torch.linalg.vector_norm(finite, dtype=torch.float64)) ** 2

    def add(self, name: str, reference: _Reference, changed: Mapping[fx.Node, Any]) -> None:
        """Count what a change does to one batch's targets; `changed` lacks what stayed the same."""
        lost = self.lost.setdefault(name, [0.0] * len(self.sizes))
        for i, (node, right) in enumerate(zip(reference.targets, reference.answers, strict=True)):
            if node in changed:
                difference = as_real(changed[node]) - right
                difference = torch.where(right.isfinite(), difference, 0.0)
                lost[i] += float(torch.linalg.vector_norm(difference, dtype=torch.float64)) ** 2

    def worst(self, name: str) -> float:
        """The relative L2 error of the target that is off most."""
        pairs = zip(self.lost.get(name, ()), self.sizes, strict=False)
        found = [math.sqrt(lost / (size or 1.0)) for lost, size in pairs]
        return max((e if math.isfinite(e) else math.inf for e in found), default=0.0)

    def energy(self, name: str) -> float:
        """Over all batches so far."""
        found = 0.0
        for lost, size in zip(self.lost.get(name, ()), self.sizes, strict=False):
            found += lost / (size or 1.0)
        return found if math.isfinite(found) else math.inf


class _Reference:
    """Everything that a program computes on one batch, and reruns of parts of it."""

    def __init__(self, program: ExportedProgram, batch: Batch) -> None:
        self.nodes = [n for n in program.graph.nodes if n.op == "call_function"]
        self.targets = target_nodes(program)
        self.needed = _ancestors(self.targets)
        flat = flat_inputs(program, *batch)
        with torch.no_grad():
            try:
                self.runner: fx.Interpreter = Float64(program.graph_module)
                self.env = _all_results(self.runner, doubled(flat))
            except (RuntimeError, TypeError, NotImplementedError):
                self.runner = fx.Interpreter(program.graph_module)
                self.env = _all_results(self.runner, flat)
        self.answers = [as_real(self.env[node]) for node in self.targets]

    def rerun(self, changed: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
        """What differs when `changed` nodes have these results, targets and all before them."""
        found = {node: value for node, value in changed.items() if not _same(value, self.env[node])}
        waiting = {user for node in found for user in node.users}
        for node in self.nodes if waiting else ():
            if node not in waiting:
                continue
            waiting.discard(node)
            if node in self.needed and node not in changed:
                result = self._run(node, found)
                if not _same(result, self.env[node]):
                    found[node] = result
                    waiting.update(node.users)
            if not waiting:
                break
        return found

    def lowered(self, node: fx.Node, low: Low, kept: Collection[int]) -> Any:
        """The result of `node` run in `low` on operands of the reference."""
        return _rounded_result(node, self._run(node, {}, low, kept), low)

    def all_lowered(self, names: Collection[str], low: Low, keep: Keep) -> dict[fx.Node, Any]:
        """The results where all of `names` run in `low`, on operands that came out so."""
        found: dict[fx.Node, Any] = {}
        for node in self.nodes:
            if node.name in names:
                result = self._run(node, found, low, keep.get(node.name, ()))
                found[node] = _rounded_result(node, result, low)
            elif any(source in found for source in node.all_input_nodes):
                found[node] = self._run(node, found)
        return found

    def _run(
        self,
        node: fx.Node,
        changed: Mapping[fx.Node, Any],
        low: Low | None = None,
        kept: Collection[int] = (),
    ) -> Any:
        positions = iter([i for i, o in enumerate(operands(node)) if o.node is not None])

        def load(argument: fx.Node) -> Any:
            value = changed.get(argument, self.env.get(argument))
            if low is None or not is_tensor(argument):
                return value
            position = next(positions)
            if position in kept or not _is_float32(argument):
                return value
            return _rounded(value, low)

        args: Any = fx.node.map_arg(node.args, load)
        kwargs: Any = fx.node.map_arg(node.kwargs, load)
        with torch.no_grad():
            return self.runner.call_function(node.target, args, kwargs)


def _all_results(runner: fx.Interpreter, flat: Sequence[Any]) -> dict[fx.Node, Any]:
    """Every node's result. Modules inside the program (bodies of control flow) are results too."""
    runner.garbage_collect_values = False
    runner.extra_traceback = False
    runner.run(*flat)
    return dict(runner.env)


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """`nodes` and all that they are computed from."""
    found, waiting = set(nodes), list(nodes)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _rounded(value: torch.Tensor, low: Low) -> torch.Tensor:
    return value.to(TORCH[low]).to(value.dtype)


def _rounded_result(node: fx.Node, result: Any, low: Low) -> Any:
    """A call's result with its float32 tensors rounded."""
    fakes = pytree.tree_leaves(node.meta.get("val"))
    leaves, spec = pytree.tree_flatten(result)
    if len(fakes) != len(leaves):
        return result
    rounded = [
        _rounded(leaf, low)
        if isinstance(leaf, torch.Tensor) and getattr(fake, "dtype", None) == torch.float32
        else leaf
        for leaf, fake in zip(leaves, fakes, strict=True)
    ]
    return pytree.tree_unflatten(rounded, spec)


def _same(a: Any, b: Any) -> bool:
    """Bit for bit, NaN like NaN."""
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(left) == len(right) and all(map(_same_leaf, left, right))


def _same_leaf(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor):
        return bool(a == b)
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _is_float32(node: fx.Node) -> bool:
    return is_tensor(node) and node.meta["val"].dtype == torch.float32


def _touches_float32(node: fx.Node) -> bool:
    """Whether there is a choice of type."""
    return any(True for _ in _floats(node))


def _floats(node: fx.Node) -> Iterator[Any]:
    for operand in operands(node):
        if operand.node is not None and _is_float32(operand.node):
            yield operand.node
    for fake in pytree.tree_leaves(node.meta.get("val")):
        if isinstance(fake, torch.Tensor) and fake.dtype == torch.float32:
            yield fake
