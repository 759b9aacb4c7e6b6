"""The report in viewers of models: metadata that Netron shows, node data for Model Explorer.

Netron shows the metadata of a node under its attributes, and that of the model's inputs and
outputs; it passes over the metadata of values inside, which other viewers show. So what is known of
a result stands on the node that makes it as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import onnx_ir as ir

from ampconvert.cost import CONTRACTIONS
from ampconvert.frontends.onnx_scopes import operator
from ampconvert.plan import FLOAT32
from ampconvert.report.jsonable import plain
from ampconvert.report.overlays_nodes import (
    ORIGIN,
    Entry,
    described,
    explorer_ids,
    result_makers,
)
from ampconvert.report.reading import entries, number, part, words
from ampconvert.report.words import figure, type_name
from ampconvert.rules import load

PREFIX = "ampconvert."
PT2_GRAPH = "graph"  # what Model Explorer's adapter for .pt2 files calls the only graph
By = Literal["precision", "error", "flops"]

# Colours that read on both themes and by the colour-blind: blue for low types, orange for FP32.
LOW, REQUIRED, BY_COST, CAST = "#a6cee3", "#e66101", "#fdb863", "#cab2d6"
SHADES = ("#fff5eb", "#fdd0a2", "#fd8d3c", "#d94801", "#7f2704")  # one for each decade
NOT_FINITE = "#000000"


def annotate(model: ir.Model, data: Mapping[str, Any]) -> int:
    """Write what the report in `data` says of each operator on its nodes, in place, and of each
    result on its value; gives how many nodes were found in the report.

    `model` is the converted model, or the one that was converted. Only `metadata_props` change,
    keys that begin with "ampconvert.", so its answers stay what they are. Where the exporter wrote
    an operator out as several nodes, all have its verdict, and the last one what is known of its
    result.
    """
    found = described(model, data)
    makers = result_makers(model, found)
    errors = _measured(data)
    for node, entry in found.items():
        noted = dict(_verdict(entry))
        if makers.get(str(entry["node"])) is node:
            noted |= _results(entry, errors)
            _annotate_values(node, entry, errors)
        _replace(node.metadata_props, noted)
    for node, cast in _casts(model, found, data):
        _replace(node.metadata_props, dict(_cast(cast)))
    return len(found)


def model_explorer(
    data: Mapping[str, Any], model: ir.Model | None, by: By = "precision"
) -> dict[str, Any]:
    """Node data for Model Explorer, strict JSON: graph ids, and by node id a value and a colour.

    With a `model` the ids are those of the adapter for ONNX files (model-explorer-onnx), for the
    model as it stands in the file; without one those of the adapter for .pt2 files, where operators
    go by the names that the report has. `by` is "precision", the type each operator runs in,
    "error", the relative L2 error of the outputs that its rounding is predicted to cause under the
    plan, or "flops", its floating point operations.

    Raises ValueError for another `by`.
    """
    if by not in ("precision", "error", "flops"):
        raise ValueError(f"nodes are coloured by precision, error or flops, not by {by!r}")
    graphs: dict[str, dict[str, Any]] = {}
    for graph, node, value in _values(data, model, by):
        graphs.setdefault(graph, {})[node] = value
    largest = max((_size(v) for found in graphs.values() for v in found.values()), default=0.0)
    shown = {
        graph: {
            "name": f"ampconvert: {by}",
            "results": {node: _result(value, by) for node, value in found.items()},
            **_scale(largest, by),
        }
        for graph, found in graphs.items()
    }
    return dict(plain(shown))


def _verdict(entry: Entry) -> Iterator[tuple[str, str]]:
    """What is known of an operator as a whole."""
    yield ORIGIN, str(entry["node"])
    for key, name in (("precision", "runs_in"), ("verdict", "verdict"), ("class", "class"),
                      ("rule", "rule"), ("reason", "reason"), ("source", "source"),
                      ("evidence", "evidence")):  # fmt: skip
        if entry.get(name):
            yield f"{PREFIX}{key}", str(entry[name])
    if entry.get("runs_in") is None:
        yield f"{PREFIX}precision", "unchanged"
    if entry.get("output_error") is not None:
        yield f"{PREFIX}predicted_error", figure(number(entry["output_error"]))
    alone = part(entry, "alone")
    if alone:
        yield f"{PREFIX}measured_alone", figure(number(alone.get("measured")))
    safety = part(entry, "safety")
    if safety:
        yield f"{PREFIX}overflow", f"{safety['level']}: {safety['reason']}"


def _results(entry: Entry, errors: Mapping[str, float]) -> dict[str, str]:
    """What is known of an operator's results, each by its name where there are several."""
    noted = {}
    names = words(entry, "outputs")
    for key, told in (("range", _ranges(entry)), ("measured_error", _errors(entry, errors))):
        if told:
            several = len(names) > 1
            lines = [f"{name}: {text}" if several else text for name, text in told.items()]
            noted[f"{PREFIX}{key}"] = "; ".join(lines)
    return noted


def _annotate_values(node: ir.Node, entry: Entry, errors: Mapping[str, float]) -> None:
    """The same on the values, and on what a cast of the plan hands out under their name."""
    ranges, off = _ranges(entry), _errors(entry, errors)
    for name, value in zip(words(entry, "outputs"), node.outputs, strict=False):
        noted = {}
        if name in ranges:
            noted[f"{PREFIX}range"] = ranges[name]
        if name in off:
            noted[f"{PREFIX}measured_error"] = off[name]
        handed = [u for u in value.consumers() if u.op_type == "Cast" and ORIGIN not in
                  u.metadata_props]  # fmt: skip
        for same in (value, *(u.outputs[0] for u in handed)):
            # A value without a type would become an entry that onnx's checker refuses.
            if noted and same.type is not None:
                _replace(same.metadata_props, noted)


def _ranges(entry: Entry) -> dict[str, str]:
    """What the results were seen to hold in float32, in words."""
    told = {}
    for name, seen in part(entry, "seen").items():
        least, most = (number(seen.get(key)) for key in ("minimum", "maximum"))
        if least is None or most is None or least > most:
            continue
        text = f"{figure(least)} to {figure(most)}"
        tiny = number(seen.get("tiny"))
        text += f", smallest magnitude {figure(tiny)}" if tiny and tiny < float("inf") else ""
        text += ", NaN" if seen.get("has_nan") else ""
        told[name] = text + (", infinities" if seen.get("has_inf") else "")
    return told


def _errors(entry: Entry, errors: Mapping[str, float]) -> dict[str, str]:
    names = words(entry, "outputs")
    return {name: figure(errors[name]) for name in names if name in errors}


def _measured(data: Mapping[str, Any]) -> dict[str, float]:
    """The measured relative L2 difference from float32 of each value that was compared."""
    values = entries(part(data, "differences"), "values")
    found = {str(one["value"]): number(one.get("rel_l2")) for one in values}
    return {name: error for name, error in found.items() if error is not None}


def _casts(
    model: ir.Model, found: Mapping[ir.Node, Entry], data: Mapping[str, Any]
) -> Iterator[tuple[ir.Node, Entry]]:
    """The Cast nodes of the plan with their entries: by what makes the value, or its name."""
    planned: dict[tuple[str | None, str], list[Entry]] = {}
    for cast in entries(data, "casts"):
        planned.setdefault((cast.get("maker"), str(cast["to"])), []).append(cast)
    types = {ir.DataType.FLOAT: FLOAT32, ir.DataType.FLOAT16: "float16",
             ir.DataType.BFLOAT16: "bfloat16"}  # fmt: skip
    for node in model.graph.all_nodes():
        if node.op_type != "Cast" or node in found or node.inputs[0] is None:
            continue
        source = node.inputs[0]
        maker = source.producer()
        to = types.get(ir.DataType(node.attributes["to"].as_int()), "")
        name = None
        if maker is not None:
            if maker not in found:
                continue
            name = str(found[maker]["node"])
        for cast in planned.get((name, to), []):
            if maker is not None:
                outputs = words(found[maker], "outputs")
                is_it = source.index() == _index(outputs, str(cast["value"]))
            else:
                is_it = source.name in (cast["value"], cast.get("label"))
            if is_it:
                yield node, cast


def _index(names: Any, name: str) -> int | None:
    return list(names).index(name) if name in names else None


def _cast(cast: Entry) -> Iterator[tuple[str, str]]:
    yield f"{PREFIX}precision", str(cast["to"])
    yield f"{PREFIX}reason", "Cast of the plan: its readers run in this type."
    yield f"{PREFIX}cast", f"{cast['from']} to {cast['to']}"
    if cast.get("bytes") is not None:
        yield f"{PREFIX}bytes", str(cast["bytes"])
    if cast.get("seconds") is not None:
        yield f"{PREFIX}predicted_seconds", figure(number(cast["seconds"]))


def _replace(props: dict[str, str], noted: Mapping[str, str]) -> None:
    """`noted` in place of whatever an earlier report left."""
    for key in [key for key in props if key.startswith(PREFIX)]:
        del props[key]
    props.update(noted)


def _values(
    data: Mapping[str, Any], model: ir.Model | None, by: By
) -> Iterator[tuple[str, str, Any]]:
    """Graph id, node id and value of every node that has one."""
    if model is None:
        for entry in entries(data, "nodes"):
            value = _value(entry, by)
            if value is not None:
                yield PT2_GRAPH, str(entry["node"]), value
        return
    found, ids = described(model, data), explorer_ids(model)
    shares = _shares(model, found, by)
    for node, entry in found.items():
        value = _value(entry, by)
        if value is not None and node in ids and node in shares:
            yield *ids[node], value if by == "precision" else value * shares[node]
    if by == "precision":
        for node, cast in _casts(model, found, data):
            if node in ids:
                yield *ids[node], f"cast to {type_name(str(cast['to']))}"


def _value(entry: Entry, by: By) -> Any:
    if by == "error":
        return number(entry.get("output_error"))
    if by == "flops":
        return number(entry.get("flops"))
    compute = entry.get("runs_in")
    if compute is None:
        return None
    if compute != FLOAT32:
        return type_name(str(compute))
    return "FP32 required" if entry.get("class") == "deny" else "FP32 by cost"


def _shares(model: ir.Model, found: Mapping[ir.Node, Entry], by: By) -> Mapping[ir.Node, float]:
    """How much of its operator's value each node stands for, so that sums over a layer are right:
    FLOPs are those of the matrix products where there are any, all else is the result's.
    """
    if by == "precision":
        return dict.fromkeys(found, 1.0)
    last = result_makers(model, found)
    shares = dict.fromkeys(last.values(), 1.0)
    if by == "flops":
        heavy = _contractions()
        parts: dict[str, list[ir.Node]] = {}
        for node, entry in found.items():
            if operator(node) in heavy:
                parts.setdefault(str(entry["node"]), []).append(node)
        for name, nodes in parts.items():
            if name in last:
                del shares[last[name]]
            shares |= dict.fromkeys(nodes, 1.0 / len(nodes))
    return shares


def _contractions() -> frozenset[str]:
    """The operators that multiply matrices, as the rules have it."""
    rules = (rule for rule in load() if rule.work in CONTRACTIONS)
    return frozenset(name for rule in rules for name in rule.operators())


def _result(value: Any, by: By) -> dict[str, Any]:
    if by == "precision":
        cast = value.startswith("cast")
        full = {"FP32 required": REQUIRED, "FP32 by cost": BY_COST}
        return {"value": value, "bgColor": CAST if cast else full.get(value, LOW)}
    return {"value": value} if abs(value) < float("inf") else {
        "value": value, "bgColor": NOT_FINITE}  # fmt: skip


def _scale(largest: float, by: By) -> dict[str, Any]:
    """How the values are coloured: a shade for each decade below the largest."""
    if by == "precision":
        return {"showExpandedSummaryOnGroupNode": True}
    colours: list[dict[str, Any]] = [{"value": 0, "bgColor": "transparent"}]
    if largest:
        decades = range(len(SHADES) - 1, -1, -1)
        colours += [
            {"value": largest * 10.0**-decade if decade else largest, "bgColor": shade}
            for decade, shade in zip(decades, SHADES, strict=True)
        ]
    # Errors add as squares: their sums and means would say nothing.
    hidden = {"hideAggregatedStats": ["sum", "avg"]} if by == "error" else {}
    return {"thresholds": colours, **hidden}


def _size(value: Any) -> float:
    """A finite value as it counts for the scale; others have a colour of their own."""
    return float(value) if isinstance(value, float) and abs(value) < float("inf") else 0.0
