"""What a lowered program needs before torch.onnx: batch normalisation folded, attention's strides
pinned.

Before:  y = batch_norm(conv(x, W, b), gamma, beta, mean, var)
After:   y = conv(x, W * s, (b - mean) * s + beta)         s = gamma / sqrt(var + eps), per channel

Exporters fold it too, but a lowered program would make them multiply numbers that were rounded
already. Here the fold is computed in float64 from the float32 originals and rounded once. A
normalisation that can't be folded keeps its place, with statistics that lose nothing by rounding.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from ampconvert.frontends.fx import weight, weight_targets
from ampconvert.frontends.fx_nodes import arguments
from ampconvert.frontends.fx_program import editable, rebuilt

ATEN = torch.ops.aten
_NORMS = {
    ATEN.batch_norm.default,
    ATEN._native_batch_norm_legit_no_training.default,
    ATEN.cudnn_batch_norm.default,
}
_TRANSPOSED = {
    ATEN.conv_transpose1d.default,
    ATEN.conv_transpose2d.input,
    ATEN.conv_transpose3d.input,
}
_CONVS = {
    ATEN.conv1d.default, ATEN.conv1d.padding, ATEN.conv2d.default, ATEN.conv2d.padding,
    ATEN.conv3d.default, ATEN.conv3d.padding, ATEN.linear.default, *_TRANSPOSED,
}  # fmt: skip


def ready_for_export(
    program: ExportedProgram, original: ExportedProgram
) -> tuple[ExportedProgram, dict[str, str]]:
    """A program with every normalisation folded that can be, and new names for reused weights.

    `original` has the same weights in float32. The folded bias takes the place of the running mean,
    which nothing else reads; the second result maps that old name to the bias's.
    """
    edit = _Edit(original, weight_targets(original), dict(program.state_dict), {})
    module = editable(program)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _NORMS:
            affine = _affine(node, original, edit.targets)
            if affine is not None and not _fold(node, affine, graph, edit):
                _split_statistics(node, affine, edit)
        elif node.target is ATEN.scaled_dot_product_attention.default:
            _pin_strides(node, graph)
    return rebuilt(program, module, edit.state), edit.renamed


@dataclass(frozen=True)
class _Edit:
    """The weights of a program while they are changed: what they were, and what they are now."""

    original: ExportedProgram
    targets: dict[str, str]
    state: dict[str, Any]
    renamed: dict[str, str]

    def store(self, place: fx.Node, value: torch.Tensor, dtype: torch.dtype) -> None:
        """Put `value` where the placeholder `place` is filled from, rounded once to `dtype`."""
        target = self.targets[place.name]
        rounded = value.to(dtype)
        is_parameter = isinstance(self.state[target], torch.nn.Parameter)
        self.state[target] = torch.nn.Parameter(rounded) if is_parameter else rounded
        place.meta["val"] = place.meta["val"].to(dtype)


def _pin_strides(attention: fx.Node, graph: fx.Graph) -> None:
    """Copy attention's result into plain order: kernels for other types lay it out in other
    strides.

    torch.onnx decomposes a following reshape by the strides it sees first and runs it on others.
    The copy is an Identity in ONNX, which the exporter removes.
    """
    with graph.inserting_after(attention):
        plain = graph.call_function(
            ATEN.clone.default, (attention,), {"memory_format": torch.contiguous_format}
        )
    attention.replace_all_uses_with(plain, delete_user_cb=lambda user: user is not plain)
    plain.meta = dict(attention.meta)
    plain.meta["val"] = attention.meta["val"].contiguous()


@dataclass(frozen=True)
class _Affine:
    """A normalisation with stored statistics as y = x * scale + shift, in float64."""

    scale: torch.Tensor
    shift: torch.Tensor


def _affine(norm: fx.Node, original: ExportedProgram, targets: dict[str, str]) -> _Affine | None:
    """The two vectors that `norm` amounts to; None where its statistics are the batch's own, or are
    no weights of the model.
    """
    given = dict(arguments(norm))
    places = [given.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
    if given.get("training") or places[0] is None or places[1] is None:
        return None
    if any(place is not None and place.name not in targets for place in places):
        return None
    mean, var, gamma, beta = (None if p is None else _master(p, original, targets) for p in places)
    assert mean is not None and var is not None
    scale = torch.rsqrt(var + given["eps"]) * (1.0 if gamma is None else gamma)
    return _Affine(scale, (0.0 if beta is None else beta) - mean * scale)


def _fold(norm: fx.Node, affine: _Affine, graph: fx.Graph, edit: _Edit) -> bool:
    """Fold `norm` into the convolution before it, where nothing else reads either; say whether."""
    mean = dict(arguments(norm))["running_mean"]
    conv = dict(arguments(norm))["input"]
    if conv.target not in _CONVS or len(conv.users) != 1 or set(mean.users) != {norm}:
        return False
    if conv.target is ATEN.linear.default and conv.meta["val"].ndim != 2:
        return False  # the last dimension is not the normalised one
    names = dict(arguments(conv))
    kernel, bias = names["weight"], names.get("bias")
    if kernel.name not in edit.targets or set(kernel.users) != {conv}:
        return False
    if bias is not None and bias.name not in edit.targets:
        return False
    dtype = conv.meta["val"].dtype
    if dtype != _result(norm).dtype:
        return False
    scaled = _scale_kernel(_master(kernel, edit.original, edit.targets), affine.scale, conv)
    shift = affine.shift
    if bias is not None:
        shift = shift + _master(bias, edit.original, edit.targets) * affine.scale
    if scaled is None or not all(t.to(dtype).isfinite().all() for t in (scaled, shift)):
        return False
    edit.store(kernel, scaled, dtype)
    edit.store(mean, shift, dtype)
    _set_bias(conv, mean)
    path = edit.targets[kernel.name].removesuffix("weight")
    edit.renamed[edit.targets[mean.name]] = f"{path}bias"
    _replace(norm, conv, graph)
    return True


def _split_statistics(norm: fx.Node, affine: _Affine, edit: _Edit) -> None:
    """Give a `norm` that stays one type in all operands, and lose nothing by rounding them.

    Its statistics need float32's range and stay float32 in the program, but runtimes register one
    type for all operands, and compute the affine map from them in float32. Of the many ways to
    write a scale as gamma / sqrt(var), the one whose rounded gamma and var are closest is taken;
    the mean then carries what rounding took off the shift.
    """
    given = dict(arguments(norm))
    places = [given.get(name) for name in ("weight", "running_var", "running_mean", "bias")]
    dtype = _result(norm).dtype
    kept: list[fx.Node] = [p for p in places if p is not None and set(p.users) == {norm}]
    if dtype == torch.float32 or len(kept) != len(places):
        return
    gamma, var = _closest_pair(affine.scale, dtype)
    scale = gamma / var.sqrt()
    beta = affine.shift.to(dtype).double()
    mean = torch.where(scale == 0, 0.0, (beta - affine.shift) / scale).to(dtype).double()
    statistics = (gamma, var, mean, beta)
    if not all(t.isfinite().all() for t in statistics):
        return
    for place, value in zip(kept, statistics, strict=True):
        edit.store(place, value, dtype)
    schema = norm.target._schema  # type: ignore[union-attr]
    norm.update_arg([a.name for a in schema.arguments].index("eps"), 0.0)


def _closest_pair(scale: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Per channel the gamma and var in `dtype`, var in 1..4, with gamma / sqrt(var) nearest to
    `scale`.
    """
    steps = torch.arange(1.0, 4.0, torch.finfo(dtype).eps, dtype=torch.float64)
    candidates = steps.to(dtype).double()
    gamma = (scale[:, None] * candidates.sqrt()).to(dtype).double()
    best = (gamma / candidates.sqrt() - scale[:, None]).abs().argmin(1, keepdim=True)
    return gamma.gather(1, best)[:, 0], candidates[best[:, 0]]


def _master(node: fx.Node, original: ExportedProgram, targets: dict[str, str]) -> torch.Tensor:
    return weight(original, targets[node.name]).detach().double()


def _scale_kernel(kernel: torch.Tensor, scale: torch.Tensor, conv: fx.Node) -> torch.Tensor | None:
    """The kernel times the scale of its output channel; None for a grouped transposed
    convolution.
    """
    if conv.target not in _TRANSPOSED:
        return kernel * scale.reshape(-1, *[1] * (kernel.ndim - 1))
    if kernel.shape[1] != scale.shape[0]:
        return None
    return kernel * scale.reshape(1, -1, *[1] * (kernel.ndim - 2))


def _set_bias(conv: fx.Node, bias: fx.Node) -> None:
    if len(conv.args) > 2:
        conv.update_arg(2, bias)
    elif len(conv.args) == 2 and "bias" not in conv.kwargs:
        conv.args = (*conv.args, bias)
    else:
        conv.update_kwarg("bias", bias)


def _result(norm: fx.Node) -> torch.Tensor:
    made = norm.meta["val"]
    return made if isinstance(made, torch.Tensor) else made[0]


def _replace(norm: fx.Node, conv: fx.Node, graph: fx.Graph) -> None:
    if isinstance(norm.meta["val"], torch.Tensor):
        norm.replace_all_uses_with(conv)
        conv.meta["custom"] = dict(conv.meta.get("custom", {}))
    else:
        for user in list(norm.users):
            if user.target is operator.getitem and user.args[1] == 0:
                user.replace_all_uses_with(conv)
            if not user.users:
                graph.erase_node(user)
    if not norm.users:
        graph.erase_node(norm)
