"""A lowered program to ONNX: casts one to one, weights stored in `low`, a reason on every node."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch.export import ExportedProgram

from ampconvert.errors import UserError
from ampconvert.frontends.fold import ready_for_export
from ampconvert.frontends.fx import output_labels, user_outputs
from ampconvert.frontends.fx_export_fixes import drop_promotions, exportable
from ampconvert.frontends.fx_export_interface import Interface, name_values, refuse_another_opset
from ampconvert.frontends.onnx_save import save as save
from ampconvert.plan import Plan

OPSET = {"float16": 20, "bfloat16": 22}  # Conv, pooling and LSTM take bfloat16 from opset 22 on
_FX_NAME = re.compile(r"%([^\s:]+)")
_CAST_PREFIX = "cast"


@dataclass(frozen=True)
class Exported:
    """An ONNX model and, for each node, the plan's node it came from ("" for none)."""

    model: ir.Model
    origin: Mapping[str, str]


def to_onnx(
    program: ExportedProgram,
    original: ExportedProgram,
    plan: Plan,
    interface: Interface | None = None,
) -> Exported:
    """Export the lowered `program`; `original` is what it was lowered from.

    Raises UserError naming the operator that torch.onnx has no translation for, the input or output
    that is complex, and what of `interface` can't be had.
    """
    wanted = interface or Interface()
    _refuse_complex(original)
    folded, renamed = ready_for_export(program, original)
    exported = export_program(folded, **wanted.exporter_options(OPSET[plan.low]))
    model = exported.model
    refuse_another_opset(model, wanted)
    origin = _origins(model, exported.exported_program)
    drop_promotions(model, origin, plan.compute, plan.low)
    _fold_weight_casts(model)
    for old, new in renamed.items():
        _rename(model, old, new)
    name_values(model, original, wanted)
    _explain(model, origin, plan)
    return Exported(model, origin)


def _refuse_complex(program: ExportedProgram) -> None:
    """Raise UserError where callers meet complex numbers: in the file they would be pairs of real
    ones, a tensor of another shape.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    labels = dict(zip(user_outputs(program), output_labels(program), strict=True))
    given = dict.fromkeys(program.graph_signature.user_inputs)
    for name in (*given, *labels):
        value = nodes[name].meta.get("val") if isinstance(name, str) else None
        if isinstance(value, torch.Tensor) and value.is_complex():
            kind = "input" if name in given else "output"
            mend = "view_as_complex" if name in given else "view_as_real"
            raise UserError(
                f"the {kind} {labels.get(str(name), name)} is complex, and ONNX Runtime takes and "
                f"gives no complex tensors: use torch.{mend} inside the model"
            )


def export_program(
    program: ExportedProgram, opset_version: int = 20, **options: Any
) -> torch.onnx.ONNXProgram:
    """torch.onnx.export without its chatter; errors name the operator and its source line."""
    quiet = [logging.getLogger(n) for n in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in quiet]
    try:
        for logger in quiet:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                exportable(program),
                dynamo=True,
                opset_version=opset_version,
                verbose=False,
                **options,
            )
    except Exception as error:
        raise UserError(_message(error)) from error
    finally:
        for logger, level in zip(quiet, levels, strict=True):
            logger.setLevel(level)
    if exported is None:  # typed so, never seen
        raise UserError("torch.onnx.export gave no model")
    return exported


def illegal_nodes(exported: Exported, low: str) -> dict[str, str]:
    """Plan nodes that ONNX can't hold in `low`, with the reason, from the operator schemas.

    A schema lists the types of each operand; what an exporter writes need not be among them (Einsum
    takes no bfloat16, Resize neither).
    """
    wanted = "tensor(bfloat16)" if low == "bfloat16" else "tensor(float16)"
    dtype = ir.DataType.BFLOAT16 if low == "bfloat16" else ir.DataType.FLOAT16
    found: dict[str, str] = {}
    for node in exported.model.graph.all_nodes():
        version = exported.model.opset_imports.get(node.domain)
        if version is None or not onnx.defs.has(node.op_type, version, node.domain):
            continue
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        slots = [*zip(_formals(schema.inputs, len(node.inputs)), node.inputs, strict=False)]
        slots += zip(_formals(schema.outputs, len(node.outputs)), node.outputs, strict=False)
        for formal, value in slots:
            if value is not None and value.dtype == dtype and wanted not in formal.types:
                plan_node = exported.origin.get(node.name or "", "")
                found[plan_node] = (
                    f"ONNX opset {version} does not let {node.op_type} take {low} "
                    f"as {formal.name!r}."
                )
    return found


def _formals(parameters: Any, count: int) -> list[Any]:
    """A schema's parameters, the last one repeated where it is variadic."""
    formals = list(parameters)
    while formals and len(formals) < count:
        formals.append(formals[-1])
    return formals


def _origins(model: ir.Model, program: ExportedProgram | None) -> dict[str, str]:
    """Each ONNX node's name to the plan's node, over the FX node that the exporter notes."""
    custom = (
        {} if program is None else {n.name: n.meta.get("custom") or {} for n in program.graph.nodes}
    )
    origin: dict[str, str] = {}
    for number, node in enumerate(model.graph.all_nodes()):
        if not node.name:
            node.name = f"{node.op_type}_{number}"
        match = _FX_NAME.match(node.metadata_props.get("pkg.torch.onnx.fx_node", ""))
        name = match.group(1) if match else (node.outputs[0].name or "")
        origin[node.name] = custom.get(name, {}).get("ampconvert", "")
    return origin


def _explain(model: ir.Model, origin: Mapping[str, str], plan: Plan) -> None:
    """Write each node's precision, verdict and reason where Netron shows them."""
    for node in model.graph.all_nodes():
        name = origin.get(node.name or "", "")
        decision = plan.decisions.get(name)
        if decision is None:
            if node.op_type == "Cast":
                node.metadata_props["ampconvert.reason"] = (
                    "Cast of the plan: its readers run in this type."
                )
            continue
        node.metadata_props.update(
            {
                "ampconvert.node": name,
                "ampconvert.precision": plan.compute.get(name, "unchanged"),
                "ampconvert.class": decision.cls,
                "ampconvert.rule": decision.rule,
                "ampconvert.reason": decision.reason,
            }
        )


def _fold_weight_casts(model: ir.Model) -> None:
    """A Cast of a stored weight becomes a second stored weight."""
    for node in list(model.graph):
        if node.op_type != "Cast" or node.inputs[0] is None:
            continue
        source, result = node.inputs[0], node.outputs[0]
        if source.name not in model.graph.initializers or source.const_value is None:
            continue
        if result.is_graph_output() or result.dtype is None:
            continue
        data = source.const_value.numpy().astype(result.dtype.numpy())
        name = f"{source.name}.{result.dtype.name.lower()}"
        if name not in model.graph.initializers:
            stored = ir.Value(name=name, type=ir.TensorType(result.dtype), shape=source.shape)
            stored.const_value = ir.Tensor(data, name=name)
            model.graph.register_initializer(stored)
        result.replace_all_uses_with(model.graph.initializers[name])
        model.graph.remove(node, safe=True)


def _rename(model: ir.Model, old: str, new: str) -> None:
    value = model.graph.initializers.get(old)
    if value is not None and new not in model.graph.initializers:
        value.name = new


def _message(error: BaseException) -> str:
    """The one line that says what could not be exported, out of the exporter's report."""
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(str(cause))
        cause = cause.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(chain))
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text)
    if missing:
        return (
            f"torch.onnx has no translation for {missing.group(1)}: replace it in the model, "
            "or use the .pt2 file"
        )
    translating = re.search(r"Error when translating node %(\S+)", text)
    at = f" at {translating.group(1)}" if translating else ""
    last = next(
        (line.strip() for line in chain[-1].splitlines() if line.strip()), "no reason given"
    )
    return f"torch.onnx can't export the program{at}: {last}"
