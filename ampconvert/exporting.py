"""`ampconvert.export`: torch.onnx.export that chooses types and measures parity before it writes.

    ampconvert.export(model, (x,), "model.onnx", dtype="float16")

Parameters and result are torch.onnx.export's, so that a script changes only the function's name.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ampconvert import pipeline
from ampconvert.conversion import Batch, Conversion
from ampconvert.dtypes import parse_low
from ampconvert.errors import UserError
from ampconvert.exporting_arguments import (
    Axes,
    arguments,
    captured_shapes,
    is_exportable,
    refuse_unsupported,
    shapes_of_axes,
)
from ampconvert.files import read_plan, write_plan
from ampconvert.frontends.fx_export_interface import Interface
from ampconvert.plan import Plan
from ampconvert.rules import OpRule

if TYPE_CHECKING:
    from torch.export import ExportedProgram

File = str | os.PathLike[str]


class ParityError(UserError):
    """The converted model's answers are too far from the original's, so nothing was written.

    `conversion` is what was made all the same, with every measure and every operator's verdict.
    """

    def __init__(self, message: str, conversion: Conversion) -> None:
        super().__init__(message)
        self.conversion = conversion


class ConvertedProgram(torch.onnx.ONNXProgram):
    """The ONNXProgram of a converted model, and the conversion that made it.

    Called, it runs the model on ONNX Runtime, as torch's does: on a CPU that shows no overflow, so
    judge by `conversion.verification`, and use `conversion.run` for the emulated answers.
    """

    def __init__(self, conversion: Conversion) -> None:
        assert conversion.onnx is not None
        super().__init__(conversion.onnx, conversion.program)
        self.conversion = conversion

    @property
    def ok(self) -> bool:
        """Whether parity held."""
        return self.conversion.ok

    def save(
        self,
        destination: File,
        *,
        include_initializers: bool = True,
        keep_initializers_as_inputs: bool = False,
        external_data: bool | None = None,
    ) -> None:
        """Write the model as ONNXProgram.save does; weights beside it are in `destination`.data.

        The files get their names once they are complete, and replace what has these names.
        """
        path = Path(destination)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            super().save(
                Path(folder) / path.name,
                include_initializers=include_initializers,
                keep_initializers_as_inputs=keep_initializers_as_inputs,
                external_data=external_data,
            )
            written = sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name)
            for file in written:  # the model last: it is what readers look for
                file.replace(path.parent / file.name)

    def save_plan(self, destination: File) -> None:
        """Write the plan, with the report's data: for `ampconvert report`, `ampconvert diff` and
        export's `plan`. Replaces a file of that name.
        """
        from ampconvert.report import jsonable

        write_plan(self.conversion.plan, Path(destination), jsonable.stored(None, self.conversion))

    def apply_weights(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Refused: other weights need other types, so they are converted anew."""
        raise UserError(
            "the weights in a converted model were rounded and folded, and its types were chosen "
            "for them: load the new ones into the PyTorch model and export it again, with "
            "plan=program.conversion.plan where the types are to stay"
        )


def export(
    model: torch.nn.Module | ExportedProgram,
    args: tuple[Any, ...] | torch.Tensor = (),
    f: File | BytesIO | None = None,
    *,
    kwargs: dict[str, Any] | None = None,
    verbose: bool | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset_version: int | None = None,
    dynamo: bool = True,
    external_data: bool = True,
    dynamic_shapes: dict[str, Any] | tuple[Any, ...] | list[Any] | None = None,
    custom_translation_table: dict[Callable[..., Any], Callable[..., Any]] | None = None,
    report: bool = False,
    optimize: bool = True,
    verify: bool = False,
    profile: bool = False,
    dump_exported_program: bool = False,
    artifacts_dir: File = ".",
    export_params: bool = True,
    keep_initializers_as_inputs: bool = False,
    dynamic_axes: Axes | None = None,
    training: Any = None,
    operator_export_type: Any = None,
    do_constant_folding: bool = True,
    custom_opsets: Mapping[str, int] | None = None,
    export_modules_as_functions: Any = False,
    autograd_inlining: bool = True,
    fallback: bool = False,
    dtype: str = "float16",
    data: Sequence[Batch] = (),
    tolerance: float | None = None,
    target: str | None = None,
    rules: Sequence[OpRule] = (),
    plan: Plan | File | None = None,
    repair: bool | Sequence[str] = False,
    parity: Literal["required", "reported"] = "required",
) -> ConvertedProgram:
    """Export `model` to ONNX in `dtype`, float32 where it has to be, and write it to `f`.

    All parameters up to `fallback` are torch.onnx.export's and do what they do there, with these
    differences: `verify` changes nothing, because parity with the original is always measured;
    `opset_version` is 18 or higher and, left out, 20 for float16 and 22 for bfloat16; `report`,
    `profile` and `dump_exported_program` tell of the lowered program, once for each export that the
    conversion takes; a model in training mode is exported as in evaluation mode, with a warning.
    What is not done is refused. The others are `ampconvert.convert`'s; `plan` may be a file.

    With `parity` "required" a conversion that misses its tolerance raises, and writes nothing;
    "reported" warns and writes.

    Returns torch's ONNXProgram with the `conversion`. Existing files are replaced, as torch does.

    Raises:
        ParityError: parity did not hold, and is required.
        UserError: anything else that the caller can mend.
    """
    refuse_unsupported(
        model,
        {
            "dynamo": dynamo,
            "training": training,
            "operator_export_type": operator_export_type,
            "do_constant_folding": do_constant_folding,
            "custom_opsets": custom_opsets or None,
            "export_modules_as_functions": export_modules_as_functions or False,
            "autograd_inlining": autograd_inlining,
            "fallback": fallback,
        },
    )
    try:
        parse_low(dtype)
    except ValueError as error:
        raise UserError(f"dtype: {error}") from error
    if parity not in ("required", "reported"):
        raise UserError(f"parity={parity!r}: it is 'required' or 'reported'")
    _refuse_unwritable(f)
    if args == () and not kwargs and is_exportable(model):
        args, kwargs = model.example_arguments()
        input_names = model.input_names() if input_names is None else input_names
        output_names = model.output_names() if output_names is None else output_names
        dynamic_shapes = model.dynamic_shapes() if dynamic_shapes is None else dynamic_shapes
    example = arguments(model, args, kwargs)
    if dynamic_shapes is None and dynamic_axes and isinstance(model, torch.nn.Module):
        dynamic_shapes = shapes_of_axes(
            model, example, dynamic_axes, input_names or (), output_names or ()
        )
    interface = Interface(
        opset_version=opset_version,
        input_names=tuple(input_names or ()),
        output_names=tuple(output_names or ()),
        keyed_outputs=False,
        dynamic_shapes=dynamic_shapes,
        custom_translation_table=custom_translation_table,
        optimize=optimize,
        report=report,
        profile=profile,
        dump_exported_program=dump_exported_program,
        artifacts_dir=Path(artifacts_dir),
    )
    if isinstance(model, torch.nn.Module) and model.training:
        warnings.warn(
            "the model is in training mode; it is exported as in evaluation mode", stacklevel=2
        )
    conversion = pipeline.convert(
        model,
        *example,
        dtype=dtype,
        data=data,
        rules=rules,
        plan=plan if plan is None or isinstance(plan, Plan) else read_plan(Path(plan)),
        dynamic_batch=False,
        dynamic_shapes=captured_shapes(dynamic_shapes),
        target=target,
        tolerance=tolerance,
        repair=repair,
        interface=interface,
        name=_name(f),
        progress=_print_stage if verbose else None,
    )
    if not conversion.ok:
        message = _failed(conversion)
        if parity == "required":
            raise ParityError(f"{message}; nothing was written. {_WAYS_OUT}", conversion)
        warnings.warn(message, stacklevel=2)
    program = ConvertedProgram(conversion)
    if isinstance(f, BytesIO):
        f.write(program.model_proto.SerializeToString())
    elif f is not None:
        program.save(
            f,
            include_initializers=export_params,
            keep_initializers_as_inputs=keep_initializers_as_inputs,
            external_data=external_data,
        )
    return program


_WAYS_OUT = (
    "repair=True rewrites what overflows; rules=[ampconvert.rule(WHAT, 'deny')] keeps more in "
    "FP32; tolerance=X allows more; parity='reported' accepts it as it is"
)


def _refuse_unwritable(f: File | BytesIO | None) -> None:
    """Raise UserError where `f` can't be written, before minutes are spent."""
    if f is None or isinstance(f, BytesIO):
        return
    path = Path(f)
    if path.is_dir():
        raise UserError(f"{path}: this is a folder, and the model needs a file")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: the folder {path.parent} is read-only")


def _name(f: File | BytesIO | None) -> str:
    return "model" if f is None or isinstance(f, BytesIO) else Path(f).stem


def _print_stage(stage: str, done: int, total: int) -> None:
    if not done:
        print(f"[ampconvert] {stage}", file=sys.stdout, flush=True)


def _failed(conversion: Conversion) -> str:
    """What did not hold, of the output that is furthest off."""
    found = conversion.verification
    if found is None:
        return "parity could not be measured"
    bad = [p for p in found.parities if not p.ok]
    if not bad:
        return f"parity was measured by a run that hides low-precision errors: {found.how}"
    worst = max(bad, key=lambda p: float("inf") if p.rel_l2 != p.rel_l2 else p.rel_l2)
    said = worst.note or f"relative L2 error {worst.rel_l2:.2g}, and {worst.tolerance:g} is allowed"
    others = f"; {len(bad) - 1} more outputs are off" if len(bad) > 1 else ""
    return f"parity failed at output {worst.output!r}: {said}{others}"
