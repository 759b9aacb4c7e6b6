"""From a command's options to a loaded model, its inputs, its rules, and the report's subject."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampconvert.errors import UserError
from ampconvert.extras import need
from ampconvert.report.progress import StageLine
from ampconvert.report.subject import Subject, Tensor

if TYPE_CHECKING:
    from ampconvert.findings import Finding
    from ampconvert.frontends.entry import Entry
    from ampconvert.frontends.inputs import Inputs
    from ampconvert.rules import OpRule


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be captured."""

    entry: Entry
    inputs: Inputs
    rules: tuple[OpRule, ...]
    subject: Subject

    def arguments(self, options: Namespace) -> dict[str, Any]:
        """The keyword arguments that `pipeline.convert` and `pipeline.analyze` share."""
        return {
            "dtype": options.dtype,
            "data": self.inputs.calibration,
            "rules": self.rules,
            "dynamic": self.inputs.dynamic,
            "dynamic_batch": not options.static,
            "target": options.runtime,
        }


def load_all(options: Namespace, progress: StageLine) -> Loaded:
    """Find the model, its inputs and the user's rules; UserError says what to do about each."""
    _refuse_onnx_only(options)
    rules = user_rules(options)
    if options.command == "convert":  # writes ONNX, and measures parity
        need("converting a PyTorch model", "torch", "onnx", "ort")
    else:
        need("reading a PyTorch model", "torch")
    from ampconvert.frontends.entry import find
    from ampconvert.frontends.inputs import resolve

    progress("load", 0, 0)
    entry = find(options.target, options.model, options.weights)
    progress("inputs", 0, 0)
    inputs = resolve(
        entry, options.input, options.inputs, options.data, options.seed,
        limits_only=getattr(options, "prove", False),
    )  # fmt: skip
    return Loaded(entry, inputs, rules, subject_of(options.target, entry, inputs))


def proof_arguments(options: Namespace) -> dict[str, Any]:
    """What `--prove` and `--assume` ask for: the ranges that `--input` declares, and contracts."""
    from ampconvert.frontends.input_spec import parse_spec

    if not options.prove:
        return {"prove": None, "assume": options.assume}
    specs = [parse_spec(text) for text in options.input]
    declared = {
        spec.name.replace(".", "_"): (spec.low, spec.high)
        for spec in specs
        if spec.low is not None and spec.high is not None
    }
    return {"prove": declared, "assume": options.assume}


def user_rules(options: Namespace) -> tuple[OpRule, ...]:
    """The user's rules, which stand before the built-in ones: `--deny`, `--allow`, then files."""
    from ampconvert.rules import command_line_rule, load

    typed = [command_line_rule(pattern, cls) for cls, pattern in options.verdicts]
    return (*typed, *load(options.rules, builtin=False))


def subject_of(target: str, entry: Entry, inputs: Inputs) -> Subject:
    """What the report says of a model and its data."""
    return Subject(
        target=target,
        name=entry.name,
        how=entry.how,
        tensors=_tensors(inputs),
        inputs_source=inputs.source,
        inputs_random=inputs.random,
        data_source=inputs.calibration_source,
        data_random=inputs.calibration_random,
        batches=len(inputs.calibration),
        lint=_source_findings(entry.path),
    )


def is_onnx(target: str) -> bool:
    """Whether `target` names an ONNX file, which needs no PyTorch."""
    return Path(target).suffix.lower() == ".onnx"


def output_name(target: str, given: str | None) -> str:
    """The name that the files begin with: `--name`, else the model file's or module's own."""
    if given is not None:
        if not given or given in (".", "..") or "/" in given or "\\" in given:
            raise UserError(f"--name {given!r}: give a plain file name; -o names the folder")
        return given
    place = target
    if not Path(target).exists():
        place = target.rpartition(":")[0] or target
    path = Path(place)
    if path.suffix.lower() in (".py", ".pt2", ".onnx"):
        return path.stem
    return place.rpartition(".")[2]


def _source_findings(path: Path | None) -> tuple[Finding, ...]:
    """What the linter says of the file that holds the model, by the configuration there."""
    if path is None or path.suffix != ".py":
        return ()
    from ampconvert.lint.run import Options, run

    return tuple(run(Options(paths=(str(path),), jobs=1, cache=False)).findings)


def _refuse_onnx_only(options: Namespace) -> None:
    """Raise UserError for options that only an ONNX model can follow."""
    if options.io:
        raise UserError(
            f"{options.target}: --io is for ONNX models; a PyTorch model's inputs and outputs keep "
            "their types. Convert the .onnx file once more with --io, or cast in forward"
        )
    if options.no_verify:
        raise UserError(
            f"{options.target}: --no-verify is for ONNX models; a PyTorch model has to run to be "
            "captured"
        )


def _tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    from torch import Tensor as TorchTensor
    from torch.utils import _pytree as pytree

    leaves = pytree.tree_leaves((inputs.args, dict(inputs.kwargs)))
    tensors = [leaf for leaf in leaves if isinstance(leaf, TorchTensor)]
    return tuple(
        Tensor(name, str(t.dtype).removeprefix("torch."), tuple(t.shape))
        for name, t in zip(inputs.names, tensors, strict=False)
    )
