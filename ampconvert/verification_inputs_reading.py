"""What an ONNX model does with each of its inputs, as far as that bounds the numbers they may hold.

A random index has to lie inside its table, a trip count has to be small and a divisor not zero, or
the FP32 model itself fails. This is read off the graph: from an input forward, through the
operators that pass numbers on, to the operators that ask something of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from ampconvert.verification_inputs_random import Reading, Size


def read_input(value: ir.Value) -> Reading:
    """What a model asks of its input `value`, in bodies of If, Loop and Scan too. Its functions
    must be inlined.
    """
    found = Reading()
    for node, position, offset, direct in _readers(value):
        if node.domain not in ("", "com.microsoft"):
            continue
        _numbers(node, position, offset, found)
        if direct:
            _dimensions(node, position, found)
    return found


# Operators that hand on the numbers of these inputs, in whatever shape. An index that goes through
# one of them is still an index.
_PASS = {
    "Cast": (0,), "CastLike": (0,), "Identity": (0,), "Unsqueeze": (0,), "Squeeze": (0,),
    "Reshape": (0,), "Flatten": (0,), "Transpose": (0,), "Expand": (0,), "Slice": (0,),
    "Split": (0,), "Tile": (0,), "Where": (1, 2), "Gather": (0,), "GatherElements": (0,),
    "GatherND": (0,), "Pad": (0,), "Clip": (0,), "Dropout": (0,), "ReduceMax": (0,),
    "ReduceMin": (0,), "SequenceAt": (0,), "ConcatFromSequence": (0,),
}  # fmt: skip
_PASS_ALL = frozenset({"Concat", "Max", "Min", "SequenceConstruct"})
# These keep the shape of their input too, so that a weight's dimensions are the input's.
_SAME_SHAPE = frozenset({"Cast", "CastLike", "Identity", "Clip", "Dropout"})
_SCALE = frozenset({"Add", "Sub", "Mul", "Div"})  # normalising an image, say

# (operator, input): the interval that is sure to be legal there, both ends included.
_INTERVALS: dict[tuple[str, int], tuple[float, float]] = {
    ("Loop", 0): (3, 3), ("Loop", 1): (1, 1),
    ("Range", 0): (0, 0), ("Range", 1): (4, 4), ("Range", 2): (1, 1),
    ("TopK", 1): (1, 1), ("Tile", 1): (1, 1), ("Expand", 1): (1, 1),
    ("ConstantOfShape", 0): (2, 2), ("OneHot", 1): (8, 8),
    ("Slice", 1): (0, 0), ("Slice", 2): (2**31 - 1, 2**31 - 1), ("Slice", 4): (1, 1),
    ("Resize", 2): (1, 1), ("Upsample", 1): (1, 1),
    ("SequenceAt", 1): (0, 0), ("SequenceErase", 1): (0, 0), ("SequenceInsert", 2): (0, 0),
    ("NonMaxSuppression", 2): (3, 3), ("NonMaxSuppression", 3): (0.5, 0.5),
    ("Dropout", 1): (0.5, 0.5), ("Dropout", 2): (0, 0),
    ("CumSum", 1): (0, 0), ("CumProd", 1): (0, 0), ("Trilu", 1): (0, 0),
    ("SplitToSequence", 1): (1, 1),
    ("BlackmanWindow", 0): (8, 8), ("HannWindow", 0): (8, 8), ("HammingWindow", 0): (8, 8),
    ("DFT", 1): (16, 16), ("STFT", 1): (4, 4), ("STFT", 3): (8, 8),
    ("MelWeightMatrix", 0): (8, 8), ("MelWeightMatrix", 1): (16, 16),
    ("MelWeightMatrix", 2): (8000, 8000), ("MelWeightMatrix", 3): (0, 0),
    ("MelWeightMatrix", 4): (4000, 4000),
    # Outside of these a float operator has no finite result.
    ("Log", 0): (0.1, 2), ("ReduceLogSum", 0): (0.1, 2), ("Sqrt", 0): (0.1, 2),
    ("Acosh", 0): (1.1, 3), ("Acos", 0): (-0.9, 0.9),
    ("Asin", 0): (-0.9, 0.9), ("Atanh", 0): (-0.9, 0.9), ("Bernoulli", 0): (0, 1),
    ("BatchNormalization", 4): (0.5, 2), ("QuantizeLinear", 1): (0.01, 0.1),
    ("DequantizeLinear", 1): (0.01, 0.1), ("QLinearMatMul", 1): (0.01, 0.1),
    ("QLinearMatMul", 4): (0.01, 0.1), ("QLinearMatMul", 6): (0.01, 0.1),
    ("QLinearConv", 1): (0.01, 0.1), ("QLinearConv", 4): (0.01, 0.1),
    ("QLinearConv", 6): (0.01, 0.1),
}  # fmt: skip
# An integer division by zero ends the process.
_DIVISORS = frozenset({("Div", 1), ("Mod", 1)})
_WORDS = {
    ("If", 0): "branch", ("Reshape", 1): "reshape", ("ReverseSequence", 1): "length",
    ("LSTM", 4): "length", ("GRU", 4): "length", ("RNN", 4): "length",
    ("Slice", 3): "axes", ("Unsqueeze", 1): "axes",
}  # fmt: skip
_COMPARE = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_LIMIT = 10_000  # readers looked at for one input: a bound on time, far beyond any model's need


def _readers(value: ir.Value) -> Iterator[tuple[ir.Node, int, int, bool]]:
    """(node, input, number added on the way, whether the shape is still the input's)."""
    pending, seen = [(value, 0, True)], {value}
    steps = 0
    while pending and steps < _LIMIT:
        held, offset, direct = pending.pop()
        for node, position in held.uses():
            steps += 1
            yield node, position, offset, direct
            for target, added, same in _onward(node, position):
                if target not in seen:
                    seen.add(target)
                    pending.append((target, offset + added, direct and same))


def _onward(node: ir.Node, position: int) -> Iterator[tuple[ir.Value, int, bool]]:
    """Where the numbers of input `position` go: (value, number added, whether the shape stays)."""
    op = node.op_type
    if op in ("Loop", "Scan"):
        body = node.attributes["body"].as_graph()
        skipped = len(body.inputs) - len(node.inputs) if op == "Scan" else 0
        if 0 <= position + skipped < len(body.inputs) and (op == "Scan" or position >= 2):
            yield body.inputs[position + skipped], 0, False
    elif op in _PASS_ALL or position in _PASS.get(op, ()):
        for output in node.outputs:
            yield output, 0, op in _SAME_SHAPE
    elif op in _SCALE and len(node.inputs) == 2:
        other = _constant(node.inputs[1 - position])
        if other is None or not other.size:
            return
        if other.dtype.kind == "f":
            yield node.outputs[0], 0, True
        elif op == "Add" or (op == "Sub" and position == 0):
            yield node.outputs[0], int(other.max()) if op == "Add" else -int(other.min()), False


def _numbers(node: ir.Node, position: int, offset: int, found: Reading) -> None:
    key = (node.op_type, position)
    rows = _rows(node, position)
    if key in {("Resize", 3), ("Split", 1)}:
        axes = _axes(node)
        dims = [_size(node.inputs[0], axis) for axis in axes]
        if axes and None not in dims:
            found.word = "sizes" if node.op_type == "Resize" else "parts"
            found.dims = tuple(dim for dim in dims if dim is not None)
    elif rows is not None:
        found.below.append(rows - offset if isinstance(rows, int) else rows)
    elif key in _WORDS:
        found.word = found.word or _WORDS[key]
    elif key in _INTERVALS and found.low is None:
        found.low, found.high = _INTERVALS[key]
    elif key in _DIVISORS and _is_integer(node.inputs[position]) and found.low is None:
        found.low, found.high = 1, 1
    elif node.op_type in _COMPARE and len(node.inputs) == 2:
        other = _constant(node.inputs[1 - position])
        if other is not None and other.size == 1 and other.dtype.kind in "iu":
            found.known.append(int(other.reshape(-1)[0]) - offset)


def _axes(node: ir.Node) -> Sequence[int]:
    """The dimensions that a Resize or Split is about."""
    if node.op_type == "Split":
        return [_integer(node, "axis", 0)]
    given = node.attributes.get("axes")
    if given is not None:
        return given.as_ints()
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return range(len(shape)) if shape is not None else ()


def _rows(node: ir.Node, position: int) -> Size | None:
    """How many rows the table has that input `position` indexes; None where it is no index."""
    op, inputs = node.op_type, node.inputs
    if (op, position) in {("Gather", 1), ("GatherElements", 1), ("ScatterElements", 1)}:
        return _size(inputs[0], _integer(node, "axis", 0))
    if (op, position) in {("GatherND", 1), ("ScatterND", 1)}:
        start = _integer(node, "batch_dims", 0)
        width = _size(inputs[1], -1)
        last = start + width if isinstance(width, int) else start + 1
        sizes = [_size(inputs[0], axis) for axis in range(start, last)]
        fixed = [s for s in sizes if isinstance(s, int)]
        return min(fixed) if fixed else next(iter(sizes), None)
    if (op, position) == ("OneHot", 0):
        depth = _constant(inputs[1])
        return int(depth.reshape(-1)[0]) if depth is not None and depth.size else 8
    if op in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss") and position == 1:
        return _size(inputs[0], 1)
    if op == "EmbedLayerNormalization" and position in (0, 1) and len(inputs) > 4:
        return _size(inputs[2 if position == 0 else 4], 0)
    return None


def _dimensions(node: ir.Node, position: int, found: Reading) -> None:
    """Dimensions of the input by the weight that the node applies to it."""
    if position != 0 or len(node.inputs) < 2 or node.inputs[1] is None:
        return
    shape = node.inputs[1].shape
    weight = [d if isinstance(d, int) else 0 for d in shape] if shape is not None else []
    op = node.op_type
    if op == "Conv" and len(weight) > 2:
        found.rank = len(weight)
        found.sizes[1] = weight[1] * _integer(node, "group", 1)
    elif op == "ConvTranspose" and len(weight) > 2:
        found.rank, found.sizes[1] = len(weight), weight[0]
    elif op == "Gemm" and len(weight) == 2:
        found.rank = 2
        axis = 0 if _integer(node, "transA", 0) else 1
        found.sizes[axis] = weight[1 if _integer(node, "transB", 0) else 0]
    elif op == "MatMul" and len(weight) == 2:
        found.sizes[-1] = weight[0]
    elif op in ("LSTM", "GRU", "RNN") and len(weight) == 3:
        found.rank, found.sizes[2] = 3, weight[2]
    elif op == "LayerNormalization" and len(weight) == 1:
        found.sizes[-1] = weight[0]
    elif op == "BatchNormalization" and len(weight) == 1:
        found.sizes[1] = weight[0]


def _size(value: ir.Value | None, axis: int) -> Size | None:
    """One dimension of a value: a number, a name, or None where it is not known."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    shape = tensor.shape if tensor is not None else value.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    dim = shape[axis]
    return dim if isinstance(dim, int) else dim.value


def _constant(value: ir.Value | None) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    """The numbers of a small constant."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None or tensor.size > 1024 or tensor.dtype == ir.DataType.STRING:
        return None
    return np.asarray(tensor.numpy())


def _integer(node: ir.Node, name: str, default: int) -> int:
    attr = node.attributes.get(name)
    return attr.as_int() if attr is not None and attr.type == ir.AttributeType.INT else default


def _is_integer(value: ir.Value | None) -> bool:
    return value is None or value.dtype is None or value.dtype.is_integer()
