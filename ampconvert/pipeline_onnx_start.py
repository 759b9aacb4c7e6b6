"""An ONNX model made ready to be planned: loaded, functions written out, its opset high enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ampconvert.conversion import Feed
from ampconvert.dtypes import Low
from ampconvert.element_types import inlined
from ampconvert.errors import UserError
from ampconvert.frontends.onnx import read
from ampconvert.frontends.onnx_apply import TYPES
from ampconvert.frontends.onnx_load import from_proto, load
from ampconvert.frontends.onnx_opset import lowest_version, raise_opset
from ampconvert.graph import Graph
from ampconvert.pipeline_steps import Clock
from ampconvert.plan import FLOAT32
from ampconvert.rules import OpRule, RuleBook
from ampconvert.rules import load as load_rules

Source = Path | str | onnx.ModelProto | ir.Model
# Casts to bfloat16 exist from opset 13 on; opset 7 is the oldest that ONNX Runtime runs. What is
# older is raised to 9: before it, constants of integers have to be inputs of the model.
LEAST_OPSET = {"float16": 7, "bfloat16": 13}
RAISED_TO = {"float16": 9, "bfloat16": 13}
MOST_OPSET = 22  # the last that operators are raised to; runtimes lack kernels of the newest


@dataclass(frozen=True)
class Start:
    """A model that is ready to be planned, and what it is run on."""

    model: ir.Model
    graph: Graph
    feeds: Sequence[Feed]
    io: frozenset[str]
    notes: tuple[str, ...]


def start_from(
    clock: Clock,
    source: Source,
    feeds: Sequence[Feed],
    low: Low,
    rules: Sequence[OpRule],
    io: Mapping[str, str],
    verify: bool,
) -> Start:
    """`source` ready to be planned for `low`; without `feeds` random ones are made, if `verify`."""
    notes: list[str] = []
    with clock.stage("load"):
        model = _own(source)
        if model.functions:
            model, note = _inline(model)
            notes.append(note)
    chosen = _outside(model, io, low)
    with clock.stage("read"):
        model, graph, raised = _at_opset(model, low, rules)
        notes += raised
    if verify and not feeds:
        feeds = _random_feeds(model, source)
    return Start(model, graph, feeds if verify else (), chosen, tuple(notes))


def _own(source: Source) -> ir.Model:
    """The model as an IR of our own; the caller's is left as it is."""
    if isinstance(source, ir.Model):
        return source.clone()
    if isinstance(source, onnx.ModelProto):
        return from_proto(source)
    return load(Path(source))


def _inline(model: ir.Model) -> tuple[ir.Model, str]:
    """The model with its functions written out, and word of that."""
    names = sorted({f"{f.domain}::{f.name}" for f in model.functions.values()})
    model = inlined(model)
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
    return model, f"Functions were written out where they are called: {shown}."


def _outside(model: ir.Model, io: Mapping[str, str], low: Low) -> frozenset[str]:
    """The inputs and outputs that are to be `low` outside; UserError for names and types that do
    not fit.
    """
    weights = model.graph.initializers
    places = {v.name or "": v for v in (*model.graph.inputs, *model.graph.outputs)}
    for name, dtype in io.items():
        if name not in places:
            raise UserError(f"no input or output is named {name!r}: there are {', '.join(places)}")
        if dtype not in (FLOAT32, low):
            raise UserError(f"{name}: its type can be float32 or {low}, not {dtype}")
        kind = places[name].type
        if dtype == low and kind is not None and kind.dtype == TYPES[low]:
            raise UserError(f"{name} is {low} already")
        if not isinstance(kind, ir.TensorType) or kind.dtype != ir.DataType.FLOAT:
            raise UserError(f"{name} is no float32 tensor: its type stays as it is")
        if name in weights:
            raise UserError(f"{name} has a default value in the model: its type stays as it is")
    return frozenset(name for name, dtype in io.items() if dtype == low)


def _at_opset(
    model: ir.Model, low: Low, rules: Sequence[OpRule]
) -> tuple[ir.Model, Graph, list[str]]:
    """The model at an opset that `low` can be written in, its graph, and what was raised and why.

    Where an operator that gains most from `low` takes it only from a later opset on, that one.
    """
    notes: list[str] = []
    least = LEAST_OPSET[low]
    opset = model.opset_imports.get("", least)
    if opset < least:
        version = RAISED_TO[low]
        notes.append(f"Opset raised from {opset} to {version}: {low} needs {least} at least.")
        model, opset = raise_opset(model, version), version
    graph = read(model, low)
    needed = _needed_opset(graph, opset, low, rules)
    if needed is None:
        return model, graph, notes
    version, op = needed
    why = f"{op} takes {low} from there on"
    try:
        raised = raise_opset(model, version)
    except UserError as error:
        return model, graph, [*notes, f"Opset {opset} kept, though {why}: {error}."]
    return raised, read(raised, low), [*notes, f"Opset raised from {opset} to {version}: {why}."]


def _needed_opset(
    graph: Graph, opset: int, low: Low, rules: Sequence[OpRule]
) -> tuple[int, str] | None:
    """The opset that lets every FP16-safe operator run in `low`, and the one that asks for it."""
    bound = [node for node in graph.nodes if node.bound and node.op.startswith("onnx::")]
    if not bound:
        return None
    book = RuleBook((*rules, *load_rules()))
    best: tuple[int, str] | None = None
    for node in bound:
        rule = book.match(node, graph, low)
        if rule is None or rule.class_for(low) != "allow":
            continue
        op = node.op.removeprefix("onnx::")
        floats = [i for i, v in enumerate(graph.input_values(node)) if v and v.is_float32]
        version = lowest_version(op, "", low, opset, floats)
        if version is None or version > MOST_OPSET:
            continue
        if version > max(opset, best[0] if best else 0):
            best = (version, op)
    return best


def _random_feeds(model: ir.Model, source: Source) -> list[dict[str, np.ndarray[Any, Any]]]:
    from ampconvert.verification_inputs import random_feeds

    return random_feeds(model, str(source) if isinstance(source, Path | str) else "the model")
