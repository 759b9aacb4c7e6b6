"""torch.onnx.export's call with another name in front of it."""

import torch
from mlp import build_model, example_inputs

import ampconvert

model, args = build_model(), example_inputs()
batch = torch.export.Dim("batch", min=1, max=64)
ampconvert.export(
    model, args, "m.onnx", input_names=["x"], output_names=["p"], dynamic_shapes=({0: batch},),
    dtype="float16",
)  # fmt: skip
