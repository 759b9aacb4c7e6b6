"""External data of ONNX files: left on disk, read when asked for, and only where it may stand."""

from __future__ import annotations

import os
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto

from ampconvert.errors import UserError
from ampconvert.frontends.onnx_load import SOURCES, load, numbers
from tests.onnx_damage import HEAD, external, message, parsed, written

ONES = np.ones(4, np.float32)


def add_external(path: Path, location: str, **entries: object) -> Path:
    model = parsed(HEAD + "g (float[4] x) => (float[4] y) { y = Add(x, w) }")
    external(model, "w", ONES, location=location, **entries)
    return written(path, model)


@pytest.mark.parametrize(
    ("location", "entries", "expected"),
    [
        ("none.bin", {}, "weight 'w' has its data in 'none.bin', and there is no such file"),
        ("", {}, "weight 'w' names no file"),
        ("w\0.bin", {}, "weight 'w' names no file"),
        ("/etc/hostname", {}, "weight 'w' has its data in '/etc/hostname', an absolute path"),
        ("C:\\w.bin", {}, "an absolute path"),
        ("../w.bin", {}, "leads out of the model's folder"),
        ("sub/../../w.bin", {}, "leads out of the model's folder"),
        ("out.bin", {}, "a symbolic link that leaves the model's folder"),
        ("w.bin", {"offset": -4}, "weight 'w' has the offset '-4'"),
        ("w.bin", {"offset": "x"}, "weight 'w' has the offset 'x'"),
        ("w.bin", {"offset": 10**30}, "weight 'w' has the offset"),
        ("w.bin", {"offset": 2**62}, "weight 'w' needs bytes"),
        ("w.bin", {"offset": 5}, "weight 'w' needs bytes 5 to 21 of 'w.bin', which has 20"),
        ("w.bin", {"length": 12}, "weight 'w' has 12 bytes of external data"),
        ("w.bin", {"length": -16}, "weight 'w' has the length '-16'"),
    ],
)
def test_external_data_where_it_may_not_be(
    tmp_path: Path, location: str, entries: dict[str, object], expected: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (folder / "w.bin", tmp_path / "w.bin"):
        file.write_bytes(bytes(20))
    (folder / "out.bin").symlink_to("../w.bin")
    path = add_external(folder / "m.onnx", location, **entries)
    assert expected in message(path)


def test_external_data_is_left_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    data = tmp_path / "sub" / "w.bin"
    data.write_bytes(b"head" + ONES.tobytes())
    path = add_external(tmp_path / "m.onnx", "sub/w.bin", offset=4, length=16)
    monkeypatch.chdir(tmp_path)
    model = load(Path("m.onnx"))
    monkeypatch.chdir("/")  # what was loaded by a relative path is found from anywhere
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert Path(tensor.path) == data
    assert numbers(tensor).tolist() == ONES.tolist()
    assert tensor.raw is None  # nothing stays mapped
    assert model.graph.meta[SOURCES] == (path, data)


def test_links_of_caches_are_followed(tmp_path: Path) -> None:
    """Hugging Face's cache: model and data are links to files side by side; others hard-link."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (blobs / "1").write_bytes(ONES.tobytes())
    add_external(blobs / "2", "w.bin")
    (snapshot / "w.bin").symlink_to("../blobs/1")
    (snapshot / "m.onnx").symlink_to("../blobs/2")
    os.link(blobs / "1", tmp_path / "another name")
    tensor = load(snapshot / "m.onnx").graph.initializers["w"].const_value
    assert tensor is not None
    assert numbers(tensor).tolist() == tensor.numpy().tolist() == ONES.tolist()


def test_external_data_in_bodies_and_constants(tmp_path: Path) -> None:
    """Large and small, in a branch, in its Constant and in a function: found, checked, not read."""
    model = parsed(
        '<ir_version: 9, opset_import: ["" : 20, "d" : 1]>'
        "g (bool c, float[300,1] x) => (float[300,1] y) { y = If (c) <"
        "then_branch = t () => (float[300,1] p) <float[300,1] w = {0}> { p = Add(x, w) }, "
        "else_branch = e () => (float[N,1] q) <int64[2] s = {0, 0}> "
        "{ k = Constant <value = float[300] {0}> () r = Reshape(k, s) q = d.f(r) }> }"
        '<domain: "d", opset_import: ["" : 20]> f (a) => (b) '
        "{ k = Constant <value = float[300,1] {0}> () b = Mul(a, k) }"
    )
    then, otherwise = model.graph.node[0].attribute[0].g, model.graph.node[0].attribute[1].g
    (tmp_path / "w.bin").write_bytes(
        np.ones(300, np.float32).tobytes() + np.array([300, 1]).tobytes()
    )
    offsets = {
        0: (then.initializer[0], otherwise.node[0].attribute[0].t),
        1: (model.functions[0].node[0].attribute[0].t,),
        1200: (otherwise.initializer[0],),
    }
    for offset, tensors in offsets.items():
        for tensor in tensors:
            for field in ("float_data", "int64_data", "raw_data"):
                tensor.ClearField(field)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="w.bin")
            tensor.external_data.add(key="offset", value=str(offset - offset % 4))
    path = written(tmp_path / "m.onnx", model)
    loaded = load(path)
    (function,) = loaded.functions.values()
    constant = function[0].attributes["value"].as_tensor()
    assert numbers(constant).shape == (300, 1)
    (tmp_path / "w.bin").write_bytes(bytes(1216))  # a shape of zeros: the small one is looked at
    assert "the Reshape that makes 'r'" in message(path)
    (tmp_path / "w.bin").write_bytes(bytes(600))
    assert "'w' needs bytes 0 to 1200" in message(path)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.arange(6).astype(ml_dtypes.bfloat16).reshape(1, 6),
        np.array(7.5),
        np.array([[True, False]]),
        np.zeros((0, 3), np.float32),
        np.array([1, -2, 3], ml_dtypes.int4),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_numbers_keep_type_and_shape(tmp_path: Path, array: np.ndarray) -> None:
    plain = ir.tensor(array)
    (tmp_path / "w.bin").write_bytes(b"?" + plain.tobytes())
    kind, shape = plain.dtype, ir.Shape(array.shape)
    tensor = ir.ExternalTensor(
        "w.bin", 1, plain.nbytes, kind, shape=shape, name="w", base_dir=tmp_path
    )
    for given in (plain, tensor):
        found = numbers(given)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


def test_numbers_of_a_file_that_was_changed(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(ONES.tobytes())
    tensor = load(add_external(tmp_path / "m.onnx", "w.bin")).graph.initializers["w"].const_value
    assert tensor is not None
    (tmp_path / "w.bin").write_bytes(b"1234")
    with pytest.raises(UserError, match="ends before tensor 'w' does"):
        numbers(tensor)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(UserError, match="can't be read"):
        numbers(tensor)
