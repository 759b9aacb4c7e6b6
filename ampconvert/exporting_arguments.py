"""What `ampconvert.export` makes of torch.onnx.export's parameters, and which ones it refuses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.errors import UserError

Axes = Mapping[str, Mapping[int, str] | Sequence[int]]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def refuse_unsupported(model: Any, given: Mapping[str, Any]) -> None:
    """Raise UserError for the first of these parameters that asks for what is not done here.

    `given` are the parameters of torch.onnx.export by name that have one value only here.
    """
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise UserError(
            "a TorchScript model holds no Python source to capture: give the nn.Module it was made "
            "from, or write it with torch.onnx.export(..., dynamo=False) and convert that file"
        )
    if not given["dynamo"] and not isinstance(model, ExportedProgram):
        raise UserError(
            "dynamo=False: models are captured by torch.export only; leave dynamo out. One that "
            "only the TorchScript exporter takes: torch.onnx.export(..., dynamo=False), and then "
            "ampconvert.convert on the file"
        )
    if not isinstance(model, torch.nn.Module | ExportedProgram):
        raise UserError(
            f"an nn.Module or an ExportedProgram is exported, not a {type(model).__name__}"
        )
    for name, (kept, instead) in _ONE_VALUE.items():
        value = given[name]
        if value is not None and value is not kept and getattr(value, "name", value) != kept:
            raise UserError(f"{name}={value!r}: {instead}")


# torch.onnx.export's parameters of which only the default is carried out, and what to do instead.
_ONE_VALUE: dict[str, tuple[Any, str]] = {
    "training": (
        "EVAL",
        "a converted model is one for inference; leave training out",
    ),
    "operator_export_type": ("ONNX", "only ONNX's own operators are written; leave it out"),
    "do_constant_folding": (
        True,
        "torch.onnx always folds constants since 2.6; optimize=False leaves more of the graph as "
        "it was",
    ),
    "custom_opsets": (
        None,
        "operators of your own are named by the functions in custom_translation_table",
    ),
    "export_modules_as_functions": (False, "torch.onnx no longer writes modules as functions"),
    "autograd_inlining": (True, "torch.export always captures what is inside autograd functions"),
    "fallback": (
        False,
        "torch.onnx has no other exporter to fall back to since 2.11; leave fallback out",
    ),
}


def is_exportable(model: Any) -> TypeGuard[torch.onnx.ExportableModule]:
    """Whether the model brings its own example, names and shapes; torch has such since 2.12."""
    kind = getattr(torch.onnx, "ExportableModule", None)
    return kind is not None and isinstance(model, kind)


def arguments(model: Any, args: Any, kwargs: Mapping[str, Any] | None) -> Arguments:
    """The example inputs as torch.onnx.export takes them: one tensor stands for a tuple of it, a
    dictionary at the end of `args` for `kwargs`; a program brings its own.
    """
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    if isinstance(model, ExportedProgram):
        if not args and not kwargs:
            if model.example_inputs is None:
                raise UserError("the program holds no example inputs: give args or kwargs")
            stored, named = model.example_inputs
            return tuple(stored), dict(named)
    elif not kwargs and args and isinstance(args[-1], dict):
        return args[:-1], args[-1]
    return args, dict(kwargs or {})


def captured_shapes(dynamic_shapes: Any) -> Any:
    """`dynamic_shapes` as torch.export takes them: a dimension that only has a name is dynamic."""
    return pytree.tree_map(
        lambda leaf: Dim.DYNAMIC if isinstance(leaf, str) else leaf, dynamic_shapes
    )


def shapes_of_axes(
    model: torch.nn.Module,
    example: Arguments,
    dynamic_axes: Axes,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> dict[str, Any]:
    """`dynamic_shapes` that say what `dynamic_axes` say.

    Inputs are found by `input_names`, which name the tensors in order, or by the names that they
    have without these. Axes of outputs follow from those of the inputs, as in torch.onnx. Raises
    UserError for a name of neither, and for an axis that a tensor does not have.
    """
    given = _by_parameter(model, example)
    leaves, structure = pytree.tree_flatten(given)
    names = _tensor_names(given, input_names)
    known = {name for name in names if name}
    for name in dynamic_axes:
        if name not in known and name not in output_names:
            raise UserError(
                f"dynamic_axes: there is no input or output {name!r}; the inputs are "
                f"{', '.join(sorted(known))}, and outputs count that output_names lists"
            )
    shapes = [
        _dimensions(name, leaf, dynamic_axes[name]) if name in dynamic_axes else None
        for name, leaf in zip(names, leaves, strict=True)
    ]
    made: dict[str, Any] = pytree.tree_unflatten(shapes, structure)
    return made


def _by_parameter(model: torch.nn.Module, example: Arguments) -> dict[str, Any]:
    """The example's arguments by parameter of forward, in the order of the model's inputs."""
    args, kwargs = example
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(args) > len(names):
        raise UserError(
            "dynamic_axes can't tell the arguments behind *args apart: give dynamic_shapes"
        )
    return dict(zip(names, args, strict=False)) | kwargs


def _tensor_names(given: Mapping[str, Any], input_names: Sequence[str]) -> list[str]:
    """What each leaf's input is called; "" for one that is no tensor."""
    names: list[str] = []
    left = iter(input_names)
    for path, leaf in pytree.tree_leaves_with_path(given):
        if not isinstance(leaf, torch.Tensor):
            names.append("")
            continue
        steps = [str(getattr(s, "key", getattr(s, "idx", getattr(s, "name", "")))) for s in path]
        names.append(next(left, "_".join(steps)))
    return names


def _dimensions(
    name: str, tensor: torch.Tensor, axes: Mapping[int, str] | Sequence[int]
) -> dict[int, Any]:
    named = axes if isinstance(axes, Mapping) else dict.fromkeys(axes, Dim.DYNAMIC)
    found: dict[int, Any] = {}
    for axis, dim in named.items():
        if not isinstance(axis, int) or not -tensor.ndim <= axis < tensor.ndim:
            raise UserError(
                f"dynamic_axes: {name} has the axes 0 to {tensor.ndim - 1}, and {axis!r} is none"
            )
        found[axis % tensor.ndim] = dim
    return found
