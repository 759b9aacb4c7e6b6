"""All repairs of a graph, one kind after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from ampconvert.cost import Target
from ampconvert.dtypes import Low
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs import (
    correct_bias,
    log_softmax,
    saturate_masks,
    scale_query,
    scale_squares,
    scale_weights,
    split_weight,
    two_pass_variance,
)
from ampconvert.repairs.correct_bias import OutputError
from ampconvert.repairs.repair import Bypass, Declined, Repair


class Examine(Protocol):
    """What a kind of repair is: every place it looks for, with a repair or why there is none."""

    def __call__(
        self, graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
    ) -> Iterator[Repair | Declined]:
        """The places, in execution order."""


# A node is repaired once: what changes a formula goes before what scales it, and what costs more
# than one operation goes last.
KINDS: dict[str, Examine] = {
    two_pass_variance.KIND: two_pass_variance.examine,
    log_softmax.KIND: log_softmax.examine,
    scale_query.KIND: scale_query.examine,
    scale_squares.KIND: scale_squares.examine,
    scale_weights.KIND: scale_weights.examine,
    saturate_masks.KIND: saturate_masks.examine,
    split_weight.KIND: split_weight.examine,
}


def find_all(
    graph: Graph,
    low: Low,
    ranges: Mapping[str, Range],
    target: Target | None = None,
    errors: Mapping[str, OutputError] | None = None,
) -> tuple[Repair, ...]:
    """The repairs that can be made together: kind by kind, each in execution order.

    `ranges` are what float32 values were seen to hold. With `errors`, what layers were measured to
    be off by, biases are corrected too; measure those on the model that is otherwise repaired.
    Where two repairs touch one node the first one stays; the other may be found again on the
    repaired model. A repaired model gets no second repair of the same kind and place.
    """
    kept: list[Repair] = []
    touched: set[str] = set()
    for found in _examined(graph, low, ranges, target, errors):
        if isinstance(found, Repair) and not touched & _touched(found):
            kept.append(found)
            touched |= _touched(found)
    return tuple(kept)


def declined_all(
    graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
) -> tuple[Declined, ...]:
    """The places that a kind looks for and that it can't repair, with the reasons."""
    found = _examined(graph, low, ranges, target, None)
    return tuple(one for one in found if isinstance(one, Declined))


def find(
    kind: str,
    graph: Graph,
    low: Low,
    ranges: Mapping[str, Range],
    target: Target | None = None,
) -> tuple[Repair, ...]:
    """The repairs of one kind, in execution order; KeyError where there is no such kind."""
    found = KINDS[kind](graph, low, ranges, target)
    return tuple(one for one in found if isinstance(one, Repair))


def _examined(
    graph: Graph,
    low: Low,
    ranges: Mapping[str, Range],
    target: Target | None,
    errors: Mapping[str, OutputError] | None,
) -> Iterator[Repair | Declined]:
    for examine in KINDS.values():
        yield from examine(graph, low, ranges, target)
    if errors:
        yield from correct_bias.examine_measured(graph, low, errors)


def _touched(repair: Repair) -> set[str]:
    """The nodes and weights that a repair changes or makes."""
    fields = ("node", "name", "inner", "weight")
    names = {getattr(edit, field, "") for edit in repair.edits for field in fields}
    read = {edit.value for edit in repair.edits if isinstance(edit, Bypass)}
    return {*names, *read, *repair.nodes[:1]} - {""}
