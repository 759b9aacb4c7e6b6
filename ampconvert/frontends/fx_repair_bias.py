"""How far each layer's output is off in a low type, given float32's inputs, in a captured program.

Every layer is judged by itself: it is run once more with its operands and its result rounded, on
the inputs that float32 gave it. Differences add up downstream to first order, so that each layer's
own can be taken off without the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.dtypes import Low
from ampconvert.frontends.capture import Batch
from ampconvert.frontends.fx_apply import TORCH
from ampconvert.frontends.fx_run import flat_inputs
from ampconvert.repairs.correct_bias import OutputError


def output_errors(
    program: ExportedProgram, batches: Sequence[Batch], low: Low, channels: Mapping[str, int]
) -> dict[str, OutputError]:
    """The error of each layer in `channels`, a node's name with the axis of its output channels.

    Both models run in step, and nothing but sums is kept.
    """
    found: dict[str, OutputError] = {}
    for args, kwargs in batches:
        with torch.no_grad():
            _Twice(program.graph_module, low, channels, found).run(
                *flat_inputs(program, args, kwargs)
            )
    return found


class _Twice(fx.Interpreter):
    """Runs a program, and each layer a second time in the low type."""

    def __init__(
        self,
        module: fx.GraphModule,
        low: Low,
        channels: Mapping[str, int],
        found: dict[str, OutputError],
    ) -> None:
        super().__init__(module)
        self.low = TORCH[low]
        self.channels = channels
        self.found = found

    def run_node(self, n: fx.Node) -> Any:
        """The node's result in float32."""
        result = super().run_node(n)
        if n.name in self.channels:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            args, kwargs = pytree.tree_map_only(torch.Tensor, self._rounded, (args, kwargs))
            off = result - self._rounded(n.target(*args, **kwargs))  # type: ignore[operator]
            seen = _sums(off, self.channels[n.name])
            self.found[n.name] = self.found[n.name].merge(seen) if n.name in self.found else seen
        return result

    def _rounded(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.low).float() if tensor.dtype == torch.float32 else tensor


def _sums(off: torch.Tensor, channel: int) -> OutputError:
    rows = off.double().movedim(channel, 0).flatten(1) if off.ndim > 1 else off.double()[:, None]
    return OutputError(rows.sum(1).numpy(), (rows**2).sum(1).numpy(), rows.shape[1])
