"""What there is to watch in a converted graph: low values, the casts at the borders of their
regions, and who makes and reads each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from ampconvert.frontends.fx import core_node
from ampconvert.frontends.fx_nodes import is_getitem, operands
from ampconvert.graph import Graph
from ampconvert.training import casts
from ampconvert.training.observation import Place, places

LOW = torch.float16  # bfloat16 has float32's range: nothing overflows or vanishes there
Kind = Literal["call", "view", "down", "up"]


@dataclass(frozen=True)
class Watched:
    """A call whose result is watched.

    `kind`: a "call" in `low`, a "view" of a low value, a cast "down" into a region or "up" out of
    one. `names` has the name of each result (by the number that a getitem takes, None where
    nothing takes one apart), `places` what has to run in FP32 for it to be float32, and `factor`
    the argument that holds its loss scale: a node, a tensor or None.
    """

    kind: Kind
    names: Mapping[int | None, str]
    places: Mapping[int | None, tuple[str, ...]]
    factor: Any
    border: bool = False  # read only by casts up, which see the whole gradient in FP32

    def named(self, number: int) -> tuple[str, tuple[str, ...]]:
        """Name and places of a call's result by its number; "" where nothing in `low` reads it."""
        key = None if None in self.names else number
        return self.names.get(key, ""), self.places.get(key, ())


class Layout:
    """The watched calls of a graph, with the source lines of their places."""

    def __init__(self, module: fx.GraphModule, known: Mapping[str, Place] | None = None) -> None:
        self.places = places_of(module) if known is None else known
        self.low = {
            node: self.places[name].name
            for node in module.graph.nodes
            if (name := planned(node)) in self.places and _makes_low(node)
        }
        self._factors = _factors(module.graph)
        self.watched = dict(self._watched(module.graph))
        self.factors = {w.factor for w in self.watched.values() if isinstance(w.factor, fx.Node)}

    def where(self) -> dict[str, str]:
        """Source lines of places that run in `low`, by name."""
        names = set(self.low.values())
        return {p.name: p.where for p in self.places.values() if p.name in names and p.where}

    def _watched(self, graph: fx.Graph) -> Iterator[tuple[fx.Node, Watched]]:
        for node in graph.nodes:
            if node.op != "call_function" or is_getitem(node):
                continue
            if is_cast(node):
                found = self._cast(node)
                if found is not None:
                    yield node, found
            elif node in self.low:
                yield node, self._call(node)

    def _call(self, node: fx.Node) -> Watched:
        name = self.low[node]
        moved = tuple(dict.fromkeys((name, *self._readers(node))))
        kind: Kind = "view" if is_view(node) else "call"
        users = list(node.users)
        border = bool(users) and all(is_cast(u) and not _makes_low(u) for u in users)
        return Watched(kind, {None: name}, {None: moved}, self._factors.get(node), border)

    def _cast(self, node: fx.Node) -> Watched | None:
        if not _makes_low(node):
            maker = _maker(cast_operands(node)[0])
            if maker not in self.low:
                return None
            name = self.low[maker]
            moved = tuple(dict.fromkeys((name, *self._readers(maker))))
            return Watched("up", {None: name}, {None: moved}, self._factors.get(node))
        names: dict[int | None, str] = {}
        moved_by: dict[int | None, tuple[str, ...]] = {}
        for number, held in _held(node).items():
            readers = self._readers(held)
            if readers:
                names[number], moved_by[number] = self._operand_name(held), tuple(readers)
        return Watched("down", names, moved_by, self._factors.get(node)) if names else None

    def _readers(self, node: fx.Node) -> list[str]:
        """The places that read a low value in `low`, through views of it too."""
        found: list[str] = []
        for user in node.users:
            if user in self.low:
                found.append(self.low[user])
            if (user in self.low and is_view(user)) or is_getitem(user):
                found += self._readers(user)
        return list(dict.fromkeys(found))

    def _operand_name(self, held: fx.Node) -> str:
        """What to call a value that a cast made: the first place that reads it, and the operand."""
        reader = next(user for user in held.users if user in self.low)
        operand = next(o.name for o in operands(reader) if o.node is held)
        return f"{self.low[reader]}:{operand}"


def planned(node: fx.Node) -> str:
    """The name of a call in the core graph; "" for what came in with the plan."""
    custom = node.meta.get("custom") or {}
    return str(custom.get("ampconvert", "")) if not is_cast(node) else ""


def is_cast(node: fx.Node) -> bool:
    """Whether a call came in with the plan, to change a type or the scale of a gradient."""
    return "ampconvert_cast" in (node.meta.get("custom") or {}) and not is_getitem(node)


def cast_operands(node: fx.Node) -> list[fx.Node]:
    """What a cast casts."""
    if node.target is casts.to_low:
        return [n for n in node.args[3:] if isinstance(n, fx.Node)]
    held: Any = node.args[1] if node.target is casts.to_full else node.args[0]
    return [held]


def is_view(node: fx.Node) -> bool:
    """Whether a call only shows its operand's elements in another order."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(r.alias_info is not None for r in schema.returns)


def places_of(module: fx.GraphModule) -> dict[str, Place]:
    """The places of a converted graph's calls by name: those of the graph it was made from."""
    found = [
        core_node(node)
        for node in module.graph.nodes
        if node.op == "call_function" and not is_getitem(node) and planned(node)
    ]
    return places(Graph(tuple(found), {}, (), ()))


def _factors(graph: fx.Graph) -> dict[fx.Node, Any]:
    """The loss scale that each low value's gradient carries: that of the casts around it.

    It comes with the operands, or, where these have none (constants), with the readers.
    """
    found: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        given = _given_factor(node)
        if given is not None:
            found[node] = given
        elif node.all_input_nodes:
            taken = [found[n] for n in node.all_input_nodes if n in found and _makes_low(n)]
            if taken and (_makes_low(node) or is_cast(node)):
                found[node] = taken[0]
    for node in reversed(graph.nodes):
        if node.op == "call_function" and node not in found and _makes_low(node):
            given = [_inner_factor(user, found) for user in node.users]
            found[node] = next((factor for factor in given if factor is not None), None)
    return found


def _given_factor(node: fx.Node) -> Any:
    """The scale of a cast's gradient on its low side; of one between two, on the readers' side."""
    if node.target is casts.to_low:
        return node.args[1]
    if node.target is casts.to_full:
        return node.args[0]
    if node.target is casts.rescale:
        return node.args[2]
    return None


def _inner_factor(node: fx.Node, found: Mapping[fx.Node, Any]) -> Any:
    return node.args[1] if node.target is casts.rescale else found.get(node)


def _held(node: fx.Node) -> dict[int | None, fx.Node]:
    """The nodes that hold a cast's results: itself, or by number."""
    if isinstance(node.meta.get("val"), list | tuple):
        return {int(u.args[1]): u for u in node.users if is_getitem(u)}  # type: ignore[arg-type]
    return {None: node}


def _maker(node: fx.Node) -> fx.Node:
    """The call that made what a node holds."""
    while is_getitem(node) and isinstance(source := node.args[0], fx.Node):
        node = source
    return node


def _makes_low(node: fx.Node) -> bool:
    made = node.meta.get("val")
    items = made if isinstance(made, list | tuple) else (made,)
    return any(isinstance(item, torch.Tensor) and item.dtype == LOW for item in items)
