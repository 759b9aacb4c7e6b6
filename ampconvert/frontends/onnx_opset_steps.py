"""How a node is rewritten where an operator's meaning or signature changed between two opsets.

`REWRITES[(op, version)]` changes a node of opset `version - 1`, in place, into one that gives the
same answers in opset `version`. Steps that are not named here changed no more than type lists,
texts and optional additions. That was read from every schema of opset 6 to `STUDIED`, with the
texts compared word by word, and tests/test_onnx_opset.py holds it against the installed schemas.

The converters of onnx and onnxscript are not called: onnx 1.23 raises Hardmax 12 to 13,
GroupNormalization 20 to 21, and Resize and Upsample to 11 without the change that keeps their
answers, and makes invalid models of Clip and Pad in float16; onnxscript 0.7 leaves a
GroupNormalization of unknown shape as it was and logs it. Both convert whole models, so that lazy
weights, names and metadata of untouched nodes would have to be taken out and put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

STUDIED = 28


class RefusedError(Exception):
    """A node can't be raised; the message says why."""


_CONSTANT_OF_INTEGERS = 9  # opset


@dataclass
class Site:
    """A node that is rewritten in place: it goes on making its outputs, under their names."""

    node: ir.Node
    target: int  # the opset that the model will have in the end
    taken: set[str]  # names of all nodes and values of the model

    @property
    def name(self) -> str:
        """The node's name, or its first result's where it has none."""
        return self.node.name or next((str(v.name) for v in self.node.outputs if v.name), "")

    def pop(self, name: str, default: Any = None) -> Any:
        """The value of an attribute, which the node then no longer has."""
        attribute = self.node.attributes.pop(name, None)
        return default if attribute is None else attribute.value

    def set(self, **attributes: Any) -> None:
        """Give the node these attributes."""
        for attribute in ir.convenience.convert_attributes(attributes):
            self.node.attributes.add(attribute)

    def set_inputs(self, inputs: Sequence[ir.Value | None]) -> None:
        """Give the node these operands instead of the ones it has."""
        self.node.resize_inputs(len(inputs))
        for i, value in enumerate(inputs):
            self.node.replace_input_with(i, value)

    def before(self, op: str, inputs: Sequence[ir.Value | None], *attributes: ir.Attr) -> ir.Value:
        """The output of a new node, which stands before this one and belongs to the same place.

        It must mean the same in every opset from the step's to the target's.
        """
        node, graph = self.node, self.node.graph
        assert graph is not None
        name = self.fresh(f"{self.name}/{op}")
        output = ir.Value(name=self.fresh(f"{name}_output"))
        made = ir.Node("", op, inputs, attributes, outputs=[output], name=name)
        made.metadata_props.update(node.metadata_props)
        graph.insert_before(node, made)
        return output

    def constant(self, array: np.ndarray[Any, Any]) -> ir.Value:
        """A Constant before this node; a weight of its graph where Constant takes no integers."""
        if self.target >= _CONSTANT_OF_INTEGERS:
            return self.before("Constant", [], ir.AttrTensor("value", ir.Tensor(array)))
        graph = self.node.graph
        assert isinstance(graph, ir.Graph)
        name = self.fresh(f"{self.name}/constant")
        value = ir.Value(name=name, const_value=ir.Tensor(array, name=name))
        graph.register_initializer(value)
        return value

    def fresh(self, name: str) -> str:
        """`name`, or with the first number that makes it new."""
        number, made = 1, name
        while made in self.taken:
            made = f"{name}_{number}"
            number += 1
        self.taken.add(made)
        return made


@dataclass(frozen=True)
class Moved:
    """An attribute that became an operand."""

    attribute: str
    position: int
    dtype: type[np.generic] | None = np.int64  # None: the type of operand 0
    rank: int = 1
    default: float | None = None  # written out where the operand's own default is another


def _moves(*rows: Moved) -> Callable[[Site], None]:
    def rewrite(site: Site) -> None:
        inputs = list(site.node.inputs)
        for row in rows:
            value = site.pop(row.attribute, row.default)
            if value is None:
                continue
            inputs += [None] * (row.position + 1 - len(inputs))
            inputs[row.position] = site.constant(_array(site, row, value))
        site.set_inputs(inputs)

    return rewrite


def _array(site: Site, row: Moved, value: Any) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):  # Clip's largest float32 bound is inf in float16: no bound
        array = np.asarray(value, row.dtype or _dtype(site.node.inputs[0]).numpy())
    return array.reshape((-1,) if row.rank else ())


def _drops(attribute: str, *allowed: Any, reason: str) -> Callable[[Site], None]:
    """For an attribute that is gone, and meant nothing else than `allowed` in what stays."""

    def rewrite(site: Site) -> None:
        if site.pop(attribute, allowed[0]) not in allowed:
            raise RefusedError(reason)

    return rewrite


def _sets(**attributes: Any) -> Callable[[Site], None]:
    """For a new attribute whose default is not what the operator did before."""
    return lambda site: site.set(**attributes)


def _becomes(op: str) -> Callable[[Site], None]:
    def rewrite(site: Site) -> None:
        site.node.op_type = op

    return rewrite


def _refuses(reason: str) -> Callable[[Site], None]:
    def rewrite(site: Site) -> None:
        raise RefusedError(reason)

    return rewrite


def _aligned(site: Site) -> None:
    """The second operand was laid against the first from dimension `axis` on: append dimensions."""
    axis, _ = site.pop("axis"), site.pop("broadcast")
    if axis is not None:
        _append_dimensions(site, axis)


def _channelwise(site: Site) -> None:
    """PRelu's slopes, one a channel, lay along dimension 1."""
    slope = site.node.inputs[1]
    if slope is not None and slope.shape is not None and 1 in slope.shape.dims[:1]:
        return  # one slope for all
    _append_dimensions(site, 1)


def _append_dimensions(site: Site, axis: int) -> None:
    left, right = site.node.inputs
    if left is None or right is None or left.shape is None or right.shape is None:
        raise RefusedError("the ranks of its operands are not known")
    rank = len(left.shape)
    missing = rank - len(right.shape) - (axis + rank if axis < 0 else axis)
    if missing <= 0 or not len(right.shape):
        return
    shape = np.array([0] * len(right.shape) + [1] * missing, np.int64)  # 0: as it is
    aligned = site.before("Reshape", [right, site.constant(shape)])
    site.node.replace_input_with(1, aligned)


def _upsampled(site: Site) -> None:
    height, width = site.pop("height_scale"), site.pop("width_scale")
    site.set(scales=[1.0, 1.0, height, width])
    if site.node.attributes.get_string("mode", "nearest") == "bilinear":
        site.set(mode="linear")


def _maskless(site: Site) -> None:
    """Dropout's mask when nothing is dropped: undefined up to opset 11, all true from 12 on."""
    masks = site.node.outputs[1:]
    if any(_is_read(mask) for mask in masks):
        raise RefusedError("its mask is read, which has no defined value before opset 12")
    site.node.resize_outputs(1)


def _ratio_given(site: Site) -> None:
    _maskless(site)
    _moves(Moved("ratio", 1, np.float32, rank=0))(site)


def _statistics_free(site: Site) -> None:
    if any(output.name for output in site.node.outputs[1:]):
        raise RefusedError("it gives batch statistics: it is a node of a training graph")
    site.node.resize_outputs(1)


def _padded(site: Site) -> None:
    if site.node.attributes.get_string("mode", "constant") != "constant":
        site.pop("value")
    _moves(Moved("pads", 1), Moved("value", 2, None, rank=0))(site)


def _resized(site: Site) -> None:
    """Before opset 11 coordinates were scaled without a shift by half a pixel, and "nearest" was
    the lower neighbour when growing and the upper one when shrinking.

    Source: ONNX Runtime's kernels for these opsets; the standard's text leaves it open.
    """
    data, scales = site.node.inputs
    site.set(coordinate_transformation_mode="asymmetric")
    if site.node.attributes.get_string("mode", "nearest") == "nearest":
        site.set(nearest_mode=_nearest(scales))
    region = None if site.target >= 13 else site.constant(np.zeros(0, np.float32))
    site.set_inputs([data, region, scales])


def _nearest(scales: ir.Value | None) -> str:
    tensor = None if scales is None else ir.convenience.get_const_tensor(scales)
    if tensor is None:
        raise RefusedError(
            'it computes its scales, and "nearest" rounded up or down by them in opset 10'
        )
    factors = tensor.numpy()
    if (factors < 1).any() and (factors > 1).any():
        raise RefusedError('it grows and shrinks at once, which "nearest" rounded differently')
    return "ceil" if (factors < 1).any() else "floor"


def _shifted(site: Site) -> None:
    """Opset 13 lost "tf_half_pixel_for_nn": floor(x) there is floor(x - 1/2 + 1/2) here."""
    node = site.node
    if node.attributes.get_string("coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return
    mode = node.attributes.get_string("mode", "nearest")
    rounds = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    if (mode, rounds) != ("nearest", "floor"):
        raise RefusedError('its mode "tf_half_pixel_for_nn" is gone in opset 13')
    site.set(coordinate_transformation_mode="half_pixel", nearest_mode="round_prefer_ceil")


def _flattened(site: Site) -> None:
    """Up to opset 12 Softmax normalised over all dimensions from `axis` on, later over one."""
    node, data = site.node, site.node.inputs[0]
    axis = site.pop("axis", 1)
    if axis == -1 or (data is not None and data.shape is not None and axis == len(data.shape) - 1):
        site.set(axis=axis)
        return
    flat = site.before("Flatten", [data], ir.AttrInt64("axis", axis))
    result = site.before(node.op_type, [flat], ir.AttrInt64("axis", -1))
    inner = result.producer()
    assert inner is not None
    # The node at hand makes the outputs, so it becomes the last; its name stays with the operator.
    last = site.fresh(f"{site.name}/Reshape")
    inner.name, inner.doc_string, node.name = node.name, node.doc_string, last
    node.op_type = "Reshape"
    site.set_inputs([result, site.before("Shape", [data])])


def _repeated(site: Site) -> None:
    """Up to opset 20 GroupNormalization had one scale and bias a group, later one a channel."""
    data, *parameters = site.node.inputs
    groups = site.node.attributes.get_int("num_groups")
    channels = site.before("Shape", [data], ir.AttrInt64("start", 1), ir.AttrInt64("end", 2))
    each = site.before("Div", [channels, site.constant(np.array([groups]))])
    one = site.constant(np.array([1]))
    repeats = site.before("Concat", [one, each], ir.AttrInt64("axis", 0))
    column, flat = site.constant(np.array([-1, 1])), site.constant(np.array([-1]))
    wide = [
        site.before("Expand", [site.before("Reshape", [p, column]), repeats]) for p in parameters
    ]
    site.set_inputs([data, *(site.before("Reshape", [w, flat]) for w in wide)])
    site.set(stash_type=int(_dtype(data)))  # it computed in the type of its data


def _grid_sampled(site: Site) -> None:
    mode = site.node.attributes.get_string("mode", "bilinear")
    site.set(mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _counted(site: Site) -> None:
    """From opset 18 on Split without lengths has to say into how many parts."""
    if len(site.node.inputs) < 2 or site.node.inputs[1] is None:
        site.set(num_outputs=len(site.node.outputs))


def _floating(site: Site) -> None:
    if not _dtype(site.node.inputs[0]).is_floating_point():
        raise RefusedError("it takes floating-point numbers only from then on")


def _dtype(value: ir.Value | None) -> ir.DataType:
    if value is None or value.dtype is None:
        raise RefusedError("the element type of its first operand is not known")
    return value.dtype


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


_TRAINS = "it asks for training, which later opsets say by other means"
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
)
_AXES = _moves(Moved("axes", 1))

REWRITES: dict[tuple[str, int], Callable[[Site], None]] = {
    **{(op, 7): _aligned for op in ("Add", "Div", "Mul", "Pow", "Sub")},
    **{(op, 7): _aligned for op in ("And", "Equal", "Greater", "Less", "Or", "Xor")},
    **{(op, 7): _drops("output_sequence", 0, 1, reason="") for op in ("GRU", "LSTM", "RNN")},
    ("Gemm", 7): _drops("broadcast", 0, 1, reason=""),
    ("BatchNormalization", 7): _drops("is_test", 1, reason=_TRAINS),
    ("Dropout", 7): _drops("is_test", 1, reason=_TRAINS),
    ("PRelu", 7): _channelwise,
    ("Upsample", 7): _upsampled,
    ("BatchNormalization", 9): _drops(
        "spatial", 1, reason="it normalises each position of its own (spatial=0), which is gone"
    ),
    ("Scan", 9): _refuses("Scan of opset 8 has a batch dimension, which is gone"),
    ("Upsample", 9): _moves(Moved("scales", 1, np.float32)),
    ("Dropout", 10): _maskless,
    ("Slice", 10): _moves(Moved("starts", 1), Moved("ends", 2), Moved("axes", 3)),
    ("TopK", 10): _moves(Moved("k", 1)),
    ("Upsample", 10): _becomes("Resize"),
    ("Clip", 11): _moves(Moved("min", 1, None, rank=0), Moved("max", 2, None, rank=0)),
    ("Pad", 11): _padded,
    ("Resize", 11): _resized,
    ("Scatter", 11): _becomes("ScatterElements"),
    ("Dropout", 12): _ratio_given,
    ("Erf", 13): _floating,
    ("Hardmax", 13): _flattened,
    ("LogSoftmax", 13): _flattened,
    ("ReduceSum", 13): _AXES,
    ("Resize", 13): _shifted,
    ("Softmax", 13): _flattened,
    ("Split", 13): _moves(Moved("split", 1)),
    ("Squeeze", 13): _AXES,
    ("Unsqueeze", 13): _AXES,
    ("BatchNormalization", 14): _statistics_free,
    ("RoiAlign", 16): _sets(coordinate_transformation_mode="output_half_pixel"),
    **{(op, 18): _AXES for op in _REDUCTIONS},
    ("Split", 18): _counted,
    ("DFT", 20): _moves(Moved("axis", 2, rank=0, default=1)),
    ("GridSample", 20): _grid_sampled,
    ("GroupNormalization", 21): _repeated,
    ("ReduceLogSum", 28): _floating,
    ("ReduceLogSumExp", 28): _floating,
}
