"""A weight as two of the low type, W = W_hi + 2^-11 W_lo: two low products, added in float32.

Where a kernel hands on the float32 sums that it computes anyway, the rounding of the weight is all
that is lost, and a second product brings it back; the power of two keeps W_lo among the normal
numbers (Ootomo and Yokota, IJHPCA 36(4), 2022). Written with the low weights cast up and float32
products, which is the same numbers: a product of two low numbers is exact in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ampconvert import functions
from ampconvert.cost import Target
from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.functions import Call
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs.layers import Layer, layers
from ampconvert.repairs.repair import Declined, Edit, Insert, Names, Repair, SplitWeight, Wrap
from ampconvert.repairs.shapes import VIEWS

KIND = "split-weight"
_DATA = {"matmul": 0, "addmm": 1}  # where the data of each product stand


def examine(
    graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
) -> Iterator[Repair | Declined]:
    """Every product with a weight that the model returns, where `target` has float32 outputs.

    Elsewhere what reads the result would round it again, and most of the gain is gone.
    """
    if target is None or not target.float32_outputs:
        return
    names = Names(graph)
    for layer in layers(graph):
        call = functions.call(graph, layer.node)
        if call is None or call.function not in _DATA or layer.weight.name not in layer.node.inputs:
            continue
        if layer.node.op in target.float32_outputs and _is_returned(graph, call.result.name):
            found = _repair(layer, call, low, names)
            if found is not None:
                yield found


def _repair(layer: Layer, call: Call, low: Low, names: Names) -> Repair | None:
    node, weight = layer.node, layer.weight
    data = call.name(_DATA[call.function])
    seen = 0.0 if weight.const is None else float(abs(weight.const()).max(initial=0.0))
    if data is None or not 0 < seen < FLOAT_TYPES[low].overflow:
        return None
    power = round(-math.log2(FLOAT_TYPES[low].unit))
    high, rest = names.fresh(f"{node.name}_high"), names.fresh(f"{node.name}_rest")
    second, small = names.fresh(f"{node.name}_second"), names.fresh(f"{node.name}_small")
    inner = names.fresh(f"{node.name}_first")
    edits: tuple[Edit, ...] = (
        SplitWeight(weight.name, low, high, rest, power),
        Insert(second, "matmul", (data, rest), node.name),
        Insert(small, "mul", (second, 2.0**-power), node.name),
        Wrap(node.name, inner, "add", (inner, small)),
    )
    return Repair(
        KIND,
        (node.name,),
        {"power": power},
        f"The model returns its result in float32: with its weight as two of {low} nothing of the "
        "weight is lost, at the price of a second product.",
        edits,
        keeps=(high, rest, second, small, inner, node.name),
        where=node.where,
    )


def _is_returned(graph: Graph, name: str) -> bool:
    """Whether the caller gets the value, through changes of shape at most, and nobody else."""
    readers = graph.readers[name]
    if name in graph.outputs:
        return not readers
    if len(readers) != 1:
        return False
    reader = functions.call(graph, readers[0][0])
    return reader is not None and reader.function in VIEWS and _is_returned(
        graph, reader.result.name
    )  # fmt: skip
