"""The names of an ONNX file: each is text, each value is made once, and before it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import onnx
from onnx import FunctionProto, GraphProto, NodeProto

from ampconvert.errors import UserError
from ampconvert.frontends.onnx_tensors import bodies, called


@dataclass(frozen=True)
class _Scope:
    """The values of one graph."""

    made: set[str]  # all of them
    so_far: set[str] = field(default_factory=set)  # those that stand before the node looked at


_STRING, _MESSAGE = 9, 11  # FieldDescriptor.TYPE_STRING, TYPE_MESSAGE


def check_text(message: Any) -> None:
    """Raise UserError unless all text in a protobuf message is UTF-8.

    protobuf gives text that is not as bytes, without a word. The numbers of tensors are no text,
    and copied each time they are looked at.
    """
    if isinstance(message, onnx.TensorProto):
        _check_strings((message.name, message.doc_string))
        for entry in (*message.external_data, *message.metadata_props):
            check_text(entry)
        return
    for field_, value in message.ListFields():
        if field_.type == _STRING:
            _check_strings((value,) if isinstance(value, str | bytes) else value)
        elif field_.type == _MESSAGE:
            for inner in (value,) if hasattr(value, "ListFields") else value:
                check_text(inner)


def _check_strings(values: Iterable[str | bytes]) -> None:
    for value in values:
        if isinstance(value, bytes):
            raise UserError(
                f"the text {value[:60]!r} is not UTF-8: the file is damaged; export or download "
                "it again"
            )


def in_order(proto: onnx.ModelProto) -> bool:
    """Whether every node stands after those that it reads from, which ONNX asks for.

    Raises UserError for what no sorting mends: a name that is made twice or nowhere, and a cycle.
    """
    graph = proto.graph
    given = _distinct([v.name for v in graph.input], "input")
    given |= _distinct([t.name for t in graph.initializer], "weight")
    ordered = _graph_in_order(graph, given, (), "the graph")
    for function in proto.functions:
        given = _distinct(function.input, f"input of function {function.name!r}")
        ordered &= _graph_in_order(function, given, (), f"function {function.name!r}")
    return ordered


def _graph_in_order(
    graph: GraphProto | FunctionProto, given: set[str], outer: tuple[_Scope, ...], title: str
) -> bool:
    scope = _Scope(given | _made(graph.node, given), given)
    for name in _outputs(graph):
        if name not in scope.made:
            raise UserError(_no_output(name, title, outer))
    ordered = True
    for node in graph.node:
        for name in node.input:
            ordered &= not name or _readable(name, (*outer, scope), node)
        for body in bodies(node):
            inputs = _distinct([v.name for v in body.input], f"input of {body.name!r}")
            inputs |= _distinct([t.name for t in body.initializer], f"weight of {body.name!r}")
            body_title = f"the body {body.name!r} of {called(node)}"
            ordered &= _graph_in_order(body, inputs, (*outer, scope), body_title)
        scope.so_far.update(node.output)
    if not ordered:
        _refuse_cycle(graph.node)
    return ordered


def _distinct(names: Sequence[str], what: str) -> set[str]:
    found: set[str] = set()
    for name in names:
        if name in found:
            raise UserError(f"two are called {name!r} (each {what}): export the model again")
        found.add(name)
    return found


def _made(nodes: Sequence[NodeProto], given: set[str]) -> set[str]:
    """The values that the nodes make. Raises UserError when one is made twice."""
    makers: dict[str, NodeProto] = {}
    for node in nodes:
        for name in node.output:
            if not name:
                continue
            if name in makers or name in given:
                other = called(makers[name]) if name in makers else "an input or weight"
                raise UserError(
                    f"{called(node)} makes the value {name!r}, which {other} gives already: "
                    "export the model again"
                )
            makers[name] = node
    return set(makers)


def _outputs(graph: GraphProto | FunctionProto) -> list[str]:
    if isinstance(graph, FunctionProto):
        return list(graph.output)
    return [value.name for value in graph.output]


def _no_output(name: str, title: str, outer: tuple[_Scope, ...]) -> str:
    if any(name in scope.made for scope in outer):
        return (
            f"{title} gives back {name!r}, a value from outside it, which ONNX does not allow: "
            "put an Identity node between"
        )
    return f"the output {name!r} of {title} is made by no node: export the model again"


def _readable(name: str, scopes: tuple[_Scope, ...], node: NodeProto) -> bool:
    """Whether the value is there when the node reads it; it may be made later, but by someone."""
    for scope in reversed(scopes):
        if name in scope.so_far:
            return True
        if name in scope.made:
            return False
    raise UserError(
        f"{called(node)} reads {name!r}, which no node, input or weight gives: "
        "export the model again"
    )


def _refuse_cycle(nodes: Sequence[NodeProto]) -> None:
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    sorter = TopologicalSorter(
        {i: {makers[n] for n in _read(node) if n in makers} for i, node in enumerate(nodes)}
    )
    try:
        sorter.prepare()
    except CycleError as error:
        around = " -> ".join(called(nodes[i]) for i in reversed(error.args[1][:6]))
        raise UserError(f"the nodes run in a circle, each waiting for the next: {around}") from None


def _read(node: NodeProto) -> Iterator[str]:
    """What the node reads, and what its bodies do."""
    yield from node.input
    for body in bodies(node):
        for inner in body.node:
            yield from _read(inner)
