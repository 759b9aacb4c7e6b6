"""ONNX files as `ampconvert verify` takes them: loaded, and their low type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ampconvert.dtypes import Low
from ampconvert.errors import UserError

if TYPE_CHECKING:
    import onnx_ir as ir


def load_onnx(path: Path) -> ir.Model:
    """An ONNX file. Raises UserError when it is missing or damaged, or the onnx packages are."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        import onnx_ir
    except ModuleNotFoundError:
        raise UserError(
            "reading ONNX needs more packages: pip install 'ampconvert[onnx,ort]'"
        ) from None
    try:
        return onnx_ir.load(path)
    except Exception as error:  # protobuf raises its own kinds on a damaged file
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{path}: not a readable ONNX model: {first}") from error


def low_of_onnx(model: ir.Model) -> Low | None:
    """The low type that most of the model's tensors are held in; None when there is none.

    Inlines the model's functions and fills in its missing types.
    """
    from onnx_ir.passes.common import InlinePass

    from ampconvert.element_types import LOW_TYPES, infer_types

    InlinePass()(model)
    infer_types(model)
    found = [LOW_TYPES[v.dtype] for v in _values(model) if v.dtype in LOW_TYPES]
    if not found:
        return None
    return "float16" if found.count("float16") >= found.count("bfloat16") else "bfloat16"


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph.all_nodes():
        yield from node.outputs
