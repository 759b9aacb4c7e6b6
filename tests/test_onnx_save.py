"""Writing ONNX files: weights one at a time, nothing half-written, the input never overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from ampconvert.errors import UserError
from ampconvert.frontends import onnx_save, onnx_wire
from ampconvert.frontends.onnx_load import load
from ampconvert.frontends.onnx_save import save
from ampconvert.verify.runtimes import run_onnx
from tests.onnx_damage import HEAD, SEEDS, parsed, written

ROWS = 300  # float32: more than what stays in the model file always


def model(names: str = "w", dtype: type = np.float32) -> ir.Model:
    """Multiplies its input by one weight after the other."""
    steps = " ".join(f"v{i + 1} = Mul(v{i}, {name})" for i, name in enumerate(names))
    proto = parsed(HEAD + f"g (float[{ROWS}] v0) => (float[{ROWS}] v{len(names)}) {{ {steps} }}")
    for i, name in enumerate(names):
        array = np.arange(ROWS, dtype=dtype) + i
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


@pytest.fixture(params=["inline", "beside"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "beside":
        monkeypatch.setattr(onnx_save, "EXTERNAL_FROM", 0)
    return str(request.param)


def contents(path: Path) -> ModelProto:
    """The file with its external data inside, as onnx itself reads it."""
    proto = onnx.load(path)
    for graph in graphs(proto.graph):
        for tensor in graph.initializer:
            tensor.ClearField("data_location")
    return proto


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            if attr.HasField("g"):
                yield from graphs(attr.g)


def test_files_and_answers(tmp_path: Path, place: str) -> None:
    path = tmp_path / "net.fp16.onnx"
    written_files = save(model(), path)
    beside = [tmp_path / "net.fp16.onnx.data"] if place == "beside" else []
    assert written_files == [path, *beside]
    assert sorted(tmp_path.iterdir()) == written_files
    onnx.checker.check_model(path, full_check=True)
    (answer,) = run_onnx(path, [{"v0": np.full(ROWS, 2, np.float32)}])
    assert answer["v1"].tolist() == (2 * np.arange(ROWS)).tolist()


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_what_is_written_is_what_the_model_holds(tmp_path: Path, place: str, name: str) -> None:
    loaded = load(written(tmp_path / "in.onnx", SEEDS[name]))
    before = ir.to_proto(loaded)
    save(loaded, tmp_path / "out.onnx")
    assert contents(tmp_path / "out.onnx") == before
    assert ir.to_proto(loaded) == before


def test_large_weights_everywhere(tmp_path: Path, place: str) -> None:
    """In the main graph, a branch, a Constant and a function, all from external data."""
    proto = parsed(
        '<ir_version: 9, opset_import: ["" : 20, "d" : 1]>'
        f"g (bool c, float[{ROWS}] x) => (float[{ROWS}] y) {{ z = Add(x, m) y = If (c) <"
        f"then_branch = t () => (float[{ROWS}] p) <float[{ROWS}] w = {{0}}> {{ p = Add(z, w) }}, "
        f"else_branch = e () => (float[{ROWS}] q) {{ k = Constant <value = float[{ROWS}] {{0}}> ()"
        f" r = Add(z, k) q = d.f(r) }}> }}"
        '<domain: "d", opset_import: ["" : 20]> f (a) => (b) '
        f"{{ k = Constant <value = float[{ROWS}] {{0}}> () b = Mul(a, k) }}"
    )
    then, other = (attr.g for attr in proto.graph.node[1].attribute)
    tensors = [
        proto.graph.initializer.add(name="m", data_type=TensorProto.FLOAT, dims=[ROWS]),
        then.initializer[0],
        other.node[0].attribute[0].t,
        proto.functions[0].node[0].attribute[0].t,
    ]
    for i, tensor in enumerate(tensors):
        tensor.CopyFrom(numpy_helper.from_array(np.full(ROWS, i + 1, np.float32), tensor.name))
    inside = ModelProto.FromString(proto.SerializeToString())
    (tmp_path / "w.bin").write_bytes(b"".join(tensor.raw_data for tensor in tensors))
    for i, tensor in enumerate(tensors):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        tensor.external_data.add(key="offset", value=str(4 * ROWS * i))
    loaded = load(written(tmp_path / "in.onnx", proto))
    out = tmp_path / "elsewhere" / "out.onnx"
    out.parent.mkdir()
    files = save(loaded, out)
    (tmp_path / "w.bin").unlink()  # what was written stands on its own
    found = contents(out)
    found.graph.node[1].attribute[1].g.node[0].attribute[0].t.ClearField("data_location")
    assert found == ir.to_proto(ir.from_proto(inside))
    if place == "beside":
        assert files[1].stat().st_size >= 3 * 4 * ROWS
        for feeds in (True, False):
            (answer,) = run_onnx(out, [{"c": np.array(feeds), "x": np.ones(ROWS, np.float32)}])
            assert set(answer["y"]) == {4.0 if feeds else 20.0}


class Own:
    """An ir.TensorProtocol that is none of onnx_ir's classes, without `tofile`."""

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value, self.doc_string = name, value, None
        self.dtype, self.shape = ir.DataType.FLOAT, ir.Shape([ROWS])
        self.size, self.nbytes = ROWS, 4 * ROWS
        self.metadata_props: dict[str, str] = {}
        self.meta: dict[str, Any] = {}

    def numpy(self) -> np.ndarray:
        return np.full(ROWS, self.value, np.float32)

    def tobytes(self) -> bytes:
        return self.numpy().tobytes()


def test_lazy_tensors_are_asked_one_at_a_time(tmp_path: Path, place: str) -> None:
    names = "abcdef"
    whole = model(names)
    alive: list[str] = []
    most: list[int] = []

    class Held(np.ndarray):
        def __del__(self) -> None:
            alive.pop()

    def make(name: str) -> ir.TensorProtocol:
        alive.append(name)
        most.append(len(alive))
        return ir.Tensor(np.full(ROWS, ord(name), np.float32).view(Held))

    for name, value in whole.graph.initializers.items():
        value.const_value = ir.LazyTensor(
            lambda name=name: make(name), ir.DataType.FLOAT, ir.Shape([ROWS]), name=name
        )
    own = Own("f", 7)
    whole.graph.initializers["f"].const_value = own  # type: ignore[assignment]
    save(whole, tmp_path / "m.onnx")
    assert most == [1] * 5
    assert whole.graph.initializers["f"].const_value is own
    found = {
        t.name: numpy_helper.to_array(t) for t in contents(tmp_path / "m.onnx").graph.initializer
    }
    assert {name: set(array) for name, array in found.items()} == {
        **{name: {float(ord(name))} for name in "abcde"},
        "f": {7.0},
    }


def test_offsets_can_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_save, "EXTERNAL_FROM", 0)
    monkeypatch.setattr(onnx_save, "_LARGE", 2000)
    made = model("abc", np.float32)
    made.graph.initializers["b"].const_value = ir.tensor(np.ones((3, ROWS), np.float32))
    save(made, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in proto.graph.initializer}
    assert [int(places[name]["offset"]) for name in "abc"] == [0, 4096, 4096 + 3600 + 48]
    assert (tmp_path / "m.onnx.data").stat().st_size == 4096 + 3600 + 48 + 1200


@pytest.mark.parametrize("linked", [False, True])
def test_the_input_is_never_overwritten(tmp_path: Path, place: str, linked: bool) -> None:
    source, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    save(model(), source)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    loaded = load(source).clone()  # a clone remembers too
    if place == "inline":
        target = out if linked else source
        if linked:
            os.link(source, out)
    else:
        target = out
        (tmp_path / "out.onnx.data").symlink_to("m.onnx.data")
    with pytest.raises(UserError, match="is a file of the model that is read here"):
        save(loaded, target)
    assert {file: file.read_bytes() for file in before} == before
    assert not list(tmp_path.glob("*.part"))


def test_other_files_are_replaced(tmp_path: Path, place: str) -> None:
    out = tmp_path / "out.onnx"
    save(model(), out)
    save(model("ab"), out)
    assert [t.name for t in contents(out).graph.initializer] == ["a", "b"]


class Failing(ir.LazyTensor):
    def __init__(self) -> None:
        super().__init__(self.fail, ir.DataType.FLOAT, ir.Shape([ROWS]), name="w")

    def fail(self) -> ir.TensorProtocol:
        raise OSError(28, "No space left on device")


def test_a_failed_write_leaves_nothing(tmp_path: Path, place: str) -> None:
    broken = model("vw")
    tensor = Failing()
    kept = broken.graph.initializers["v"].const_value
    broken.graph.initializers["w"].const_value = tensor
    with pytest.raises(OSError, match="No space left"):
        save(broken, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
    assert broken.graph.initializers["w"].const_value is tensor
    assert broken.graph.initializers["v"].const_value is kept
    with pytest.raises(FileNotFoundError):
        save(model(), tmp_path / "missing" / "m.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(IsADirectoryError):
        save(model(), tmp_path / "folder.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["folder.onnx"]


def test_a_failed_write_keeps_what_was_there(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.onnx"
    save(model(), path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    broken = model("vw")
    broken.graph.initializers["w"].const_value = Failing()
    with pytest.raises(OSError, match="No space left"):
        save(broken, path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_tensor_that_lies_about_its_size(tmp_path: Path, place: str) -> None:
    broken = model()
    broken.graph.initializers["w"].const_value = ir.LazyTensor(
        lambda: ir.tensor(np.ones(7, np.float32)), ir.DataType.FLOAT, ir.Shape([ROWS]), name="w"
    )
    with pytest.raises(ValueError, match="tensor 'w' gave 28 bytes instead of 1200"):
        save(broken, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_external_data_that_shrank(tmp_path: Path, place: str) -> None:
    (tmp_path / "in").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_save, "EXTERNAL_FROM", 0)
        save(model(), tmp_path / "in" / "m.onnx")
    loaded = load(tmp_path / "in" / "m.onnx")
    (tmp_path / "in" / "m.onnx.data").write_bytes(b"short")
    with pytest.raises(UserError, match="ends before tensor 'w' does"):
        save(loaded, tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def test_attributes_that_only_the_model_file_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_save, "EXTERNAL_FROM", 0)
    monkeypatch.setattr(onnx_save, "_PROTOBUF", 1000)
    values = ", ".join("1" for _ in range(ROWS))
    proto = parsed(
        f'<ir_version: 9, opset_import: ["" : 20, "d" : 1]> g () => (float[{ROWS}] y) '
        f"{{ y = d.Own <table = float[{ROWS}] {{{values}}}> () }}"
    )
    with pytest.raises(UserError, match="1200 bytes stand in functions and attributes"):
        save(ir.from_proto(proto), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_names_and_properties_of_tensors_stay(tmp_path: Path, place: str) -> None:
    """A tensor that two values share keeps its own name; properties are written once."""
    made = model("ab")
    shared = made.graph.initializers["a"].const_value
    assert shared is not None
    shared.metadata_props["origin"] = "here"
    made.graph.initializers["b"].const_value = shared
    save(made, tmp_path / "m.onnx")
    assert shared.name == "a"
    first, second = contents(tmp_path / "m.onnx").graph.initializer
    assert [t.name for t in (first, second)] == ["a", "b"]
    assert first.raw_data == second.raw_data
    assert [(p.key, p.value) for p in first.metadata_props] == [("origin", "here")]


_STREAM = """
import resource, sys
from pathlib import Path
import numpy as np
import onnx_ir as ir
from ampconvert.frontends import onnx_save
from ampconvert.frontends.onnx_load import load, numbers

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

source, out, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
onnx_save.EXTERNAL_FROM = limit
before = peak()
model = load(source)
loaded = peak() - before
for value in model.graph.initializers.values():
    tensor = value.const_value
    value.const_value = ir.LazyTensor(
        lambda t=tensor: ir.Tensor(numbers(t).astype(np.float16)), ir.DataType.FLOAT16,
        tensor.shape, name=tensor.name,
    )
    value.type = ir.TensorType(ir.DataType.FLOAT16)
onnx_save.save(model, out)
print(loaded, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("inline", [False, True])
def test_memory_does_not_grow_with_the_model(tmp_path: Path, inline: bool) -> None:
    """600 MB of weights in tensors of 20 MB: a few of those are all that is ever held."""
    tensors, rows = 30, 5 << 20
    proto = parsed(HEAD + "g (int64[1] i) => (int64[1] y) { y = Identity(i) }")
    for i in range(tensors):
        proto.graph.initializer.add(name=f"w{i}", data_type=TensorProto.FLOAT, dims=[rows])
    source = tmp_path / "in.onnx"
    if inline:
        held = {t.name: Zeros(rows) for t in proto.graph.initializer}
        with source.open("wb") as file:
            onnx_wire.write_with_weights(file, proto, held, lambda t, f: f.seek(t.nbytes, 1))  # type: ignore[arg-type]
            file.truncate()
    else:
        data = tmp_path / "w.bin"
        data.touch()
        os.truncate(data, tensors * rows * 4)
        for i, tensor in enumerate(proto.graph.initializer):
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "w.bin"), ("offset", i * rows * 4)):
                tensor.external_data.add(key=key, value=str(value))
        written(source, proto)
    command = [
        sys.executable,
        "-c",
        _STREAM,
        source,
        tmp_path / "out.onnx",
        str(1 << 30 if inline else 0),
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert run.returncode == 0, run.stderr
    loaded, saved = map(int, run.stdout.split())
    assert loaded < 50, "megabytes to load"
    assert saved < 150, "megabytes to save"


class Zeros:
    def __init__(self, rows: int) -> None:
        self.nbytes = 4 * rows
