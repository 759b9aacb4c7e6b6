"""From a command's options to an ONNX model, its inputs, its rules, and the report's subject."""

from __future__ import annotations

import glob
import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampconvert.commands.loading import user_rules
from ampconvert.errors import UserError
from ampconvert.extras import need
from ampconvert.report.progress import StageLine
from ampconvert.report.subject import Subject, Tensor
from ampconvert.report.words import plural

if TYPE_CHECKING:
    import onnx_ir as ir

    from ampconvert.rules import OpRule


@dataclass(frozen=True)
class LoadedOnnx:
    """An ONNX model that is ready to be converted; `feeds` is empty when nothing is to be run."""

    model: ir.Model
    feeds: Sequence[dict[str, Any]]
    rules: tuple[OpRule, ...]
    subject: Subject

    def arguments(self, options: Namespace) -> dict[str, Any]:
        """The keyword arguments that `convert` and `analyze` of `pipeline_onnx` share."""
        return {
            "dtype": options.dtype,
            "rules": self.rules,
            "io": dict(options.io),
            "target": options.runtime,
            "verify": not options.no_verify,
        }


def load_onnx(options: Namespace, progress: StageLine) -> LoadedOnnx:
    """The model of `options.target`, what it is run on, and the user's rules; UserError says what
    to do about each.
    """
    _refuse_options(options)
    rules = user_rules(options)
    _need_onnx(options)
    from ampconvert.frontends.onnx_load import load

    path = Path(options.target)
    progress("load", 0, 0)
    model = load(path)
    feeds: Sequence[dict[str, Any]] = []
    if options.no_verify:
        subject = _unrun(path, model)
    else:
        from ampconvert.verification_inputs import declared_inputs, onnx_feeds

        progress("inputs", 0, 0)
        # With data of their own, ranges are for a proof alone.
        has_data = options.inputs or options.data
        specs = [] if getattr(options, "prove", False) and has_data else options.input
        with explained(options.target):
            feeds, subject = onnx_feeds(
                path, declared_inputs(model), specs, options.inputs, options.data, options.seed,
                model,
            )  # fmt: skip
    subject = replace(subject, target=options.target, how=_described(model), format="onnx")
    return LoadedOnnx(model, feeds, tuple(placed(rule, model) for rule in rules), subject)


@contextmanager
def explained(target: str) -> Iterator[None]:
    """Name the model, and the way out, where ONNX Runtime can't load it."""
    try:
        yield
    except UserError as error:
        own = _load_failure(target) if "could not load the model" in str(error) else ""
        if not own:  # it was not this model that failed, but what was made of it
            raise
        raise UserError(
            f"{target}: {own}. A model that ONNX Runtime can't run is converted by its weights "
            "alone with --no-verify"
        ) from error


def _load_failure(target: str) -> str:
    """ONNX Runtime's complaint about the model; "" where it loads."""
    from ampconvert.verify.runtimes import session

    try:
        with session(Path(target)):
            return ""
    except UserError as error:
        return str(error).rstrip(".")


def _refuse_options(options: Namespace) -> None:
    """Raise UserError for options that mean nothing here, or contradict each other."""
    torch_only = {
        "--model": options.model,
        "--weights": options.weights,
        "--static": options.static,
    }
    for option, given in torch_only.items():
        if given:
            raise UserError(
                f"{options.target}: {option} makes no sense for an ONNX file, which is one model "
                "with its weights and its dimensions; leave it out"
            )
    types: dict[str, str] = {}
    for name, dtype in options.io:
        if types.setdefault(name, dtype) != dtype:
            raise UserError(f"--io gives {name} two types: {types[name]} and {dtype}")
    data = {"--input": options.input, "--inputs": options.inputs, "--data": options.data,
            "--tolerance": getattr(options, "tolerance", None)}  # fmt: skip
    if getattr(options, "prove", False):
        del data["--input"]  # its ranges are what a proof rests on
    unused = [option for option, given in data.items() if given]
    if options.no_verify and unused:
        raise UserError(
            f"--no-verify runs nothing, so there is no use for {' and '.join(unused)}; "
            "leave out one or the other"
        )


def _need_onnx(options: Namespace) -> None:
    """Raise UserError where the packages that read an ONNX model, or run it, are missing."""
    if options.no_verify:
        need("reading ONNX", "onnx")
    else:
        need("running an ONNX model", "onnx", "ort", instead="'ampconvert[onnx]' with --no-verify")


def _unrun(path: Path, model: ir.Model) -> Subject:
    shown = tuple(
        Tensor(value.name or "", value.dtype.name.lower() if value.dtype else "", _dims(value))
        for value in model.graph.inputs
        if value.name not in model.graph.initializers
    )
    return Subject(
        target=str(path), name=path.name, how="", tensors=shown, batches=0,
        inputs_source="nothing was run (--no-verify)",
    )  # fmt: skip


def _dims(value: ir.Value) -> tuple[int | str, ...]:
    return tuple(d if isinstance(d, int) else d.value or "?" for d in value.shape or ())


def _described(model: ir.Model) -> str:
    nodes = sum(1 for _ in model.graph.all_nodes())
    opset = model.opset_imports.get("")
    words = [f"opset {opset}"] if opset else []
    words.append(plural(nodes, "node"))
    if model.functions:
        words.append(plural(len(model.functions), "function"))
    return ", ".join(words)


def placed(rule: OpRule, model: ir.Model) -> OpRule:
    """A rule of the command line, taken for a node's name where it is no operator of `model`.

    ONNX names its nodes as it likes: "MatMul_12" looks like an operator, "x[0]" like a glob.
    """
    from ampconvert.rules import COMMAND_LINE

    if rule.file != COMMAND_LINE:
        return rule
    (pattern,) = rule.aten or rule.nodes
    nodes = list(model.graph.all_nodes())
    named = any(node.name == pattern for node in nodes)
    operators = {f"{node.domain or 'onnx'}::{node.op_type}" for node in nodes}
    if rule.nodes and named:
        return replace(rule, nodes=(pattern, glob.escape(pattern)))
    if rule.aten and not any(rule.names_op(op, "") for op in operators):
        return replace(rule, aten=(), nodes=(glob.escape(pattern),), loose=False)
    return rule


def refuse_input_files(path: Path, written: Sequence[Path], model: ir.Model | None = None) -> None:
    """Raise UserError if one of `written` is the model's own file, or holds weights of `model`."""
    own = {os.path.realpath(path): "the model that is converted"}
    if model is not None:
        from ampconvert.frontends.onnx_load import SOURCES

        for file in model.graph.meta.get(SOURCES, ()):
            own.setdefault(os.path.realpath(file), f"weights of {path}")
    for place in written:
        held = own.get(os.path.realpath(place))  # Path.resolve fails on links that form a circle
        if held:
            raise UserError(f"{place}: this file holds {held}; name another one with -o")
