"""Core graphs read from ONNX text, by the front end itself."""

from __future__ import annotations

import onnx
import onnx.parser
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.frontends.onnx import read
from ampconvert.graph import Graph

MICROSOFT = '"com.microsoft" : 1'


def model_of_text(text: str, opset: int = 18) -> onnx.ModelProto:
    """The model whose graph is `text`: "g (float[2] x) => (float[2] y) { y = Relu(x) }"."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}, {MICROSOFT}]>\n'
    return onnx.parser.parse_model(header + text.strip())


def graph_of_text(text: str, opset: int = 18, low: Low = "float16") -> Graph:
    """The core Graph of such a model."""
    return read(ir.from_proto(model_of_text(text, opset)), low)
