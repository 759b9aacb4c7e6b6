"""The examples inside the rules, run: ONNX text and lines of PyTorch become core Graphs.

Enough of a reader for rules to speak about them; the front ends have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.defs
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnx.shape_inference
import torch

from ampconvert.dtypes import Low
from ampconvert.graph import Graph, Node, Value
from ampconvert.rules import OpRule

OPSET = 24
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ONNX = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}


def model_of(text: str) -> onnx.ModelProto:
    """The model of one graph in ONNX text, shapes inferred."""
    header = f'<ir_version: 10, opset_import: ["" : {OPSET}, "com.microsoft" : 1]>\n'
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(header + text.strip()))


def parsed(rule: OpRule) -> onnx.ModelProto:
    """The rule's ONNX example."""
    return model_of(rule.example)


def graph_of(model: onnx.ModelProto) -> Graph:
    """The core Graph of an example: enough of a reader for rules to speak about it."""
    graph = model.graph
    values: dict[str, Value] = {}
    for info in [*graph.input, *graph.value_info, *graph.output]:
        kind = "input" if info in graph.input else "computed"
        tensor = info.type.tensor_type
        dtype = str(np.dtype(numpy_type(tensor.elem_type or 1)))
        shape = tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim
        )
        values[info.name] = Value(info.name, dtype, shape, kind)  # type: ignore[arg-type]
    for weight in graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        values[weight.name] = Value(
            weight.name, str(array.dtype), array.shape, "weight", const=lambda array=array: array
        )
    nodes = []
    for number, proto in enumerate(graph.node):
        for name in proto.output:
            values.setdefault(name, Value(name, "float32", None))
        domain = proto.domain or "onnx"
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        inputs, outputs = tuple(n or None for n in proto.input), tuple(proto.output)
        nodes.append(
            Node(
                f"n{number}", f"{domain}::{proto.op_type}", inputs, outputs, operands(proto), attrs
            )
        )
    inputs = tuple(i.name for i in graph.input)
    return Graph(tuple(nodes), values, inputs, tuple(o.name for o in graph.output))


def operands(proto: onnx.NodeProto) -> tuple[str, ...]:
    """The schema's name of each input; the last one repeats when it is variadic."""
    names = [i.name for i in onnx.defs.get_schema(proto.op_type, OPSET, proto.domain).inputs]
    return tuple(names[min(i, len(names) - 1)] for i in range(len(proto.input)))


def in_low(rule: OpRule, low: Low) -> onnx.ModelProto:
    """The example with every float32 type turned to `low`, but for what the rule keeps."""
    model = parsed(rule)
    kept = {
        name
        for proto in model.graph.node
        for name, operand in zip(proto.input, operands(proto), strict=True)
        if operand in rule.keep_inputs
    }
    for info in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        if info.name not in kept and info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            info.type.tensor_type.elem_type = ONNX[low]
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(weight)
            data_type = numpy_type(ONNX[low])
            weight.CopyFrom(onnx.numpy_helper.from_array(array.astype(data_type), weight.name))
    for proto in model.graph.node:
        for attribute in proto.attribute:
            if attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                attribute.i = ONNX[low]
            if attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.FLOAT:
                array = onnx.numpy_helper.to_array(attribute.t)
                data_type = numpy_type(ONNX[low])
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(array.astype(data_type)))
    return model


def numpy_type(elem_type: int) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))


@dataclass
class Trace:
    """Runs one line of `example_torch` and remembers the operators it called.

    The line sees `aten` and makers of data: R (awkward floats), P (positive floats), S (sorted
    floats), T (given floats), M (no data), I (integers below a bound), Z (zero indices), C (given
    integers). Floats are made in `dtype`.
    """

    dtype: torch.dtype = torch.float32
    values: dict[str, Value] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    alive: list[torch.Tensor] = field(default_factory=list)  # a tensor's name is its place here

    def run(self, line: str) -> Any:
        """The result of the line."""
        draw = torch.Generator().manual_seed(0)
        makers: dict[str, Callable[..., torch.Tensor]] = {
            "R": lambda *shape: nasty(*shape).to(self.dtype),
            "P": lambda *shape: (torch.rand(shape, generator=draw) + 0.5).to(self.dtype),
            "S": lambda n: torch.arange(float(n)).to(self.dtype),
            "T": lambda data: torch.tensor(data, dtype=torch.float64).to(self.dtype),
            "M": lambda *shape: torch.empty(shape, dtype=self.dtype, device="meta"),
            "I": lambda top, *shape: torch.randint(top, shape, generator=draw),
            "Z": lambda n: torch.zeros(n, dtype=torch.int64),
            "C": lambda data: torch.tensor(data),
        }
        return eval(line, {"torch": torch, "aten": _Aten(self), **makers})

    def call(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run `op` and add a node for it."""
        schema = op._schema
        given = dict(zip((a.name for a in schema.arguments), args, strict=False)) | kwargs
        inputs, names, attrs = [], [], {}
        for argument in schema.arguments:
            value = given.get(argument.name, argument.default_value)
            tensors = list(tensors_in(value))
            if tensors:
                inputs += [self.name_of(t) for t in tensors]
                names += [argument.name] * len(tensors)
            else:
                attrs[argument.name] = value
        result = op(*args, **kwargs)
        outputs = tuple(self.new(t, "computed") for t in tensors_in(result))
        namespace, _, name = schema.name.partition("::")
        self.nodes.append(
            Node(f"n{len(self.nodes)}", f"{namespace}::{name}", tuple(inputs), outputs,
                 tuple(names), attrs, schema.overload_name or "default")
        )  # fmt: skip
        return result

    def name_of(self, tensor: torch.Tensor) -> str:
        """The value's name; a tensor not seen yet is an input."""
        for place, known in enumerate(self.alive):
            if known is tensor:
                return f"v{place}"
        name = self.new(tensor, "input")
        self.inputs.append(name)
        return name

    def new(self, tensor: torch.Tensor, kind: str) -> str:
        """A new value for the tensor."""
        name = f"v{len(self.alive)}"
        self.alive.append(tensor)
        dtype = str(tensor.dtype).removeprefix("torch.")
        self.values[name] = Value(name, dtype, tuple(tensor.shape), kind)  # type: ignore[arg-type]
        return name

    def graph(self) -> Graph:
        """What was called, as a Graph."""
        graph = Graph(tuple(self.nodes), self.values, tuple(self.inputs), self.nodes[-1].outputs)
        graph.check()
        return graph


@dataclass
class _Aten:
    """`aten.add.Tensor(...)` and `aten.exp(...)`, recorded."""

    trace: Trace
    path: Any = torch.ops.aten

    def __getattr__(self, name: str) -> _Aten:
        return _Aten(self.trace, getattr(self.path, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        op = self.path if hasattr(self.path, "_schema") else self.path.default
        return self.trace.call(op, args, kwargs)


def nasty(*shape: int) -> torch.Tensor:
    """Floats over 13 decades: zero, subnormals, ties and numbers beyond float16 among them."""
    draw = torch.Generator().manual_seed(7)
    decades = torch.rand(shape, generator=draw) * 13 - 8
    data = torch.randn(shape, generator=draw) * 10**decades
    special = torch.tensor(
        [0.0, 3e-8, 1e-7, -5e-6, 65504.0, 65519.9, 65520.0, 1e30, -1e30, 2049.0, 1e-40]
    )
    flat = data.flatten()
    places = torch.randperm(len(flat), generator=draw)[: len(special)]
    flat[places] = special[: len(places)]
    return flat.reshape(shape)


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal element by element, NaN with NaN."""
    return (
        a.shape == b.shape
        and bool(torch.equal(torch.isnan(a), torch.isnan(b)))
        and bool(torch.equal(torch.nan_to_num(a, 0.0), torch.nan_to_num(b, 0.0)))
    )


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
