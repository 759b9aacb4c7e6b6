"""What several repairs ask of values: who reads them, and how many dimensions they have."""

from __future__ import annotations

from ampconvert.graph import Graph, Value

# The same elements in another shape; no element is made, left out or brought in from elsewhere.
VIEWS = ("identity", "reshape", "squeeze", "unsqueeze", "transpose", "expand")


def read_once(graph: Graph, name: str) -> bool:
    """Whether one operand of one node reads the value, and the model does not return it."""
    return len(graph.readers[name]) == 1 and name not in graph.outputs


def same_rank(one: Value, other: Value) -> bool:
    """Whether both are known to have the same number of dimensions."""
    return one.shape is not None and other.shape is not None and len(one.shape) == len(other.shape)


def is_whole(number: float) -> bool:
    """Whether a number is an integer."""
    return float(number).is_integer()
