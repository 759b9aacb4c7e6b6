"""Masks that the plan can't clamp: reported, never rewritten.

A large negative number that a softmax turns into zero is a mask, and `classify` replaces or clamps
every one that only softmaxes read, however it gets there. What is left is read by something else
as well, or is no constant: there the number may matter, and a clamp before the low region could
change the float32 model's answer. So there is no sound repair beyond the plan's own, and this kind
only says where one was looked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ampconvert import functions
from ampconvert.cost import Target
from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs.repair import Declined, Repair
from ampconvert.repairs.shapes import VIEWS

KIND = "saturate-masks"
_CARRY = (*VIEWS, "add", "where", "masked_fill", "slice", "mul", "maximum", "minimum", "clamp")
_ABSORB = ("softmax",)


def examine(
    graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
) -> Iterator[Repair | Declined]:
    """Every value seen to hold numbers below `low`'s range, on its way to a softmax, that something
    else reads too. Never a Repair.
    """
    limits = FLOAT_TYPES[low]
    for node in graph.nodes:
        name = node.outputs[0] if node.outputs else ""
        seen = ranges.get(name)
        if seen is None or seen.minimum > -limits.overflow or seen.maximum >= limits.overflow:
            continue
        absorbed, others = _readers(graph, name)
        if absorbed and others:
            yield Declined(
                KIND,
                (node.name,),
                f"it holds {seen.minimum:.4g}, a mask for {absorbed[0]}, but {others[0]} reads it "
                "too, where the number itself may count: it stays float32",
                node.where,
            )


def _readers(graph: Graph, name: str) -> tuple[list[str], list[str]]:
    """The nodes at the end of all ways from a value: those that absorb masks, and others."""
    absorbed: list[str] = []
    others: list[str] = []
    stack, seen = [name], {name}
    while stack:
        value = stack.pop()
        if value in graph.outputs:
            others.append("the caller")
        for reader, _ in graph.readers[value]:
            call = functions.call(graph, reader)
            function = "" if call is None else call.function
            if function in _ABSORB:
                absorbed.append(reader.name)
            elif function in _CARRY:
                stack += [out for out in reader.outputs if out not in seen]
                seen.update(reader.outputs)
            elif any(v.is_float32 for v in graph.output_values(reader)):
                others.append(reader.name)
    return absorbed, others
