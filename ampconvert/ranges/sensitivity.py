"""What rounding costs: the predicted output error per value and per operand, and per op from them.

An energy is a squared relative error: the sum over the model's floating-point outputs of
|changed - original|^2 / |original|^2, both summed over all batches (without the division where the
original is zero throughout). Energies of independent roundings add up; with one output, the root of
a sum is the relative L2 error that parity measures, with several it is no less than any of theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ampconvert.dtypes import Low
from ampconvert.graph import Graph


@dataclass(frozen=True)
class Prediction:
    """The energies of rounding to `low`, infinite where that overflows.

    `values`: one value, wherever it is read. `results`: what storing the result of a call adds when
    its operands are in `low` already; nothing for a view. `edges`: one value at one operand of one
    node only, by (node, input position); empty where that was not asked for.
    """

    low: Low
    values: Mapping[str, float]
    results: Mapping[str, float] = field(default_factory=dict)
    edges: Mapping[tuple[str, int], float] = field(default_factory=dict)


def lone_op_errors(
    graph: Graph, prediction: Prediction, *, keep: Mapping[str, Collection[int]] | None = None
) -> dict[str, float]:
    """The predicted energy of each node when it alone runs in `low`: of its operands, rounded where
    it reads them, and of storing its results.

    `keep` gives the input positions that stay float32, by node. Nodes without a float32 operand or
    result are left out. An operand without an edge of its own counts as its value.
    """
    found: dict[str, float] = {}
    for node in graph.nodes:
        kept = (keep or {}).get(node.name, ())
        reads = [
            (position, value.name)
            for position, value in enumerate(graph.input_values(node))
            if value is not None and value.is_float32 and position not in kept
        ]
        makes = [v.name for v in graph.output_values(node) if v.is_float32]
        if reads or makes:
            found[node.name] = sum(
                prediction.edges.get((node.name, position), prediction.values.get(name, 0.0))
                for position, name in reads
            ) + sum(prediction.results.get(name, 0.0) for name in makes)
    return found
