"""The exponents of a program's gradients, from one backward pass per batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ampconvert.errors import UserError
from ampconvert.frontends.capture import Batch
from ampconvert.frontends.fx import output_labels, user_outputs
from ampconvert.frontends.fx_run import flat_inputs
from ampconvert.frontends.fx_targets import as_real, target_nodes
from ampconvert.ranges.loss_scale import ExponentHistogram


def gradient_exponents(
    program: ExportedProgram, batches: Sequence[Batch], *, seed: int = 0
) -> dict[str, ExponentHistogram]:
    """For each float32 parameter and each float32 result that depends on one: the histogram of its
    gradient's exponents, over all batches. In FP16 training these gradients are stored in FP16.

    The loss is the one that `describe_loss` names. Nothing but the histograms is kept; each
    gradient is dropped as soon as it was counted. Raises UserError where the program has no
    parameter that a loss depends on, or can't be differentiated.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, ExponentHistogram] = {}
    for batch in batches:
        try:
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                watch = _Watch(program, found)
                watch.run(*_trainable(program, batch, found))
                loss = _loss(program, watch, generator)
                if loss.requires_grad:
                    torch.autograd.backward(loss)
        except RuntimeError as error:
            raise UserError(
                f"the model can't be differentiated: {str(error).splitlines()[0]}"
            ) from error
    if not found:
        raise UserError(
            "no output of the model depends on a float32 parameter: there is nothing to train, "
            "and no gradient to scale"
        )
    return found


def describe_loss(program: ExportedProgram) -> str:
    """What `gradient_exponents` differentiates, in words."""
    node = _own_loss(program)
    if node is not None:
        return f"the model's own loss, its output {_label(program, node)}"
    names = ", ".join(_label(program, node) for node in target_nodes(program))
    return (
        f"a stand-in for the loss: the mean over {names} of each element times a random number "
        "of unit variance, as large as the gradient of a mean-reduced loss"
    )


def _loss(program: ExportedProgram, watch: _Watch, generator: torch.Generator) -> torch.Tensor:
    own = _own_loss(program)
    if own is not None:
        found: torch.Tensor = watch.kept[own].reshape(())
        return found
    loss = torch.zeros(())
    for node in target_nodes(program):
        tensor = as_real(watch.kept[node])
        if tensor.requires_grad and tensor.numel():
            weights = torch.randn(tensor.shape, generator=generator)
            finite = torch.where(tensor.isfinite(), tensor, 0.0)
            loss = loss + (finite * weights).mean()
    return loss


def _own_loss(program: ExportedProgram) -> fx.Node | None:
    """The output called "loss", or the only one, where that is one floating-point number."""
    scalars = {
        node.name: node
        for node in target_nodes(program)
        if math.prod(node.meta["val"].shape) == 1 and node.meta["val"].dim() == 0
    }
    outputs = user_outputs(program)
    for name, label in zip(outputs, output_labels(program), strict=True):
        if name in scalars and (label == "loss" or len(outputs) == 1):
            return scalars[name]
    return None


def _label(program: ExportedProgram, node: fx.Node) -> str:
    labels = dict(zip(user_outputs(program), output_labels(program), strict=True))
    return labels.get(node.name, node.name)


def _trainable(
    program: ExportedProgram, batch: Batch, found: dict[str, ExponentHistogram]
) -> list[Any]:
    """Inputs in the order of the placeholders, with parameters that are counted and freed when
    their gradient is there. Those that are frozen stay so, unless all are.
    """
    flat = [t.detach() if isinstance(t, torch.Tensor) else t for t in flat_inputs(program, *batch)]
    specs = program.graph_signature.input_specs
    floats = [
        i for i, (spec, tensor) in enumerate(zip(specs, flat, strict=True))
        if spec.kind == InputKind.PARAMETER and tensor.dtype == torch.float32
    ]  # fmt: skip
    held = program.state_dict
    thawed = [i for i in floats if held[specs[i].target or ""].requires_grad]
    for i in thawed or floats:
        flat[i] = flat[i].requires_grad_(True)
        name = specs[i].arg.name

        def count(leaf: torch.Tensor, name: str = name) -> None:
            if leaf.grad is not None:
                _count(found, name, leaf.grad)
            leaf.grad = None

        flat[i].register_post_accumulate_grad_hook(count)
    return flat


class _Watch(fx.Interpreter):
    """Runs a program with a hook at each float32 result that has a gradient; keeps the targets."""

    def __init__(self, program: ExportedProgram, found: dict[str, ExponentHistogram]) -> None:
        super().__init__(program.graph_module)
        self.extra_traceback = False
        self.found = found
        self.targets = set(target_nodes(program))
        self.kept: dict[fx.Node, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Its result, watched."""
        result = super().run_node(n)
        if n in self.targets:
            self.kept[n] = result
        is_result = n.op == "call_function" and isinstance(result, torch.Tensor)
        if is_result and result.requires_grad and result.dtype == torch.float32:
            result.register_hook(lambda gradient: self._count(n.name, gradient))
        return result

    def _count(self, name: str, gradient: torch.Tensor | None) -> None:
        if gradient is not None:
            _count(self.found, name, gradient)


def _count(found: dict[str, ExponentHistogram], name: str, gradient: torch.Tensor) -> None:
    new = ExponentHistogram.of(np.asarray(gradient.detach().cpu().numpy(), np.float32))
    found[name] = found[name].merge(new) if name in found else new
