"""Runs ONNX models: what their values hold on given inputs, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.element_types import stores_low
from ampconvert.ranges.calibrate import Range, array_range
from ampconvert.verify import segments
from ampconvert.verify.emulate import upcast
from ampconvert.verify.segment_cuts import crosses, is_constant, known

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Any]  # an array per input; a list of arrays for a sequence


def calibrate(
    model: ir.Model,
    feeds: Sequence[Feed],
    tell: Callable[[int], None],
    *,
    low: Low = "float16",
) -> tuple[dict[str, Range], dict[str, tuple[int, ...]]]:
    """What every value of the top-level graph held on `feeds`: ranges, and sizes, by name.

    A Range is there for each float32 input and each float32 result of a node, over all batches; a
    shape, the first batch's, for other numeric tensors too. Weights and Constant nodes have
    neither. What is small is counted by `low`. The model runs in segments
    (ampconvert/verify/segments.py) and no tensor is kept. One that stores tensors in a low type
    runs in float32. `tell` hears how many batches are done.

    Raises:
        UserError: the model does not load or run, or a feed does not fit its inputs.
    """
    model = known(model)
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    nodes = (node for node in model.graph if not is_constant(node))
    values = [*inputs, *(value for node in nodes for value in node.outputs if value.name)]
    tensors = [v.name for v in values if v.name and crosses(v)]
    float32 = {v.name for v in values if v.dtype == ir.DataType.FLOAT and crosses(v)}
    given = {value.name for value in inputs}
    ranges: dict[str, Range] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def see(batch: int, name: str, value: Any) -> None:
        array = np.asarray(value)
        shapes.setdefault(name, array.shape)
        if name in float32:
            if name in given:
                array = _as_float32(array)
            ranges[name] = ranges.get(name, Range()).merge(array_range(array, low))

    segments.visit(in_float32(model), feeds, tensors, see, tell=tell)
    return ranges, shapes


def outputs(model: ir.Model, feeds: Sequence[Feed]) -> list[dict[str, Any]]:
    """The model's outputs by name, for each batch; the reference for parity.

    One that stores tensors in a low type runs in float32, and its low outputs are float32.

    Raises:
        UserError: as `calibrate`.
    """
    return segments.outputs(in_float32(known(model)), feeds)


def in_float32(model: ir.Model) -> ir.Model:
    """`model`, or its like in float32 with the same names, where it stores low tensors."""
    return upcast(model) if stores_low(model) else model


def _as_float32(array: Array) -> Array:
    """As the model takes it: beyond float32's range it is infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)
