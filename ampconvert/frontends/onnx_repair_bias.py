"""How far each layer's output is off in a low type, given float32's inputs, in an ONNX model.

Every layer is judged by itself: beside it stands a second one with its operands and its result
rounded by pairs of casts, on the inputs that float32 gave it. The model sums up the differences
itself, so that only two numbers per channel leave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.element_types import bodies
from ampconvert.frontends.onnx_apply import TYPES
from ampconvert.frontends.onnx_scopes import Layout
from ampconvert.repairs.correct_bias import OutputError
from ampconvert.verify import segments

_FLOAT = ir.DataType.FLOAT


def output_errors(
    model: ir.Model, feeds: Sequence[Mapping[str, Any]], low: Low, channels: Mapping[str, int]
) -> dict[str, OutputError]:
    """The error of each layer in `channels`, a node's name with the axis of its output channels.

    Layers inside bodies of control flow are left out. Raises UserError where the model doesn't
    load or run.
    """
    twice = _Twice(model.clone(), low)
    for name, channel in channels.items():
        twice.judge(name, channel)
    sums: dict[tuple[int, str], dict[str, np.ndarray[Any, Any]]] = {}

    def see(batch: int, name: str, value: Any) -> None:
        node, what = twice.made[name]
        sums.setdefault((batch, node), {})[what] = np.asarray(value)

    segments.visit(twice.model, feeds, list(twice.made), see)
    found: dict[str, OutputError] = {}
    for (_, node), parts in sums.items():
        total, squares = (parts[w].astype(np.float64).reshape(-1) for w in ("total", "squares"))
        seen = OutputError(total, squares, int(parts["size"]) // max(total.size, 1))
        found[node] = found[node].merge(seen) if node in found else seen
    return found


class _Twice:
    """A model with a second, rounded layer beside each one that is judged.

    `made` has the values to fetch: which node each is about, and which sum it is.
    """

    def __init__(self, model: ir.Model, low: Low) -> None:
        self.model = model
        self.low = TYPES[low]
        self.opset = model.opset_imports.get("", 1)
        layout = Layout(model)
        self.steps = {step.name: step for step in layout.steps}
        self.taken = {v.name for v in layout.values} | {step.node.name for step in layout.steps}
        self.made: dict[str, tuple[str, str]] = {}

    def judge(self, name: str, channel: int) -> None:
        """Add the second layer for one node, and the sums of their difference."""
        node = self.steps[name].node
        result = node.outputs[0]
        if node.graph is not self.model.graph or result.shape is None or any(bodies(node)):
            return
        self.at = node
        operands = [v if v is None or v.dtype != _FLOAT else self._rounded(v) for v in node.inputs]
        twin = self._add(node.op_type, operands, list(node.attributes.values()), node.domain)
        off = self._add("Sub", [result, self._rounded(twin)])
        axes = [axis for axis in range(len(result.shape)) if axis != channel]
        self._fetch(name, "total", self._sum(off, axes))
        self._fetch(name, "squares", self._sum(self._add("Mul", [off, off]), axes))
        self._fetch(name, "size", self._add("Size", [result], dtype=ir.DataType.INT64))

    def _rounded(self, value: ir.Value) -> ir.Value:
        low = self._add("Cast", [value], [ir.AttrInt64("to", self.low)], dtype=self.low)
        return self._add("Cast", [low], [ir.AttrInt64("to", _FLOAT)])

    def _sum(self, value: ir.Value, axes: list[int]) -> ir.Value:
        keeps = ir.AttrInt64("keepdims", 0)
        if self.opset < 13:
            return self._add("ReduceSum", [value], [ir.AttrInt64s("axes", axes), keeps])
        name = self._fresh("axes")
        operand = ir.Value(
            name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(axes)]),
            const_value=ir.Tensor(np.array(axes, np.int64), name=name),
        )  # fmt: skip
        self.model.graph.register_initializer(operand)
        no_axes = ir.AttrInt64("noop_with_empty_axes", 1)
        return self._add("ReduceSum", [value, operand], [keeps, no_axes])

    def _add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Sequence[ir.Attr] = (),
        domain: str = "",
        dtype: ir.DataType = _FLOAT,
    ) -> ir.Value:
        """The result of a new node, behind those that were added before it."""
        name = self._fresh(f"{op.lower()}/twice")
        result = ir.Value(name=name, type=ir.TensorType(dtype))
        node = ir.Node(domain, op, inputs, attributes, outputs=[result], name=name)
        self.model.graph.insert_after(self.at, node)
        self.at = node
        return result

    def _fetch(self, node: str, what: str, value: ir.Value) -> None:
        assert value.name is not None
        self.made[value.name] = (node, what)

    def _fresh(self, name: str) -> str:
        unique, number = name, 2
        while unique in self.taken:
            unique, number = f"{name}#{number}", number + 1
        self.taken.add(unique)
        return unique
