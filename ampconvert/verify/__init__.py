"""Parity: how far a converted model's answers are from the reference's, measured so that it holds.

`metrics` compares arrays, `emulate` builds the model that shows what low-precision storage does
on a machine without a GPU, `first_bad` names the tensor where it went wrong, `runtimes` runs ONNX
models, and `compare` puts them together. `metrics` needs numpy alone; the rest needs the extras
`[onnx,ort]`, so this package imports nothing by itself.
"""
