"""The error of rounding a program's values to `low`, predicted to first order.

One forward and one backward pass: with random signs v over the outputs and g the gradient of v . y
in z, the expectation of sum g_j^2 d_j^2 over v is the output's squared error if the rounding errors
d_j = low(z_j) - z_j are independent (Hutchinson's estimator; cf. ADAPT, SC'18, for error estimates
from reverse differentiation). Nothing but the sums is kept: each gradient is used as soon as it is
there, and dropped.

What rounding really does to the outputs is measured in `fx_measured`.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.dtypes import Low, parse_low
from ampconvert.errors import UserError
from ampconvert.frontends.capture import Batch
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.frontends.fx_measured import measured_errors as measured_errors
from ampconvert.frontends.fx_measured import measured_op_errors as measured_op_errors
from ampconvert.frontends.fx_measured import measured_total as measured_total
from ampconvert.frontends.fx_nodes import is_getitem, is_tensor, operands, returned
from ampconvert.frontends.fx_run import flat_inputs
from ampconvert.frontends.fx_targets import as_real, target_nodes
from ampconvert.ranges.sensitivity import Prediction

PROBES = 2  # backward passes, in all
BATCHES = 4  # at most so many are looked at

Key = tuple[str, str, int]  # "value", "result" or "edge"; the name; an edge's position


def predict(
    program: ExportedProgram,
    batches: Sequence[Batch],
    low: Low,
    *,
    probes: int = PROBES,
    edges: bool = False,
    seed: int = 0,
) -> Prediction:
    """The energy of rounding each float32 value (weights included) to `low`, and with `edges` of
    rounding it at one operand only; see `ranges.sensitivity` for what an energy is.

    `probes` is the number of backward passes, spread over the first batches, at most BATCHES of
    them. A probe's result is random; its mean is the first-order energy. Buffers count unless an
    operator has no derivative in one (running statistics). A program without a floating-point
    output is judged by the last floats its outputs are computed from.

    Raises UserError when the program can't be differentiated.
    """
    used = list(batches[: min(probes, BATCHES)])
    buffers = frozenset(program.graph_signature.inputs_to_buffers)
    try:
        return _Probes(program, low, probes, edges, seed, frozenset()).run(used)
    except RuntimeError:
        pass
    try:
        return _Probes(program, low, probes, edges, seed, buffers).run(used)
    except RuntimeError as error:
        raise UserError(
            f"the error per op can't be estimated: {str(error).splitlines()[0]}"
        ) from error


def rounding_error(
    program: ExportedProgram, batch: Batch, low: str, seed: int = 0
) -> dict[str, float]:
    """The energies of `predict` from one batch and one probe."""
    return dict(predict(program, [batch], parse_low(low), probes=1, seed=seed).values)


class _Probes:
    """The passes of one prediction."""

    def __init__(
        self,
        program: ExportedProgram,
        low: Low,
        probes: int,
        edges: bool,
        seed: int,
        skip: frozenset[str],
    ) -> None:
        self.program = program
        self.low = low
        self.probes = probes
        self.skip = skip
        self.generator = torch.Generator().manual_seed(seed)
        self.targets = target_nodes(program)
        self.shared = _shared_values(program) if edges else frozenset()
        self.edges = edges

    def run(self, batches: Sequence[Batch]) -> Prediction:
        found = [
            self._batch(batch, len(range(number, self.probes, len(batches))))
            for number, batch in enumerate(batches)
        ]
        sums: dict[str, defaultdict[Any, float]] = {
            kind: defaultdict(float) for kind in ("value", "result", "edge")
        }
        for (part, _), share in zip(found, _shares([sizes for _, sizes in found]), strict=True):
            for (kind, name, position), energy in part.items():
                key = (name, position) if kind == "edge" else name
                sums[kind][key] += share * energy if energy else 0.0  # no 0 times infinity
        values, edges = dict(sums["value"]), dict(sums["edge"])
        if self.edges:
            edges |= _sole_edges(self.program, self.shared, values)
        return Prediction(self.low, values, dict(sums["result"]), edges)

    def _batch(self, batch: Batch, probes: int) -> tuple[dict[Key, float], list[float]]:
        """The mean energies over `probes` passes for one batch, and the outputs' squared norms."""
        flat = [
            t.detach() if isinstance(t, torch.Tensor) else t
            for t in flat_inputs(self.program, *batch)
        ]
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            watch = _Watch(self.program, self.low, self.skip, self.shared, self.targets)
            watch.run(*flat)
            outputs = [as_real(watch.kept[node]) for node in self.targets]
            finite = [torch.where(t.isfinite(), t, torch.zeros((), dtype=t.dtype)) for t in outputs]
            norms = [float(t.detach().double().norm()) for t in finite]
            for number in range(probes):
                loss = self._signed(finite, norms)
                if loss is not None:  # a model of integers alone has nothing to round
                    torch.autograd.backward(loss, retain_graph=number < probes - 1)
        return {key: energy / probes for key, energy in watch.found.items()}, [n**2 for n in norms]

    def _signed(self, outputs: list[torch.Tensor], norms: list[float]) -> torch.Tensor | None:
        """The outputs with random signs, each over its norm, summed up."""
        parts = []
        for tensor, norm in zip(outputs, norms, strict=True):
            if tensor.requires_grad and tensor.numel():
                signs = torch.randint(0, 2, tensor.shape, generator=self.generator) * 2 - 1
                parts.append((tensor * signs.to(tensor.dtype) / (norm or 1.0)).sum().double())
        return torch.stack(parts).sum() if parts else None


@dataclass
class _Rounding:
    """The hook that adds up the energies of one value, or of one operand.

    `added` is the error that storing a call's result in `low` adds when its operands are in `low`
    already; None for what no call makes.
    """

    key: Key
    value: torch.Tensor
    low: torch.dtype
    found: defaultdict[Key, float] = field(repr=False)
    added: torch.Tensor | None = None

    def add(self, gradient: torch.Tensor | None) -> torch.Tensor | None:
        """Count one gradient. Gives it back with 0 for what is no number, as behind 0 times
        infinity; None where nothing is to be changed.
        """
        if gradient is None:  # one of several results that the outputs do not depend on
            return None
        clean = None
        energy = _rounding_energy(self.value, gradient, self.low)
        if not math.isfinite(energy) and not bool(gradient.isfinite().all()):
            gradient = clean = gradient.nan_to_num(0.0, 0.0, 0.0)
            energy = _rounding_energy(self.value, gradient, self.low)
        self.found[self.key] += energy
        if self.added is not None:
            self.found["result", *self.key[1:]] += _energy(gradient, self.added)
        return clean

    def add_and_free(self, leaf: torch.Tensor) -> None:
        """The same for what nothing is computed before, whose gradient would stay."""
        self.add(leaf.grad)
        leaf.grad = None


class _Watch(fx.Interpreter):
    """Runs a program with a hook at each float32 value, and at each operand that reads a shared
    one; keeps the targets.

    Each call runs a second time on operands rounded to `low`, to see what storing its result adds:
    nothing for a view, less than half a step for a sum of few numbers on one grid.
    """

    def __init__(
        self,
        program: ExportedProgram,
        low: Low,
        skip: frozenset[str],
        shared: Collection[fx.Node],
        targets: Collection[fx.Node],
    ) -> None:
        super().__init__(program.graph_module)
        self.extra_traceback = False
        self.low = TORCH[low]
        self.found: defaultdict[Key, float] = defaultdict(float)
        self.skip = skip
        self.shared = shared
        self.targets = targets
        self.kept: dict[fx.Node, torch.Tensor] = {}
        self.added: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Its result, watched."""
        result = super().run_node(n)
        if n.op == "call_function" and not is_getitem(n) and _makes_float32(n):
            self.added[n] = self._lost_again(n)
        watched = isinstance(result, torch.Tensor) and result.dtype == torch.float32
        if n.op != "output" and watched and n.name not in self.skip:
            result = self._watched(n, result)
        if n in self.targets:
            self.kept[n] = result
        return result

    def _lost_again(self, node: fx.Node) -> Any:
        """What rounding takes from the results on rounded operands, to bfloat16's three digits."""

        def load(argument: fx.Node) -> Any:
            value = self.env[argument]
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                return value.to(self.low).float()
            return value

        def lost(value: Any) -> torch.Tensor | None:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                return _lost(value, self.low).to(torch.bfloat16)
            return None

        args: Any = fx.node.map_arg(node.args, load)
        kwargs: Any = fx.node.map_arg(node.kwargs, load)
        with torch.no_grad():
            return pytree.tree_map(lost, self.call_function(node.target, args, kwargs))

    def _watched(self, node: fx.Node, result: torch.Tensor) -> torch.Tensor:
        leaf = not result.requires_grad
        if leaf:
            result = result.detach().requires_grad_(True)
        key = ("value", node.name, 0)
        rounding = _Rounding(key, result.detach(), self.low, self.found, self._added(node))
        if leaf:
            hook = rounding.add_and_free
            result.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        else:
            result.register_hook(rounding.add)  # type: ignore[no-untyped-call]
        return result

    def _added(self, node: fx.Node) -> torch.Tensor | None:
        """What storing this result adds: one of several where it is taken out of them."""
        if is_getitem(node):
            call, which = node.args
            several: Any = self.added.get(call)  # type: ignore[arg-type]
            return None if several is None else several[which]
        found: torch.Tensor | None = self.added.pop(node, None)
        return found

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The operands of `n`; a shared one by a view of its own, with a hook."""
        positions = iter([i for i, o in enumerate(operands(n)) if o.node is not None])

        def load(argument: fx.Node) -> Any:
            value = self.env[argument]
            if n.op != "call_function" or not is_tensor(argument):
                return value
            position = next(positions)
            if argument not in self.shared or argument.name in self.skip:
                return value
            alias = value.view_as(value)
            rounding = _Rounding(("edge", n.name, position), value.detach(), self.low, self.found)
            alias.register_hook(rounding.add)
            return alias

        args: Any = fx.node.map_arg(n.args, load)
        kwargs: Any = fx.node.map_arg(n.kwargs, load)
        return args, kwargs


def _rounding_energy(value: torch.Tensor, gradient: torch.Tensor, low: torch.dtype) -> float:
    """sum g_j^2 d_j^2. Where few rows have a gradient, as in a table that is looked up, only those
    are rounded.
    """
    if value.dim() > 1 and value.numel() > _TABLE:
        column = gradient.flatten(1)[:, 0]
        if int(column.count_nonzero()) * 2 < len(column):
            rows = gradient.flatten(1).abs().amax(1).nonzero()[:, 0]
            value, gradient = value[rows], gradient[rows]
    return _energy(gradient, _lost(value, low))


_TABLE = 1 << 18  # elements; in smaller ones looking for rows would not pay


def _lost(value: torch.Tensor, low: torch.dtype) -> torch.Tensor:
    """What rounding takes from a value; nothing from what is infinite already."""
    lost = value.to(low).float() - value
    return torch.where(value.isfinite(), lost, 0.0)


def _energy(gradient: torch.Tensor, error: torch.Tensor) -> float:
    """Infinite where an infinite error has a gradient, or a gradient is no number."""
    product = gradient * error
    norm = float(torch.linalg.vector_norm(product, dtype=torch.float64))
    if not math.isfinite(norm):
        moved = (error != 0) & (gradient != 0)
        norm = float(torch.linalg.vector_norm(product[moved], dtype=torch.float64))
    return norm**2 if math.isfinite(norm) else math.inf


def _shares(sizes: list[list[float]]) -> list[float]:
    """How much each batch's relative energy counts: its share of the outputs' squared norms."""
    columns = [column for column in zip(*sizes, strict=True) if sum(column)]
    if not columns:
        return [1 / len(sizes)] * len(sizes)
    return [sum(c[i] / sum(c) for c in columns) / len(columns) for i in range(len(sizes))]


def _shared_values(program: ExportedProgram) -> frozenset[fx.Node]:
    """The values that are read in several places, the caller among them."""
    reads: defaultdict[fx.Node, int] = defaultdict(int)
    for node in program.graph.nodes:
        if node.op == "call_function":
            for operand in operands(node):
                if operand.node is not None:
                    reads[operand.node] += 1
    for value in returned(program.graph):
        if is_tensor(value):
            reads[value] += 1
    return frozenset(
        node for node, count in reads.items()
        if count > 1 and node.meta["val"].dtype == torch.float32
    )  # fmt: skip


def _sole_edges(
    program: ExportedProgram, shared: Collection[fx.Node], values: dict[str, float]
) -> dict[tuple[str, int], float]:
    """The energies of operands that are their value's only reader."""
    return {
        (node.name, position): values[operand.node.name]
        for node in program.graph.nodes
        if node.op == "call_function"
        for position, operand in enumerate(operands(node))
        if operand.node is not None and operand.node not in shared and operand.node.name in values
    }


def _makes_float32(node: fx.Node) -> bool:
    fakes = pytree.tree_leaves(node.meta.get("val"))
    return any(isinstance(f, torch.Tensor) and f.dtype == torch.float32 for f in fakes)
