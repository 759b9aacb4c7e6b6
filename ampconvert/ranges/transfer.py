"""Transfer functions: bounds of an operator's results from bounds of its operands.

Each is registered under the names of the vocabulary (`rules/functions/functions.toml`). One that
can say nothing returns None, and the result is unknown: never a guess. What is returned holds for
the float32 kernel; the pass (`ranges.prove`) adds what rounding to the low type can do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from ampconvert import functions
from ampconvert.dtypes import FloatType
from ampconvert.functions import Call
from ampconvert.graph import Graph, Value
from ampconvert.ranges.domain import Abstract, Dims, build, top
from ampconvert.ranges.rounding import stored

Results = Abstract | Sequence[Abstract | None] | None
Transfer = Callable[["State", Call], Results]

TABLE: dict[str, Transfer] = {}
# Functions that hand hidden elements of a mask on, or make them vanish, whatever else they read.
KNOWS_MASKS = frozenset(
    {"add", "where", "masked_fill", "identity", "reshape", "squeeze", "unsqueeze", "transpose"}
    | {"expand", "tile", "slice", "select", "split", "concat", "stack", "flip", "depth_to_space"}
    | {"gather", "pad", "tril", "phi", "amax", "max_pool", "topk", "softmax", "log_softmax"}
    | {"exp", "exp2", "sigmoid", "relu", "relu6", "logsumexp", "attention"}
)
MASK_SHARE = 0.5  # of `low`'s range: what a finite mask constant is replaced with


class State:
    """What is known while the pass walks the graph: an Abstract per value made so far."""

    def __init__(self, graph: Graph, low: FloatType, kept: Collection[str] = ()) -> None:
        self.graph = graph
        self.low = low
        self.kept = frozenset(kept)
        self.known: dict[str, Abstract] = {}
        self.inner: dict[str, float] = {}  # node: the largest number inside, where kernels store it

    def of(self, name: str | None) -> Abstract:
        """What is known of a value."""
        if name is None:
            return top(None)
        found = self.known.get(name)
        return found if found is not None else top(dims_of(self.graph.values[name]))

    def operand(self, call: Call, place: int) -> Abstract | None:
        """The operand at `place`: a value or a number; None where nothing stands."""
        found = call.operands[place] if place < len(call.operands) else None
        if found is None:
            return None
        if isinstance(found, str):
            return self.of(found)
        return self.number(found, exact=call.node.name in self.kept)

    def plain(self, call: Call, place: int) -> Abstract | None:
        """`operand` for a function that knows nothing of masks."""
        found = self.operand(call, place)
        return None if found is None else found.shown()

    def number(self, value: float, exact: bool = False) -> Abstract:
        """A number that stands in the model as an argument: it may be rounded like a weight, unless
        its node is kept in float32.
        """
        if math.isnan(value):
            return top(())
        floor = self.mask_floor(value)
        if floor is not None:
            return build((), 0.0, 0.0, hidden=floor)
        lo = hi = np.asarray(value, dtype=np.float64)
        if abs(value) < self.low.overflow and not exact:
            lo, hi = stored(lo, hi, self.low)
        return build((), lo, hi, whole=float(value).is_integer())

    def mask_floor(self, value: float) -> float | None:
        """For "minus infinity", how low it may lie in `low`; None for an ordinary number."""
        if value == -math.inf:
            return 0.0
        return -MASK_SHARE * self.low.max if value <= -self.low.overflow else None

    def rounded(self, name: str | None) -> bool:
        """Whether a plan may hold the value in `low`: it fits, and something is not kept."""
        if name is None or name not in self.graph.values:
            return True
        if not self.graph.values[name].is_float32 or self.of(name).largest >= self.low.overflow:
            return False
        return not self.stays_float32(name)

    def read_apart(self, name: str) -> bool:
        """Whether one reader may get the value rounded and another one not."""
        return self.rounded(name) and not self.read_by_kept(name)

    def read_by_kept(self, name: str) -> bool:
        """Whether every reader of the value is kept in float32."""
        readers = {node.name for node, _ in self.graph.readers[name]}
        return bool(readers) and readers <= self.kept

    def stays_float32(self, name: str) -> bool:
        """Whether the maker and every reader of the value are kept in float32."""
        maker = self.graph.producers.get(name)
        return maker is not None and maker.name in self.kept and self.read_by_kept(name)


def transfer(*names: str) -> Callable[[Transfer], Transfer]:
    """Register a transfer function under names of the vocabulary."""

    def register(function: Transfer) -> Transfer:
        for name in names:
            if name in TABLE:
                raise ValueError(f"{name} has two transfer functions")
            TABLE[name] = function
        return function

    return register


def dims_of(value: Value) -> Dims:
    """A value's shape as bounds use it."""
    return value.shape


def result_dims(call: Call, number: int = 0) -> Dims:
    """The shape of the result with that number."""
    return dims_of(call.graph.values[call.node.outputs[number]])


def whole_number(value: Any) -> int | None:
    """An argument as int; None for anything else."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def constants(state: State, call: Call, operand: str, place: int) -> list[int] | None:
    """The integers in a constant operand, by schema name or place; None when they are unknown."""
    places = call.node.operand(operand) or [place]
    name = call.node.inputs[places[0]] if places[0] < len(call.node.inputs) else None
    held = functions.array(state.graph, name)
    return None if held is None else [int(n) for n in np.asarray(held).reshape(-1)]
