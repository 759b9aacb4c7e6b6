"""Trained models that only ship as ONNX, brought to PyTorch with onnx2torch.

onnx2torch reads weights from initializers alone and has no recurrent operators, so shapes are fixed
and constants folded first, and LSTM and GRU are added to its converters here. It also passes sizes
and axes as tensors, whose values torch.export can't know; those become fixed arguments.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .packages import package_folder

# Where ONNX keeps PyTorch's gates: LSTM i,f,g,o out of i,o,f,c; GRU r,z,n out of z,r,h.
GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
READS_VALUES = {
    "OnnxSlice", "OnnxSplit13", "OnnxReshape", "OnnxResize", "OnnxExpand", "OnnxSqueezeDynamicAxes",
}  # fmt: skip


def load(package: str, path: str, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The ONNX model at `path` inside `package` as a module, its inputs fixed to `shapes`."""
    import onnx
    import onnx2torch

    _add_recurrent_converters()
    model = onnx.load(package_folder(package) / path)
    module: nn.Module = onnx2torch.convert(_prepared(model, shapes), attach_onnx_mapping=False)
    _fix_arguments(module)
    return module.eval()


def _prepared(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """`model` at opset 13 or later with fixed shapes, constants and shape computations folded."""
    import onnx
    import onnxruntime

    for value in model.graph.input:
        if value.name in shapes:
            dims = value.type.tensor_type.shape
            dims.ClearField("dim")
            for size in shapes[value.name]:
                dims.dim.add().dim_value = size
    del model.graph.value_info[:]  # inferred for the shapes that were there before
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    if model.opset_import[0].version < 13:
        model = onnx.version_converter.convert_version(model, 13)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return onnx.load(options.optimized_model_filepath)


class SpaceToDepth(nn.Module):
    """ONNX's SpaceToDepth: block offsets come before the channels, unlike PixelUnshuffle's."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, c, h, w] to [n, block * block * c, h / block, w / block]."""
        n, c, h, w = x.shape
        x = x.view(n, c, h // self.block, self.block, w // self.block, self.block)
        return x.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)


class FixedArray(np.ndarray[Any, Any]):
    """An array with the tensor methods that onnx2torch reads sizes and axes by."""

    def detach(self) -> FixedArray:
        """Itself."""
        return self

    cpu = numpy = detach

    def nelement(self) -> int:
        """The number of elements."""
        return self.size


class Reshape(nn.Module):
    """ONNX's Reshape to a known shape, where 0 keeps the input's size."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` in that shape."""
        return x.reshape([size or x.shape[i] for i, size in enumerate(self.shape)])


class Squeeze(nn.Module):
    """ONNX's Squeeze of known axes."""

    def __init__(self, axes: list[int]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` without those axes."""
        return x.squeeze(tuple(self.axes))


class Fixed(nn.Module):
    """`module` with some of its arguments fixed to arrays, by position or by name."""

    def __init__(
        self, module: nn.Module, arrays: list[FixedArray | None], named: dict[str, FixedArray]
    ) -> None:
        super().__init__()
        self.module, self.arrays, self.named = module, arrays, named

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The module's result; `inputs` fill the places without a fixed array, in order."""
        rest = iter(inputs)
        values = (next(rest) if array is None else array for array in self.arrays)
        return self.module(*values, **named, **self.named)


OWN: dict[str, type[nn.Module]] = {"OnnxReshape": Reshape, "OnnxSqueezeDynamicAxes": Squeeze}


def _fix_arguments(module: Any) -> None:
    """Give modules that read sizes or axes from initializers those values as fixed arguments."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_module":
            continue
        inner = module.get_submodule(node.target)
        if type(inner).__name__ not in READS_VALUES:
            continue
        arrays = [_constant(module, a) for a in node.args]
        named = {
            k: array for k, a in node.kwargs.items() if (array := _constant(module, a)) is not None
        }
        own = OWN.get(type(inner).__name__)
        if own and len(arrays) > 1 and arrays[1] is not None:
            module.set_submodule(node.target, own(arrays[1].tolist()))
            node.args = node.args[:1]
        elif named or any(array is not None for array in arrays):
            module.set_submodule(node.target, Fixed(inner, arrays, named))
            node.args = tuple(a for a, f in zip(node.args, arrays, strict=True) if f is None)
            node.kwargs = {k: a for k, a in node.kwargs.items() if k not in named}
    graph.eliminate_dead_code()
    module.recompile()
    read = {node.target for node in graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        if owner == "initializers" and name not in read:
            del module.get_submodule(owner)._buffers[leaf]


def _constant(module: Any, node: Any) -> FixedArray | None:
    if getattr(node, "op", "") != "get_attr":
        return None
    owner, _, name = node.target.rpartition(".")
    found: FixedArray = getattr(module.get_submodule(owner), name).numpy().view(FixedArray)
    return found


class Recurrent(nn.Module):
    """ONNX's one-layer LSTM or GRU around PyTorch's.

    x [time, batch, in] to y [time, directions, batch, hidden].
    """

    def __init__(self, kind: str, tensors: list[torch.Tensor], hidden: int) -> None:
        super().__init__()
        weight, recurrence, bias = tensors
        self.directions, self.hidden = weight.shape[0], hidden
        build = nn.LSTM if kind == "LSTM" else nn.GRU
        self.cell = build(weight.shape[2], hidden, bidirectional=self.directions == 2)
        order = GATES[kind]
        with torch.no_grad():
            for d, end in enumerate(("", "_reverse")[: self.directions]):
                halves = bias[d].split(len(order) * hidden)  # type: ignore[no-untyped-call]
                for name, source in zip(
                    ("weight_ih", "weight_hh", "bias_ih", "bias_hh"),
                    (weight[d], recurrence[d], *halves),
                    strict=True,
                ):
                    gates = torch.split(source, hidden)
                    getattr(self.cell, f"{name}_l0{end}").copy_(
                        torch.cat([gates[g] for g in order])
                    )

    def forward(self, x: torch.Tensor, *state: torch.Tensor) -> Any:
        """y, then the last h, and for LSTM the last c, as ONNX orders them."""
        start: Any = None
        if state:
            start = state if isinstance(self.cell, nn.LSTM) else state[0]
        y, last = self.cell(x, start)
        y = y.view(x.shape[0], x.shape[1], self.directions, self.hidden).transpose(1, 2)
        return (y, *last) if isinstance(self.cell, nn.LSTM) else (y, last)


@cache
def _add_recurrent_converters() -> None:
    from onnx2torch.node_converters.registry import add_converter
    from onnx2torch.utils.common import OnnxMapping, OperationConverterResult

    def convert(node: Any, graph: Any) -> Any:
        names = list(node.input_values)
        attributes = node.attributes
        activations = attributes.get("activations")
        usual = (
            ["Sigmoid", "Tanh", "Tanh"] if node.operation_type == "LSTM" else ["Sigmoid", "Tanh"]
        )
        if activations and [a.title() for a in activations[: len(usual)]] != usual:
            raise NotImplementedError(f"{node.operation_type} with activations {activations}")
        if node.operation_type == "GRU" and not attributes.get("linear_before_reset", 0):
            raise NotImplementedError("GRU with linear_before_reset = 0 is not PyTorch's GRU")
        tensors = [graph.initializers[name].to_torch() for name in names[1:4]]
        module = Recurrent(node.operation_type, tensors, attributes["hidden_size"])
        states = tuple(name for name in names[5:7] if name)
        outputs = tuple(name for name in node.output_values if name)
        if outputs != tuple(node.output_values)[: len(outputs)]:
            raise NotImplementedError("a recurrent node whose first output is left out")
        return OperationConverterResult(
            torch_module=module,
            onnx_mapping=OnnxMapping(inputs=(names[0], *states), outputs=tuple(node.output_values)),
        )

    for version in (7, 14):
        add_converter(operation_type="LSTM", version=version)(convert)
        add_converter(operation_type="GRU", version=version)(convert)
    for version in (1, 13):
        add_converter(operation_type="SpaceToDepth", version=version)(_space_to_depth)


def _space_to_depth(node: Any, graph: Any) -> Any:
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    module = SpaceToDepth(node.attributes["blocksize"])
    return OperationConverterResult(module, onnx_mapping_from_node(node))
