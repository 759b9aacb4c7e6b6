"""All that the README's list of commands names: models, weights, data, sources, a script."""

import contextlib
import io
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import ampconvert

for name in ("readme_model.py", "readme_rewrite.py"):
    runpy.run_path(str(Path(__file__).with_name(name)))
sys.path.insert(0, ".")
from model import Net, build_model, example_inputs  # noqa: E402

with contextlib.redirect_stdout(io.StringIO()):
    torch.onnx.export(
        build_model().eval(), (example_inputs(),), "model.onnx",
        input_names=["ids"], external_data=False, verbose=False,
    )  # fmt: skip
shutil.copy("model.onnx", "candidate.onnx")
torch.manual_seed(0)
save_file(Net().state_dict(), "ckpt.safetensors")

# Plans of an earlier conversion, before and after a change that decides nothing otherwise.
plan = Path("out/model.fp16.plan.json")
plan.parent.mkdir()
with tempfile.TemporaryDirectory() as folder:
    written = ampconvert.convert("model.onnx", out=Path(folder, "model.fp16.onnx")).files["plan"]
    for place in (plan, Path("old.plan.json"), Path("new.plan.json")):
        shutil.copy(written, place)

rng = np.random.default_rng(0)
Path("calib").mkdir()
for number in range(4):
    np.savez(f"calib/{number}.npz", ids=rng.integers(30522, size=(1, 128)))

Path("src/evaluate.py").write_text(
    "from torch.cuda.amp import autocast\n\n\ndef evaluate(model, x):\n"
    "    with autocast():\n        return model(x)\n",
    encoding="utf-8",
)
