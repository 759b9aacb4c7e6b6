"""Which node of an ONNX model is which operator of a report, and what viewers call it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from ampconvert.element_types import bodies
from ampconvert.frontends.onnx_scopes import Layout, operator
from ampconvert.report.reading import entries, part

ORIGIN = "ampconvert.node"
_FX_NODE = "pkg.torch.onnx.fx_node"
# "%linear_1 : [num_users=1] = call_function[target=torch.ops.aten.linear.default](args = ...)"
_FX_TEXT = re.compile(r"%(\S+?)\s.*?\[target=torch\.ops\.(\w+)\.(\w+)")

Entry = Mapping[str, Any]


def described(model: ir.Model, data: Entry) -> dict[ir.Node, Entry]:
    """The entry of the report's "nodes" that each node of `model` belongs to.

    A converted model says it itself: a conversion notes the operator on each node. For the model
    that was converted names count, and what torch.onnx noted of the FX node. Several nodes may
    belong to one operator that the exporter wrote out.
    """
    known = {str(one["node"]): one for one in entries(data, "nodes")}
    came_as = part(data, "model").get("format")  # unknown of an old plan
    named = _by_name(model) if came_as != "torch" else {}
    found: dict[ir.Node, Entry] = {}
    for node in model.graph.all_nodes():
        names = [node.metadata_props.get(ORIGIN), named.get(node)]
        if came_as != "onnx":
            names.append(_fx_name(node, known))
        fitting = (known[name] for name in names if name in known)
        entry = next((one for one in fitting if came_as != "onnx" or _is_it(node, one)), None)
        if entry is not None:
            found[node] = entry
    return found


def result_makers(model: ir.Model, found: Mapping[ir.Node, Entry]) -> dict[str, ir.Node]:
    """The node that makes each operator's results, by operator: its last one, which has as many."""
    last: dict[str, ir.Node] = {}
    for node in model.graph.all_nodes():
        if node in found:
            last[str(found[node]["node"])] = node
    return {
        name: node
        for name, node in last.items()
        if len(node.outputs) >= len(found[node].get("outputs") or ())
    }


def explorer_ids(model: ir.Model) -> dict[ir.Node, tuple[str, str]]:
    """The graph and the node by which Model Explorer's ONNX adapter knows each node of `model`.

    The adapter makes names unique by onnx_ir's own pass, shows the branches of an If in the graph
    around it and the body of a Loop or Scan as a graph of its own, one level deep. What it does not
    show is absent.
    """
    clone = model.clone()
    NameFixPass()(clone)
    pairs = zip(model.graph.all_nodes(), clone.graph.all_nodes(), strict=True)
    names = {node: same.name or "" for node, same in pairs}
    main = model.graph.name if model.graph.name is not None else "<main>"
    return dict(_ids(model.graph, main, "", names, main))


def _ids(
    graph: ir.Graph, inside: str, before: str, names: Mapping[ir.Node, str], main: str
) -> Iterator[tuple[ir.Node, tuple[str, str]]]:
    for node in graph:
        own = f"{before}{names[node]}"
        yield node, (inside, own)
        for key, attribute in node.attributes.items():
            if attribute.type != ir.AttributeType.GRAPH:
                continue
            body = attribute.as_graph()
            if node.op_type == "If" and not node.domain:
                yield from _ids(body, inside, f"{own}/{key}/", names, main)
            elif inside == main:
                yield from _ids(body, f"{own}/{key}", "", names, main)


def _by_name(model: ir.Model) -> dict[ir.Node, str]:
    """The name that the ONNX front end gives each node; none where functions are not inlined."""
    if model.functions:
        return {}
    names: dict[ir.Node, list[str]] = defaultdict(list)
    for step in Layout(model).steps:
        names[step.node].append(step.name)
    # A control flow node stands for itself and for the values that meet there: those have no node.
    return {
        node: min(found, key=len) if any(True for _ in bodies(node)) else found[0]
        for node, found in names.items()
    }


def _fx_name(node: ir.Node, known: Mapping[str, Entry]) -> str | None:
    """The FX node that torch.onnx noted, where the report has one of that name and operator."""
    noted = _FX_TEXT.match(node.metadata_props.get(_FX_NODE, ""))
    if noted is None or noted[1] not in known:
        return None
    return noted[1] if known[noted[1]].get("op") == f"{noted[2]}::{noted[3]}" else None


def _is_it(node: ir.Node, entry: Entry) -> bool:
    """Whether an ONNX node can be that operator of an ONNX model."""
    return entry.get("op") in (None, operator(node))
