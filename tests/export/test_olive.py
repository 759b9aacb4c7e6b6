"""The pass for Olive, run by Olive itself: needs the package olive-ai."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ampconvert.errors import UserError
from ampconvert.files import read_plan

pytestmark = pytest.mark.slow
pytest.importorskip("olive.passes", reason="olive-ai is not installed")

ROOT = Path(__file__).parents[2]


def write_model(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((8, 8)).astype(np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="mul"),
            helper.make_node("Softmax", ["h"], ["y"], name="soft"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [weight],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    (folder / "calib").mkdir()
    np.savez(folder / "calib" / "0.npz", x=rng.standard_normal((4, 8)).astype(np.float32))
    return path


def write_workflow(folder: Path, **settings: Any) -> dict[str, Any]:
    model = write_model(folder)
    return {
        "input_model": {"type": "OnnxModel", "model_path": str(model)},
        "passes": {"convert": {"type": "AmpConvert", **settings}},
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
    }


def olive_run(folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    workflow = write_workflow(folder, **settings)
    package = subprocess.run(
        [sys.executable, "-m", "ampconvert.integrations.olive"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    (folder / "package.json").write_text(package.stdout, encoding="utf-8")
    (folder / "workflow.json").write_text(json.dumps(workflow), encoding="utf-8")
    command = [sys.executable, "-m", "olive", "run", "--config", str(folder / "workflow.json")]
    return subprocess.run(
        [*command, "--package-config", str(folder / "package.json")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", "FLOAT16"), ("bf16", "BFLOAT16")])
def test_olive_runs_the_pass(tmp_path: Path, dtype: str, kind: str) -> None:
    run = olive_run(tmp_path, dtype=dtype, data=str(tmp_path / "calib"))
    assert run.returncode == 0, run.stderr
    written = onnx.load(tmp_path / "out" / "model.onnx")
    assert {t.data_type for t in written.graph.initializer} == {TensorProto.DataType.Value(kind)}
    plan = read_plan(tmp_path / "out" / "model.plan.json")
    assert plan.decisions["mul"].cls == "allow"
    told = json.loads((tmp_path / "out" / "model_config.json").read_text(encoding="utf-8"))
    measured = told["config"]["model_attributes"]["ampconvert"]
    assert measured["dtype"] == plan.low and 0 < measured["parity"] < 8e-2


def test_what_is_denied_stays(tmp_path: Path) -> None:
    run = olive_run(tmp_path, deny=["mul"])
    assert run.returncode == 0, run.stderr
    assert read_plan(tmp_path / "out" / "model.plan.json").compute["mul"] == "float32"


@pytest.mark.parametrize("required", [True, False])
def test_a_missed_tolerance_gives_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: bool
) -> None:
    from olive.workflows import run

    from ampconvert.conversion import Conversion
    from ampconvert.integrations.olive import package_config

    monkeypatch.setattr(Conversion, "ok", False)
    settings = {"require_parity": required, "data": str(tmp_path / "calib")}
    workflow = write_workflow(tmp_path, **settings)
    fails = pytest.raises(UserError, match="parity did not hold")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with fails if required else contextlib.nullcontext():
            run(workflow, package_config=package_config())
    assert (tmp_path / "out" / "model.onnx").exists() is not required
    told = any("parity did not hold" in str(warning.message) for warning in caught)
    assert told is not required
