"""log(softmax(x)) as log_softmax(x), and log(sigmoid(x)) as log_sigmoid(x).

The probability of what the model rules out is zero in 16 bits, and its logarithm minus infinity;
the one function subtracts a logarithm of a sum instead and never passes through the probability.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ampconvert import functions
from ampconvert.cost import Target
from ampconvert.dtypes import FLOAT32, FLOAT_TYPES, Low
from ampconvert.functions import Call
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs.repair import Become, Declined, Repair

KIND = "log-softmax"
_LOGARITHMS = {"softmax": "log_softmax", "sigmoid": "log_sigmoid"}


def examine(
    graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
) -> Iterator[Repair | Declined]:
    """Every logarithm of a softmax or sigmoid that float32 itself can hold.

    log_sigmoid stays float32 by its rule; log_softmax may run in `low`.
    """
    for node in graph.nodes:
        logarithm = functions.call(graph, node)
        if logarithm is None or logarithm.function != "log":
            continue
        made = functions.maker(graph, logarithm.name(0))
        if made is None or made.function not in _LOGARITHMS or not _is_plain(made, logarithm):
            continue
        seen = ranges.get(made.result.name)
        if seen is not None and seen.minimum < FLOAT32.tiny:
            yield Declined(
                KIND,
                (node.name, made.node.name),
                f"{made.function} was seen at {seen.minimum:.3g} in float32 itself: the repaired "
                "model would give another answer there",
                node.where,
            )
        else:
            yield _repair(logarithm, made, low)


def _repair(logarithm: Call, made: Call, low: Low) -> Repair:
    smallest = FLOAT_TYPES[low].smallest
    axis = {"axis": made.attr("dim", "axis")} if made.function == "softmax" else {}
    name = logarithm.node.name
    together = _LOGARITHMS[made.function]
    return Repair(
        KIND,
        (name, made.node.name),
        {"smallest": smallest},
        f"{made.function} gives 0 below {smallest:.3g} in {low}, and the logarithm minus infinity: "
        f"{together} never forms the probability.",
        (Become(name, together, (made.name(0),), axis),),
        allows=(name,) if made.function == "softmax" else (),
        where=logarithm.node.where,
    )


def _is_plain(made: Call, logarithm: Call) -> bool:
    """Whether both are float32 through and through: some softmaxes change the type as well."""
    data = made.value(0)
    return data is not None and data.is_float32 and logarithm.result.is_float32
