"""Writing the ONNX file: weights beside it when they are large, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ampconvert.frontends import fx_export
from ampconvert.frontends.fx_export import save
from ampconvert.verify.runtimes import run_onnx


def model() -> ir.Model:
    proto = onnx.parser.parse_model("""
    <ir_version: 9, opset_import: ["" : 20]>
    g (float[1,4] x) => (float[1,4] y) { y = Mul(x, w) }
    """)
    weight = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    proto.graph.initializer.append(weight)
    return ir.from_proto(proto)


def test_large_weights_stand_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fx_export, "EXTERNAL_FROM", 0)
    path = tmp_path / "net.fp16.onnx"
    written = save(model(), path)
    assert written == [path, tmp_path / "net.fp16.onnx.data"]
    assert sorted(tmp_path.iterdir()) == written
    onnx.checker.check_model(path, full_check=True)
    (answer,) = run_onnx(path, [{"x": np.ones((1, 4), np.float32)}])
    assert answer["y"].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    def full_disk(*args: object, **kwargs: object) -> None:
        Path(str(args[1])).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fx_export, "EXTERNAL_FROM", limit)
    monkeypatch.setattr(ir, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(model(), tmp_path / "net.fp16.onnx")
    assert list(tmp_path.iterdir()) == []
