"""`ampconvert.convert` and `ampconvert.analyze`: one name each for PyTorch and ONNX models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ampconvert.conversion import Analysis, Conversion
from ampconvert.errors import UserError
from ampconvert.extras import need


def convert(
    model: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> Conversion:
    """Convert `model` to FP16 or BF16 and measure parity.

    A PyTorch module or ExportedProgram goes to `ampconvert.pipeline.convert`, with the example
    `args` and `kwargs`. The path of an .onnx file, an onnx.ModelProto or an onnx_ir.Model goes to
    `ampconvert.pipeline_onnx.convert`, where `data` are batches of arrays by input name. Each lists
    its options; `dtype`, `data`, `rules`, `plan`, `out`, `target` and `tolerance` are common.
    """
    if _is_onnx(model):
        need("reading ONNX", "onnx")
        from ampconvert import pipeline_onnx

        return pipeline_onnx.convert(model, **_for_onnx(args, kwargs, options))
    need("converting a PyTorch model", "torch", "onnx", "ort")
    from ampconvert import pipeline

    return pipeline.convert(model, args, kwargs, **options)


def analyze(
    model: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> Analysis:
    """The verdicts, ranges and plan for `model`; changes and writes nothing. Arguments as for
    `convert`.
    """
    if _is_onnx(model):
        need("reading ONNX", "onnx")
        from ampconvert import pipeline_onnx

        return pipeline_onnx.analyze(model, **_for_onnx(args, kwargs, options))
    from ampconvert import pipeline

    return pipeline.analyze(model, args, kwargs, **options)


def _is_onnx(model: Any) -> bool:
    """Whether `model` is an ONNX file or model, asked without importing either framework."""
    if isinstance(model, str | Path):
        if Path(model).suffix.lower() == ".onnx":
            return True
        raise UserError(
            f"{model}: a path has to be that of an .onnx file; for PyTorch give the module, "
            "which ampconvert.find_model(path) loads"
        )
    return type(model).__module__.split(".")[0] in ("onnx", "onnx_ir")


def _for_onnx(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, options: dict[str, Any]
) -> dict[str, Any]:
    if args or kwargs:
        raise UserError("an ONNX model takes its inputs by name: data=[{'x': array}]")
    options = dict(options)
    options["feeds"] = options.pop("data", ())
    return options
