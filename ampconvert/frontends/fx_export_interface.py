"""What an exported model looks like from outside: its opset, its inputs' and outputs' names.

The options are those of torch.onnx.export. Names are given here and not by the exporter, which
would give a value a name that another one has already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from torch.export import ExportedProgram

from ampconvert.errors import UserError
from ampconvert.frontends.fx import output_labels, user_outputs

LEAST_OPSET = 18  # torch.onnx leaves a model at this one whatever lower one is asked for


@dataclass(frozen=True)
class Interface:
    """How torch.onnx is to write the model; each field is its parameter of that name.

    `opset_version` None stands for the lowest that holds the low type. Names stand in order and may
    be fewer than there are values. `dynamic_shapes` names dimensions only: what is dynamic is
    captured before. With `keyed_outputs` an output that the model returns under a key is named so.
    """

    opset_version: int | None = None
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    keyed_outputs: bool = True
    dynamic_shapes: Any = None
    custom_translation_table: Mapping[Callable[..., Any], Callable[..., Any]] | None = None
    optimize: bool = True
    report: bool = False
    profile: bool = False
    dump_exported_program: bool = False
    artifacts_dir: str | Path = field(default=".")

    def __post_init__(self) -> None:
        """Raise UserError for an opset that can't be written, or a name given twice."""
        newest = onnx.defs.onnx_opset_version()
        if self.opset_version is not None and not LEAST_OPSET <= self.opset_version <= newest:
            raise UserError(
                f"opset_version={self.opset_version}: torch.onnx writes opsets from {LEAST_OPSET} "
                f"on, and onnx {onnx.__version__} knows them up to {newest}"
            )
        for parameter in ("input_names", "output_names"):
            names = getattr(self, parameter)
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise UserError(f"{parameter}: {twice[0]!r} is given twice")

    def exporter_options(self, opset: int) -> dict[str, Any]:
        """Arguments for torch.onnx.export; `opset` holds where none was asked for."""
        return {
            "opset_version": opset if self.opset_version is None else self.opset_version,
            "dynamic_shapes": self.dynamic_shapes,
            "custom_translation_table": _as_dict(self.custom_translation_table),
            "optimize": self.optimize,
            "report": self.report,
            "profile": self.profile,
            "dump_exported_program": self.dump_exported_program,
            "artifacts_dir": self.artifacts_dir,
        }


def name_values(model: ir.Model, original: ExportedProgram, wanted: Interface) -> None:
    """Give inputs and outputs their names; an inner value that has one already makes way.

    Raises UserError for more names than there are values, and for a name that a weight has.
    """
    labels = output_labels(original) if wanted.keyed_outputs else _plain_labels(original)
    _check("output_names", wanted.output_names, len(labels), model)
    _check("input_names", wanted.input_names, len(model.graph.inputs), model)
    chosen = [*wanted.output_names, *labels[len(wanted.output_names) :]]
    _name_outputs(model, chosen)
    for value, name in zip(model.graph.inputs, wanted.input_names, strict=False):
        if value.name == name:
            continue
        _make_way(model, name)
        for other in (*model.graph.inputs, *model.graph.outputs):
            if other.name == name and other is not value:
                other.name = f"{name}_inner"  # it is named in its turn, or was not asked for
        value.name = name


def refuse_another_opset(model: ir.Model, wanted: Interface) -> None:
    """Raise UserError where the exporter kept to another opset than it was asked for."""
    asked, made = wanted.opset_version, model.opset_imports.get("")
    if asked is not None and made != asked:
        raise UserError(
            f"opset_version={asked}: torch.onnx wrote opset {made}, because an operator of the "
            f"model has no form in {asked}; leave opset_version out, or ask for {made}"
        )


def _as_dict(table: Mapping[Any, Any] | None) -> dict[Any, Any] | None:
    return None if table is None else dict(table)


def _plain_labels(program: ExportedProgram) -> list[str]:
    """The names that torch.onnx gives the outputs, each once."""
    labels: list[str] = []
    for name in user_outputs(program):
        labels.append(name if name not in labels else f"{name}_alias_{len(labels)}")
    return labels


def _check(parameter: str, names: Sequence[str], count: int, model: ir.Model) -> None:
    if len(names) > count:
        kind = parameter.removesuffix("_names")
        have = f"the model has {count} {kind}{'' if count == 1 else 's'}"
        raise UserError(f"{parameter} has {len(names)} names, and {have}: {list(names)}")
    for name in names:
        if name in model.graph.initializers:
            raise UserError(f"{parameter}: {name!r} is the name of a weight; take another one")


def _name_outputs(model: ir.Model, labels: Sequence[str]) -> None:
    outputs = list(model.graph.outputs)
    fixed = {id(v) for v in (*model.graph.inputs, *model.graph.initializers.values())}
    for value, label in zip(outputs, labels, strict=True):
        if value.name == label or id(value) in fixed or outputs.count(value) > 1:
            continue
        _make_way(model, label)
        if label not in {v.name for v in (*model.graph.inputs, *outputs)}:
            value.name = label


def _make_way(model: ir.Model, label: str) -> None:
    """Rename inner values that are called `label`."""
    seen_outside = {id(value) for value in model.graph.outputs}
    for node in model.graph.all_nodes():
        for inner in node.outputs:
            if inner.name == label and id(inner) not in seen_outside:
                inner.name = f"{label}_inner"
