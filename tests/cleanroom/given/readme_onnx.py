"""A reader's model.onnx, in the current folder, not converted yet."""

from pathlib import Path

import onnx

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
model (float[batch, 8] x, float[8, 4] w) => (float[batch, 4] y) { z = MatMul(x, w) y = Relu(z) }
"""
onnx.save(onnx.parser.parse_model(MODEL), "model.onnx")
for made in Path().glob("model.fp16.*"):
    made.unlink()
