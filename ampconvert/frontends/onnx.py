"""An ONNX model as a core Graph. Decides nothing.

What the format fixes goes along as facts: operands that no schema lets be `low`, operands that
share a type, operators without a schema, results whose type the model's interface fixes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.element_types import LOW_TYPES
from ampconvert.frontends.onnx_data import data_of, tensor_of
from ampconvert.frontends.onnx_load import numbers
from ampconvert.frontends.onnx_schema import Signature, hands_on, signature
from ampconvert.frontends.onnx_scopes import PHI, Layout, Step
from ampconvert.frontends.onnx_shapes import FILLED, complete
from ampconvert.frontends.stack_trace import source_line
from ampconvert.graph import Dim, Graph, Kind, Node, Value

_FLOAT = ir.DataType.FLOAT
_DTYPES = {t: t.name.lower() for t in ir.DataType} | {
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
}
_BITS = frozenset({"onnx::BitCast"})  # no schema tells that the type of the operand is all it means
_TRACE = "pkg.torch.onnx.stack_trace"
_SCOPES = "pkg.torch.onnx.name_scopes"


def read(model: ir.Model, low: Low, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """The Graph of `model`: bodies of control flow inline, one phi where values meet.

    Fills in, in place, the types and shapes that `model` leaves out. Functions must be inlined.
    `sizes` are shapes that were seen when it ran, by value name.
    """
    blanks = complete(model)
    reader = _Reader(model, low, sizes or {})
    names = reader.layout.values
    filled = {names[blank.value]: blank for blank in blanks if blank.value in names}
    model.graph.meta[FILLED] = {**model.graph.meta.get(FILLED, {}), **filled}
    return reader.graph()


class _Reader:
    """One pass over the layout of a model whose types are known."""

    def __init__(self, model: ir.Model, low: Low, sizes: Mapping[str, tuple[int, ...]]) -> None:
        self.model = model
        self.low = low
        self.sizes = sizes
        self.layout = Layout(model)
        self.interface = {*model.graph.inputs, *model.graph.outputs}

    def graph(self) -> Graph:
        layout, main = self.layout, self.model.graph
        inputs = [v for v in main.inputs if layout.values[v] not in layout.weights]
        outside = set(inputs)
        values = {}
        for value, name in layout.values.items():
            kind: Kind = "input" if value in outside else "computed"
            values[name] = self._value(value, name, kind)
        nodes = tuple(self._node(step) for step in layout.steps)
        graph = Graph(
            nodes,
            values,
            tuple(layout.values[v] for v in inputs),
            tuple(layout.values[v] for v in main.outputs),
            main.name or "",
            (*layout.ties, *self._sequences()),
        )
        graph.check()
        return graph

    def _value(self, value: ir.Value, name: str, kind: Kind) -> Value:
        held = self.layout.weights.get(name)
        const = None if held is None else data_of(held)
        shape: tuple[Dim, ...] | None = None
        if isinstance(value.type, ir.TensorType) and value.shape is not None:
            dims = value.shape.dims
            shape = tuple(d if isinstance(d, int) else d.value or "?" for d in dims)
        elif held is not None and const is not None:
            shape = tuple(tensor_of(held).shape.numpy())
        dtype = _DTYPES[value.dtype] if value.dtype is not None else ""
        if held is not None:
            kind = "weight"
        return Value(name, dtype, shape, kind, const, self.sizes.get(name), name)

    def _node(self, step: Step) -> Node:
        names = self.layout.values
        reads = [step.operand(i) for i in range(len(step.reads))]
        known = self._signature(step, reads)
        node = step.node
        meta = node.metadata_props
        return Node(
            name=step.name,
            op=step.op,
            inputs=tuple(None if v is None else names[v] for v in reads),
            outputs=tuple(names[v] for v in step.makes),
            operands=known.operands,
            attrs={} if step.op == PHI else _attributes(node),
            scope=_scope(node) or step.scope,
            where=source_line(meta[_TRACE]) if _TRACE in meta else "",
            bound=self._bound(step, known, reads),
            fixed_inputs=known.fixed_inputs,
            fixed_outputs=known.fixed_outputs,
            input_types=known.input_types,
            output_types=known.output_types,
        )

    def _signature(self, step: Step, given: list[ir.Value | None]) -> Signature:
        node, reads, makes = step.node, len(given), len(step.makes)
        version = self.model.opset_imports.get(node.domain, 1)
        fixed_in, fixed_out = tuple(range(reads)), tuple(range(makes))
        if step.op == PHI:
            if hands_on(node.domain, node.op_type, version, self.low):
                fixed_in, fixed_out = (), ()
            coupled = ("T",) * reads, ("T",) * makes
            return Signature(("input",) * reads, *coupled, fixed_in, fixed_out)
        found = signature(node.domain, node.op_type, version, reads, makes, self.low)
        if found is None or reads > len(node.inputs):
            return Signature(("",) * reads, ("",) * reads, ("",) * makes, fixed_in, fixed_out)
        if None in given:
            types = zip(found.input_types, given, strict=True)
            open_types = set(found.input_types) - {t for t, v in types if v is not None}
            made = zip(found.output_types, step.makes, strict=True)
            if any(t in open_types and v.dtype == _FLOAT for t, v in made):
                # The operand that would give the result its type is left out.
                return replace(found, fixed_inputs=fixed_in, fixed_outputs=fixed_out)
        return found

    def _bound(self, step: Step, known: Signature, reads: list[ir.Value | None]) -> str:
        """Why the node's float32 tensors have to stay; "" when some of them may be `low`."""
        given = [(v, i in known.fixed_inputs) for i, v in enumerate(reads) if v is not None]
        made = [(v, i in known.fixed_outputs) for i, v in enumerate(step.makes)]
        floats = [(v, fixed) for v, fixed in (*given, *made) if v.dtype == _FLOAT]
        if not floats:
            return ""
        op, node = step.node.op_type, step.node
        if all(fixed for _, fixed in floats):
            if not any(known.operands) and node.domain not in ("", "ai.onnx"):
                return f"No schema of {node.domain}::{op} is known: its types are left alone."
            if len(step.reads) > len(node.inputs):
                return f"What the body of {op} reads from outside keeps its type."
            version = self.model.opset_imports.get(node.domain, 1)
            return f"ONNX opset {version} does not let {op} hold {self.low}."
        if step.op in _BITS:
            return f"{op} reads the bits of its operand."
        if any(v.dtype in LOW_TYPES for v, _ in (*given, *made)) and step.op != PHI:
            return "The model itself casts here between float32 and a 16-bit type."
        if any(v in self.interface and not isinstance(v.type, ir.TensorType) for v, _ in floats):
            return "It makes or reads a sequence that is an input or output of the model."
        return ""

    def _sequences(self) -> list[tuple[str, ...]]:
        """Ties of all that make or read one sequence or optional of floats."""
        users: dict[ir.Value, list[str]] = defaultdict(list)
        for step in self.layout.steps:
            reads = (step.operand(i) for i in range(len(step.reads)))
            for value in {v for v in (*reads, *step.makes) if v is not None}:
                if value.dtype == _FLOAT and not isinstance(value.type, ir.TensorType):
                    users[value].append(step.name)
        return [tuple(names) for names in users.values() if len(names) > 1]


_PLAIN = {
    ir.AttributeType.INT,
    ir.AttributeType.FLOAT,
    ir.AttributeType.INTS,
    ir.AttributeType.FLOATS,
    ir.AttributeType.STRING,
}


def _attributes(node: ir.Node) -> dict[str, Any]:
    """The arguments that are no tensors and no bodies; the number in a tensor of one element."""
    found: dict[str, Any] = {}
    for name, attr in node.attributes.items():
        if attr.type in _PLAIN:
            found[name] = list(attr.value) if isinstance(attr.value, tuple) else attr.value
        elif attr.type == ir.AttributeType.TENSOR and _is_number(attr.as_tensor()):
            found[name] = float(numbers(attr.as_tensor()).reshape(()).astype(np.float64))
    return found


def _is_number(tensor: ir.TensorProtocol) -> bool:
    return tensor.size == 1 and tensor.dtype.is_floating_point()


def _scope(node: ir.Node) -> str:
    """The module path, as torch.onnx writes it: in metadata, or in the node's name."""
    given = node.metadata_props.get(_SCOPES)
    if given:
        parts = given.strip("[]").split(", ")
        return parts[-2].strip("'\"") if len(parts) > 1 else ""
    name = node.name or ""
    return ".".join(name.split("/")[1:-1]) if name.startswith("/") else ""
