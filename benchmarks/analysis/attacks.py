"""Inputs that try to break a bound: random ones, and ones made by climbing a value's gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from ampconvert.frontends.fx_run import flat_inputs
from benchmarks.analysis.subjects import Interval

STEPS = 6  # of one climb
See = Callable[[str, torch.Tensor], None]
Inputs = list[torch.Tensor]


@dataclass
class Seen:
    """The least and largest finite element of every float32 result, over all runs so far."""

    lo: dict[str, float] = field(default_factory=dict)
    hi: dict[str, float] = field(default_factory=dict)
    tensors: int = 0

    def __call__(self, name: str, tensor: torch.Tensor) -> None:
        found = tensor.detach()
        finite = found if bool(found.isfinite().all()) else found[found.isfinite()]
        if finite.numel():
            low, high = (float(x) for x in finite.aminmax())
            self.lo[name] = min(self.lo.get(name, math.inf), low)
            self.hi[name] = max(self.hi.get(name, -math.inf), high)
        self.tensors += 1

    def largest(self, name: str) -> float:
        """The largest magnitude."""
        return max(-self.lo[name], self.hi[name], 0.0)


class Attack:
    """Runs a program on inputs from their declared ranges and shows every float32 result to `see`.

    Inputs run twice: as they are, and with each result rounded to `low` where that is finite, which
    is what plans may do.
    """

    def __init__(
        self,
        program: ExportedProgram,
        declared: Mapping[str, Interval],
        example: Sequence[torch.Tensor],
        see: See,
        low: torch.dtype,
        seed: int = 0,
    ) -> None:
        self.program, self.see, self.low = program, see, low
        self.spans = [declared[str(name)] for name in program.graph_signature.user_inputs]
        self.example = list(example)
        self.generator = torch.Generator().manual_seed(seed)
        self.tables = _tables(program)

    def given(self, inputs: Sequence[torch.Tensor]) -> None:
        """One run on these inputs, and one that rounds."""
        for low in (None, self.low):
            with torch.no_grad():
                run = _Run(self.program, self.see, low=low)
                run.run(*flat_inputs(self.program, tuple(inputs), {}))

    def random(self) -> None:
        """Runs on random inputs: spread over the range, at its ends, or near the example."""
        self.given(self._inputs())

    def climb(self, name: str) -> None:
        """Runs that make an element of the value `name` larger, or smaller, step by step.

        Numbers follow the sign of their gradient inside their range. Ids of a table are replaced by
        the row that the gradient at the looked-up vector points to most.
        """
        inputs = self._inputs()
        goal = self._goal()
        for step in range(STEPS):
            leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
            run = _Run(self.program, self.see, name)
            with torch.enable_grad():
                run.run(*flat_inputs(self.program, tuple(leaves), {}))
                reached = run.target
                if reached is None or not reached.is_floating_point() or not reached.requires_grad:
                    return
                goal(reached).backward()  # type: ignore[no-untyped-call]
            inputs = [
                self._moved(place, leaf, run, 2.0 ** -(1 + step))
                for place, leaf in enumerate(leaves)
            ]
        self.given(inputs)

    def _goal(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """One random element of the value, up or down, the same one at every step."""
        place, sign = (float(x) for x in torch.rand(2, generator=self.generator))

        def goal(value: torch.Tensor) -> torch.Tensor:
            element = value.reshape(-1)[min(int(place * value.numel()), value.numel() - 1)]
            return element if sign < 0.5 else -element

        return goal

    def _moved(self, place: int, leaf: torch.Tensor, run: _Run, step: float) -> torch.Tensor:
        low, high = self.spans[place]
        if leaf.is_floating_point():
            if leaf.grad is None:
                return leaf.detach()
            return (leaf.detach() + step * (high - low) * leaf.grad.sign()).clamp(low, high)
        for node, (ids, weight) in self.tables.items():
            looked_up = run.kept.get(node)
            if ids == place and looked_up is not None and looked_up.grad is not None:
                scores = looked_up.grad @ weight.T  # how much each row would raise the goal
                better = scores[..., int(low) : int(high) + 1].argmax(-1) + int(low)
                swap = torch.rand(better.shape, generator=self.generator) < 0.5
                return torch.where(swap, better.to(leaf.dtype), leaf)
        return leaf

    def _inputs(self) -> Inputs:
        kind = int(torch.randint(4, (), generator=self.generator))
        return [
            self._input(x, *span, kind) for x, span in zip(self.example, self.spans, strict=True)
        ]

    def _input(self, like: torch.Tensor, low: float, high: float, kind: int) -> torch.Tensor:
        part = torch.rand(like.shape, generator=self.generator)
        if not like.is_floating_point():
            return (low + (part * (high - low + 1)).floor()).clamp(low, high).to(like.dtype)
        if kind == 0:
            return low + part * (high - low)
        if kind == 1:
            return torch.where(part < 0.5, low, high)
        if kind == 2:  # one sign for long stretches: sums are large
            return torch.where(part.flatten()[0] < 0.5, low, high).expand(like.shape).clone()
        return (like + (part - 0.5) * 0.1 * (high - low)).clamp(low, high)


class _Run(fx.Interpreter):
    """One run that shows float32 results, and keeps what a climb asks for: a value, and what
    tables were looked up.
    """

    def __init__(
        self, program: ExportedProgram, see: See, target: str = "", low: torch.dtype | None = None
    ) -> None:
        super().__init__(program.graph_module)
        self.extra_traceback = False
        self.see, self.wanted, self.low = see, target, low
        self.target: torch.Tensor | None = None
        self.kept: dict[str, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Its result, seen."""
        result = super().run_node(n)
        if n.op == "call_function" and isinstance(result, torch.Tensor):
            if result.dtype == torch.float32:
                if self.low is not None:
                    rounded = result.to(self.low).float()
                    result = rounded if bool(rounded.isfinite().all()) else result
                self.see(n.name, result)
            if self.wanted and _is_lookup(n):
                result = result.detach().requires_grad_()
                self.kept[n.name] = result
            if n.name == self.wanted:
                self.target = result
        return result


def _is_lookup(node: fx.Node) -> bool:
    return node.target is torch.ops.aten.embedding.default


def _tables(program: ExportedProgram) -> dict[str, tuple[int, torch.Tensor]]:
    """The lookups whose ids are an input as it comes: the input's place, and the table."""
    from ampconvert.frontends.fx import weight, weight_targets

    places = {name: i for i, name in enumerate(program.graph_signature.user_inputs)}
    targets = weight_targets(program)
    return {
        node.name: (places[node.args[1].name], weight(program, targets[node.args[0].name]))
        for node in _lookups(program)
        if node.args[1].name in places and node.args[0].name in targets
    }


def _lookups(program: ExportedProgram) -> Iterator[Any]:
    return (n for n in program.graph.nodes if n.op == "call_function" and _is_lookup(n))
