"""What the README's Python block takes for given: a model, inputs, and files of both kinds."""

import contextlib
import io
from pathlib import Path

import numpy as np
import torch

torch.manual_seed(0)
model = torch.nn.Linear(8, 4)
x, batches = torch.randn(2, 8), [torch.randn(2, 8) for _ in range(3)]
array = x.numpy().astype(np.float32)

Path("model.py").write_text(
    "import torch\n\ntorch.manual_seed(0)\nmodel = torch.nn.Linear(8, 4)\n", encoding="utf-8"
)
for name in ("model.onnx", "candidate.onnx"):
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, (x,), name, input_names=["x"], external_data=False, verbose=False)
