"""ONNX files as `ampconvert verify` takes them: loaded, and their low type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ampconvert.dtypes import Low
from ampconvert.extras import need

if TYPE_CHECKING:
    import onnx_ir as ir


def load_onnx(path: Path) -> ir.Model:
    """An ONNX file. Raises UserError when it is missing or damaged, or the onnx packages are."""
    need("reading ONNX", "onnx")
    from ampconvert.frontends.onnx_load import load

    return load(path)


def low_of_onnx(model: ir.Model) -> Low | None:
    """The low type that most of the model's tensors are held in; None when there is none."""
    from ampconvert.element_types import LOW_TYPES, typed

    found = [LOW_TYPES[v.dtype] for v in _values(typed(model)) if v.dtype in LOW_TYPES]
    if not found:
        return None
    return "float16" if found.count("float16") >= found.count("bfloat16") else "bfloat16"


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph.all_nodes():
        yield from node.outputs
