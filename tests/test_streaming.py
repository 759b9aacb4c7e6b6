"""Data that is read batch by batch: nothing is read too early, and one batch is in memory."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ampconvert import pipeline, pipeline_onnx
from ampconvert.errors import UserError
from ampconvert.frontends import npz_files
from ampconvert.frontends.inputs import resolve
from ampconvert.frontends.npz_files import read_arrays, read_headers
from ampconvert.frontends.onnx_run import calibrate
from ampconvert.pipeline_steps import PARITY_BATCHES
from ampconvert.ranges.batches import Batches
from ampconvert.verification import verify_models
from ampconvert.verification_inputs import declared_inputs, onnx_feeds
from ampconvert.verify import segments
from ampconvert.verify.segment_cuts import Limits
from tests.model_files import NET, TWO, load, message, write

CHAIN = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,3] x) => (float[N,3] y) { a = Neg(x) b = Exp(a) c = Abs(b) y = Add(c, x) }"""


def counted(count: int, made: list[int]) -> Batches[int]:
    """Batches that note when each is made."""

    def maker(i: int) -> int:
        made.append(i)
        return i

    return Batches([lambda i=i: maker(i) for i in range(count)])  # type: ignore[misc]


@given(st.integers(0, 9), st.slices(9), st.slices(9))
def test_batches_are_a_sequence(count: int, one: slice, two: slice) -> None:
    plain = list(range(count))
    found = Batches.of(plain)
    assert list(found) == plain and len(found) == count
    assert list(found[one][two]) == plain[one][two]
    assert list(found[one] + found[two]) == plain[one] + plain[two]
    assert list(found.mapped(lambda item: item + 1).pick(range(count)[one])) == [
        item + 1 for item in plain[one]
    ]
    for place in range(-count, count):
        assert found[place] == plain[place]
    with pytest.raises(IndexError):
        found[count]


def test_a_batch_is_made_when_it_is_asked_for_and_the_last_one_kept() -> None:
    made: list[int] = []
    batches = counted(5, made)
    part = batches[1::2].mapped(lambda item: -item)
    assert len(part) == 2 and made == []
    assert [part[0], part[0], part[-2], part[1], part[0]] == [-1, -1, -1, -3, -1]
    assert made == [1, 3, 1]


def save(folder: Path, count: int, name: str = "x") -> Path:
    """A folder of `count` files, whose numbers are those of the file."""
    folder.mkdir()
    for i in range(count):
        np.savez(folder / f"{i:03}.npz", **{name: np.full((2, 3), float(i), np.float32)})
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose arrays were read, in order."""
    seen: list[str] = []
    plain = np.load

    def load(file: BinaryIO, **more: Any) -> Any:
        seen.append(Path(file.name).name)
        return plain(file, **more)

    monkeypatch.setattr(npz_files.np, "load", load)
    return seen


def test_a_folder_is_read_whole_file_by_file(tmp_path: Path, reads: list[str]) -> None:
    folder = save(tmp_path / "data", 40)
    inputs = resolve(load(tmp_path, NET), data=folder)
    assert len(inputs.calibration) == 40 and reads == ["000.npz"]  # the example
    assert [float(args[0][0, 0]) for args, _ in inputs.calibration] == list(range(40))
    assert reads == [f"{i:03}.npz" for i in range(40)]


def test_files_of_another_shape_are_left_out_unread(tmp_path: Path, reads: list[str]) -> None:
    folder = save(tmp_path / "data", 5)
    np.savez(folder / "002.npz", x=np.zeros((9, 3)))
    np.savez_compressed(folder / "004.npz", x=np.asfortranarray(np.ones((2, 3))))
    inputs = resolve(load(tmp_path, NET), data=folder)
    assert "1 left out: x is float32[9, 3]" in inputs.calibration_source and len(reads) == 1
    assert [float(args[0][0, 0]) for args, _ in inputs.calibration] == [0, 1, 3, 1]


def test_names_of_all_files_are_checked_before_anything_runs(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", 5)
    np.savez(folder / "003.npz", z=np.zeros((2, 3)))
    assert "003.npz: there is no input 'z'" in message(resolve, load(tmp_path, TWO), data=folder)
    model = ir.from_proto(onnx.parser.parse_model(CHAIN))
    with pytest.raises(UserError, match=r"003\.npz: holds z; the model's inputs are x"):
        onnx_feeds(Path("m.onnx"), declared_inputs(model), (), None, folder, 0)
    np.savez(folder / "003.npz", x=np.zeros((2, 4), np.float32))
    with pytest.raises(UserError, match=r"003\.npz: x is float32 \[2, 4\]; the model takes .* Nx3"):
        onnx_feeds(Path("m.onnx"), declared_inputs(model), (), None, folder, 0)


@pytest.mark.parametrize("array", [np.zeros(()), np.ones((0, 3)), np.arange(5)[::2], np.array("a")])
def test_headers_have_the_type_and_shape_of_the_arrays(tmp_path: Path, array: Any) -> None:
    np.savez(tmp_path / "a.npz", x=array, y=np.ones((2, 2), ">f4"))
    arrays, headers = read_arrays(tmp_path / "a.npz"), read_headers(tmp_path / "a.npz")
    assert arrays.keys() == headers.keys()
    for name, found in arrays.items():
        assert (found.shape, found.dtype) == (headers[name].shape, headers[name].dtype)


@pytest.mark.parametrize("read", [read_arrays, read_headers])
def test_damaged_files_are_said_to_be(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "a.npz"
    for held in (b"", b"junk", b"\x93NUMPY\x01\x00junk"):
        path.write_bytes(held)
        assert f"{path}: damaged .npz file" in message(read, path)
    np.savez(path, x=np.arange(9))
    path.write_bytes(path.read_bytes()[:60])
    assert "damaged" in message(read, path)
    for name in ("x.npy", "x.txt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"no array")
        assert "damaged" in message(read, path)
    np.savez(path, x=np.array([{}], dtype=object))
    assert "Python objects" in message(read, path)
    np.savez_compressed(path, x=np.arange(4000))
    whole = bytearray(path.read_bytes())
    whole[200:240] = bytes(40)
    path.write_bytes(whole)
    assert "damaged" in message(read_arrays, path)


def test_segments_read_a_batch_once_where_they_are_one(tmp_path: Path, reads: list[str]) -> None:
    folder = save(tmp_path / "data", 6)
    model = ir.from_proto(onnx.parser.parse_model(CHAIN))
    feeds, subject = onnx_feeds(Path("m.onnx"), declared_inputs(model), (), None, folder, 0)
    assert len(feeds) == subject.batches == 6 and reads == ["000.npz"]
    ranges, _ = calibrate(model, feeds, lambda done: None)
    assert (ranges["x"].maximum, ranges["y"].elements) == (5, 36)
    assert reads[1:] == [f"{i:03}.npz" for i in range(6)]


def test_segments_hold_the_values_of_a_few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: a group goes through all segments before the next one."""
    model = ir.from_proto(onnx.parser.parse_model(CHAIN))
    feeds = [{"x": np.full((1 + i % 2, 3), i, np.float32)} for i in range(10)]
    whole = calibrate(model, feeds, lambda done: None)
    most = 0
    put = segments.Kept.put

    def watched(kept: segments.Kept, batch: int, name: str, value: Any) -> None:
        nonlocal most
        put(kept, batch, name, value)
        most = max(most, *(len(held) for held in kept.names.values()))

    monkeypatch.setattr(segments.Kept, "put", watched)
    limits = Limits(nodes=1, batches=3)
    monkeypatch.setitem(segments.visit.__kwdefaults__, "limits", limits)
    told: list[int] = []
    assert calibrate(model, feeds, told.append) == whole
    assert most == 3 and told == sorted(told) and told[-1] == 10


def test_inputs_with_defaults_are_filled_in_as_they_are_read() -> None:
    model = ir.from_proto(
        onnx.parser.parse_model(
            """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x, float[2] k) => (float[2] y) <float[2] k = {5, 5}> { y = Mul(x, k) }"""
        )
    )
    given = [{"x": np.ones(2, np.float32)}, {"x": np.ones(2, np.float32), "k": np.ones(2)}]
    made: list[int] = []
    feeds = Batches([lambda i=i: made.append(i) or given[i] for i in (0, 1)])  # type: ignore[misc]
    found = segments.outputs(model, feeds)
    assert [batch["y"].tolist() for batch in found] == [[5, 5], [1, 1]]
    without = Batches([dict, lambda: given[0]])
    with pytest.raises(UserError, match="missing"):
        segments.outputs(model, without)


def test_parity_of_many_batches_is_measured_on_the_first(tmp_path: Path) -> None:
    folder = save(tmp_path / "data", PARITY_BATCHES + 6)
    entry = load(tmp_path, NET)
    inputs = resolve(entry, data=folder)
    done = pipeline.convert(entry.model, inputs.args, inputs.kwargs, data=inputs.calibration)
    note = f"Parity was measured on the first {PARITY_BATCHES} of {PARITY_BATCHES + 6} batches."
    assert note in done.analysis.notes and done.ok
    seen = done.analysis.ranges[done.analysis.graph.nodes[0].inputs[0]]  # type: ignore[index]
    assert seen.maximum == PARITY_BATCHES + 5 and seen.elements == 6 * (PARITY_BATCHES + 6)
    model = ir.from_proto(onnx.parser.parse_model(CHAIN))
    feeds, _ = onnx_feeds(Path("m.onnx"), declared_inputs(model), (), None, folder, 0)
    other = pipeline_onnx.convert(model, feeds, dtype="bfloat16")
    assert note in other.analysis.notes
    assert other.analysis.ranges["x"].maximum == PARITY_BATCHES + 5
    path = str(write(tmp_path, NET, "net.py"))
    found = verify_models(path, path, data=folder)
    assert note in found.notes and found.ok


def test_data_may_be_any_iterable() -> None:
    torch.manual_seed(0)
    batches = (((torch.full((2, 4), float(i)),), {}) for i in range(3))
    found = pipeline.analyze(torch.nn.Linear(4, 2), (torch.ones(2, 4),), data=batches)  # type: ignore[arg-type]
    assert max(seen.elements for seen in found.ranges.values()) == 24
