"""What a repair is: why a model is rewritten, and the edits that do it, in the words of the core.

An edit names nodes and values of the Graph and functions of the vocabulary (`functions`), so that
what is done is decided once, and a front end only spells it in its format. A new node's one result
has the node's name; a weight that is made takes the name of the node that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ampconvert.dtypes import Low
from ampconvert.graph import Graph


@dataclass(frozen=True)
class Constant:
    """A new float32 weight: its numbers in row-major order."""

    data: tuple[float, ...]
    shape: tuple[int, ...]


Operand = str | float | Constant | None


@dataclass(frozen=True)
class Insert:
    """A new node right before the node `before`: `name` = function(operands)."""

    name: str
    function: str
    operands: tuple[Operand, ...]
    before: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InsertAfter:
    """A new node right behind the node `after`: `name` = function(operands)."""

    name: str
    function: str
    operands: tuple[Operand, ...]
    after: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Become:
    """`node` computes its one result as function(operands) from now on, under its old name."""

    node: str
    function: str
    operands: tuple[Operand, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wrap:
    """What `node` computed is called `inner` now, and `node` is function(operands) of it: for all
    who read it nothing has changed.
    """

    node: str
    inner: str
    function: str
    operands: tuple[Operand, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Read:
    """`node` reads `value` at this position of its inputs."""

    node: str
    position: int
    value: str


@dataclass(frozen=True)
class Bypass:
    """Who read the result of `node` reads `value` instead."""

    node: str
    value: str


@dataclass(frozen=True)
class ScaleWeight:
    """The weight times a power of two: one for all of it, or one for each index along `axis`."""

    weight: str
    powers: tuple[int, ...]
    axis: int = 0


@dataclass(frozen=True)
class ShiftWeight:
    """The weight, a vector, plus these numbers."""

    weight: str
    shifts: tuple[float, ...]


@dataclass(frozen=True)
class SetBias:
    """`node`, a product without a bias, gets this one."""

    node: str
    bias: tuple[float, ...]


@dataclass(frozen=True)
class SplitWeight:
    """The weight is stored in `low` as two, and whoever reads it reads `high`, the first one cast
    back to float32. `rest`, cast back too, is what rounding took off it, times 2^power.
    """

    weight: str
    low: Low
    high: str
    rest: str
    power: int


Edit = (
    Insert
    | InsertAfter
    | Become
    | Wrap
    | Read
    | Bypass
    | ScaleWeight
    | ShiftWeight
    | SetBias
    | SplitWeight
)
EDITS: dict[str, type[Edit]] = {
    "insert": Insert,
    "insert-after": InsertAfter,
    "become": Become,
    "wrap": Wrap,
    "read": Read,
    "bypass": Bypass,
    "scale-weight": ScaleWeight,
    "shift-weight": ShiftWeight,
    "set-bias": SetBias,
    "split-weight": SplitWeight,
}
_WORDS = {kind: word for word, kind in EDITS.items()}


@dataclass(frozen=True)
class Repair:
    """One rewrite of the model.

    `nodes` are the nodes it is about, the first one the node that it is named after; `numbers` what
    it was decided by and with. `allows` names nodes of the repaired graph that may run in the low
    type from now on, `keeps` those that have to stay float32 for it. `where` is a source line.
    """

    kind: str
    nodes: tuple[str, ...]
    numbers: Mapping[str, float]
    reason: str
    edits: tuple[Edit, ...]
    allows: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    where: str = ""

    def describe(self) -> str:
        """One line for the report."""
        at = f" ({self.where})" if self.where else ""
        return f"{self.kind} at {self.nodes[0]}{at}: {self.reason}"


@dataclass(frozen=True)
class Declined:
    """A place that a repair of this kind looks for and does not fit, and why."""

    kind: str
    nodes: tuple[str, ...]
    reason: str
    where: str = ""

    def describe(self) -> str:
        """One line for the report."""
        at = f" ({self.where})" if self.where else ""
        return f"no {self.kind} at {self.nodes[0]}{at}: {self.reason}"


class Names:
    """Names for new nodes and values that nothing in the graph has."""

    def __init__(self, graph: Graph) -> None:
        self._taken = {*graph.values, *(node.name for node in graph.nodes)}

    def fresh(self, name: str) -> str:
        """`name`, or one like it, taken from now on."""
        unique, number = name, 2
        while unique in self._taken:
            unique, number = f"{name}_{number}", number + 1
        self._taken.add(unique)
        return unique


def to_dict(repair: Repair) -> dict[str, Any]:
    """The repair as JSON-ready data; `from_dict` reads it back to an equal one."""
    edits = [{"edit": _WORDS[type(edit)], **_plain(asdict(edit))} for edit in repair.edits]
    return {**_plain(asdict(repair)), "edits": edits}


def from_dict(data: Mapping[str, Any]) -> Repair:
    """A repair from `to_dict`'s data. Raises ValueError where it is none."""
    try:
        fields = {name: _frozen(value) for name, value in data.items() if name != "edits"}
        return Repair(**fields, edits=tuple(_edit(entry) for entry in data["edits"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the repair is damaged: {error!r}") from error


def _edit(entry: Mapping[str, Any]) -> Edit:
    fields = {name: _frozen(value) for name, value in entry.items() if name != "edit"}
    return EDITS[entry["edit"]](**fields)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _frozen(value: Any) -> Any:
    """Lists as tuples again, and a mapping with the fields of a Constant as one."""
    if isinstance(value, Mapping):
        items = {name: _frozen(item) for name, item in value.items()}
        return Constant(**items) if items.keys() == {"data", "shape"} else items
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
