"""A model at a later opset: what BF16 and FP16 kernels exist for depends on it.

Most operators only took more types in later opsets. Where no node of a model changed otherwise,
raising it changes one number; where one did, that node alone is rewritten, in place, so that every
other node, name, weight and note stays as it was.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import onnx
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.element_types import infer_types, schema
from ampconvert.errors import UserError
from ampconvert.frontends.onnx_opset_steps import REWRITES, STUDIED, RefusedError, Site

# Opsets before this one marked buffers for reuse (consumed_inputs); no current runtime reads them.
LOWEST = 6
_IR_VERSIONS = onnx.helper.OP_SET_ID_VERSION_MAP
HIGHEST = min(STUDIED, onnx.defs.onnx_opset_version())
_STANDARD = ("", "ai.onnx")  # two spellings of ONNX's own domain
_SUCCESSORS = {"Scatter": "ScatterElements", "Upsample": "Resize"}


def raise_opset(model: ir.Model, version: int) -> ir.Model:
    """A new model that gives the same answers at opset `version` of the default domain.

    `model` stays as it is; its functions must be inlined already. A model that is at `version` or
    later is only copied. Names, inputs, outputs, weights (lazy ones stay so), types, metadata and
    the imports of other domains are kept, and the IR version grows as far as the opset needs it.

    Raises:
        UserError: a node, named in the message, has no equal there, or the opset is unknown.
    """
    if model.functions:
        raise ValueError("raise_opset takes a model whose functions are inlined")
    raised = model.clone()
    given = _opset(raised)
    if given is not None and given >= version:
        return raised
    current = version if given is None else given  # a model without the import has no node of it
    _check_known(current, version)
    _import(raised, current)
    _raise_nodes(raised, current, version)
    _import(raised, version)
    raised.ir_version = max(raised.ir_version, _IR_VERSIONS["ai.onnx", version])
    return raised


def lowest_version(
    op: str, domain: str, low: Low, version: int, inputs: Collection[int] | None = None
) -> int | None:
    """The first opset from `version` on whose schema lets the operator's operands be `low`.

    `inputs` are the positions, at `version`, of the operands in question; by default all that may
    be float32. Results that may be float32 count too. What may be `low` in no opset (the scales of
    Resize) does not count; None if that leaves nothing, or where no schema is known. A domain other
    than ONNX's own is known in one version only.
    """
    start = schema("" if domain in _STANDARD else domain, op, version)
    if start is None:
        return None
    places = [
        *((True, i, f.name) for i, f in enumerate(start.inputs) if inputs is None or i in inputs),
        *((False, i, f.name) for i, f in enumerate(start.outputs)),
    ]
    wanted = [place for place in places if _may_be("float", start, *place)]
    ready = {
        v: {place for place in wanted if _may_be(low, found, *place)}
        for v, found in ((version, start), *_later(op, domain, version))
    }
    reachable = set().union(*ready.values())
    return min((v for v, now in ready.items() if now == reachable and now), default=None)


def _check_known(current: int, version: int) -> None:
    if version > HIGHEST:
        raise UserError(f"opset {version} is not known here; the latest known one is {HIGHEST}")
    if current < LOWEST:
        raise UserError(
            f"the model has opset {current}, and models can be raised from opset {LOWEST} on: "
            "export it again with a later one"
        )


def _raise_nodes(model: ir.Model, current: int, version: int) -> None:
    nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
    _check_operators(nodes, current)
    changing = [node for node in nodes if _next_change(node, current, version) is not None]
    if changing:
        values = list(_values(model))
        untyped = [value for value in values if value.type is None]
        infer_types(model)
        taken = {str(v.name) for v in values} | {str(n.name) for n in model.graph.all_nodes()}
        for node in changing:
            _raise_node(Site(node, version, taken), current)
        for value in untyped:
            value.type = None  # the model's own declarations are all that it is to have
    for node in nodes:
        node.version = None  # the model's


def _check_operators(nodes: Iterable[ir.Node], current: int) -> None:
    for node in nodes:
        history = _history(node.op_type)
        if not history or history[0].since_version > current:
            raise UserError(
                f"node {node.name!r}: ONNX has no operator {node.op_type} in opset {current}; "
                "export the model again"
            )


def _raise_node(site: Site, current: int) -> None:
    """Rewrite a node change by change; the node may become another operator on the way."""
    node = site.node
    named = f"node {node.name!r} ({node.op_type})"
    while (change := _next_change(node, current, site.target)) is not None:
        rewrite = REWRITES.get((node.op_type, change))
        try:
            if rewrite is None:
                raise RefusedError("how to keep its answers is not known")
            rewrite(site)
        except RefusedError as error:
            raise UserError(
                f"{named} can't be raised to opset {change}: {error}. "
                f"Export the model again with opset {site.target}, or convert to a type that its "
                "opset knows"
            ) from None
        current = change


def _next_change(node: ir.Node, current: int, version: int) -> int | None:
    """The first opset after `current` in which the node has to be written in another way."""
    return next((v for v in _changes(node.op_type) if current < v <= version), None)


@functools.cache
def _changes(op: str) -> tuple[int, ...]:
    """The opsets in which more changed of an operator than its number, in rising order."""
    return tuple(
        new.since_version
        for old, new in itertools.pairwise(_history(op))
        if (op, new.since_version) in REWRITES or not extends(old, new)
    )


def extends(old: Any, new: Any) -> bool:
    """Whether all that schema `old` allows is allowed by `new`, with the same defaults.

    That says nothing of the meaning: see `REWRITES`.
    """
    return (
        not new.deprecated
        and _parameters_extend(old.inputs, new.inputs)
        and _parameters_extend(old.outputs, new.outputs)
        and all(
            name in new.attributes and _same_attribute(a, new.attributes[name])
            for name, a in old.attributes.items()
        )
        and not any(a.required and n not in old.attributes for n, a in new.attributes.items())
    )


def _parameters_extend(old: Sequence[Any], new: Sequence[Any]) -> bool:
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return (
        len(old) <= len(new)
        and all(parameter.option != single for parameter in new[len(old) :])
        and all(
            set(a.types) <= set(b.types) and (a.option == b.option or a.option == single)
            for a, b in zip(old, new, strict=False)
        )
    )


def _same_attribute(old: Any, new: Any) -> bool:
    alike = old.type == new.type and old.default_value == new.default_value
    return bool(alike and (old.required or not new.required))


@functools.cache
def _history(op: str) -> tuple[Any, ...]:
    """Every schema of a standard operator, the oldest first; none for an unknown one."""
    found: list[Any] = []
    version = HIGHEST
    while version > 0:
        try:
            found.append(onnx.defs.get_schema(op, version, ""))
        except onnx.defs.SchemaError:
            break
        version = found[-1].since_version - 1
    return tuple(reversed(found))


def _later(op: str, domain: str, version: int) -> Iterator[tuple[int, Any]]:
    """The opsets after `version` in which an operator's schema changed, and these schemas."""
    if domain in _STANDARD:
        heirs = {op, _SUCCESSORS.get(op, op)}
        for found in sorted(itertools.chain(*map(_history, heirs)), key=lambda s: s.since_version):
            if found.since_version > version and not found.deprecated:
                yield found.since_version, found


def _may_be(element: str, found: Any, is_input: bool, position: int, name: str) -> bool:
    """Whether the parameter of this name, else at this position, takes tensors of `element`."""
    parameters = found.inputs if is_input else found.outputs
    here = [p for p in parameters if p.name == name] or list(parameters[position : position + 1])
    return any(f"tensor({element})" in str(one) for p in here for one in p.types)


def _graphs(model: ir.Model) -> tuple[ir.Graph, ...]:
    return (model.graph, *model.graph.subgraphs())


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in _graphs(model):
        yield from graph.inputs
        yield from graph.initializers.values()
    for node in model.graph.all_nodes():
        yield from node.outputs


def _opset(model: ir.Model) -> int | None:
    """The opset of ONNX's own domain; None where the model does not import it."""
    imports = model.opset_imports
    return max((imports[domain] for domain in _STANDARD if domain in imports), default=None)


def _import(model: ir.Model, version: int) -> None:
    """Import opset `version` of ONNX's own domain, under the spelling that the nodes use."""
    for graph in _graphs(model):
        if graph is model.graph or any(domain in graph.opset_imports for domain in _STANDARD):
            graph.opset_imports.pop("ai.onnx", None)
            graph.opset_imports[""] = version
