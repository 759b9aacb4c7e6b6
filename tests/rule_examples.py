"""The examples inside the rules, run: ONNX text and lines of PyTorch become core Graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.parser
import onnx.shape_inference
import onnx_ir as ir
import torch

from ampconvert.classify import classify
from ampconvert.cost import load_target
from ampconvert.dtypes import Low
from ampconvert.frontends.onnx import read
from ampconvert.frontends.onnx_apply import apply
from ampconvert.graph import Graph, Node, Value
from ampconvert.plan import make_plan
from ampconvert.rules import OpRule, RuleBook

OPSET = 24
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}
EVERYTHING = OpRule("anything", {"float16": "allow", "bfloat16": "allow"}, "test", nodes=("*",))


def model_of(text: str) -> onnx.ModelProto:
    """The model of one graph in ONNX text, shapes inferred."""
    header = f'<ir_version: 10, opset_import: ["" : {OPSET}, "com.microsoft" : 1]>\n'
    return onnx.shape_inference.infer_shapes(onnx.parser.parse_model(header + text.strip()))


def parsed(rule: OpRule) -> onnx.ModelProto:
    """The rule's ONNX example."""
    return model_of(rule.example)


def graph_of(model: onnx.ModelProto, low: Low = "float16") -> Graph:
    """The core Graph of an example."""
    return read(ir.from_proto(model), low)


def in_low(rule: OpRule, low: Low) -> onnx.ModelProto:
    """The example with every float32 tensor in `low` that may be, inputs and outputs too."""
    model = ir.from_proto(parsed(rule))
    graph = read(model, low)
    book = RuleBook([replace(rule, classes=dict.fromkeys(rule.classes, "allow")), EVERYTHING])
    verdicts = classify(graph, book, low)
    named = [*graph.inputs, *graph.outputs]
    tensors = {v.name for v in (*model.graph.inputs, *model.graph.outputs)
               if isinstance(v.type, ir.TensorType)}  # fmt: skip
    io = frozenset(n for n in named if graph.values[n].is_float32 and n in tensors)
    plan = make_plan(graph, verdicts, low, load_target(), io=io)
    return ir.to_proto(apply(model, plan))


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
