"""Loading ONNX files: weights stay on disk, and every kind of damage has one clear message."""

from __future__ import annotations

import gc
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ampconvert.errors import UserError
from ampconvert.frontends import onnx_load, onnx_wire
from ampconvert.frontends.onnx_load import load, numbers
from tests.onnx_damage import HEAD, SEEDS, external_seed, message, mutated, parsed, written

RELU = HEAD + "g (float[4] x) => (float[4] y) { [a] t = Relu(x) [b] y = Add(t, x) }"
WEIGHT = HEAD + "g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { [a] y = Add(x, w) }"


@pytest.mark.parametrize("name", sorted(SEEDS))
def test_sound_models_load_as_onnx_ir_loads_them(tmp_path: Path, name: str) -> None:
    proto = SEEDS[name]
    model = load(written(tmp_path / "m.onnx", proto))
    assert ir.to_proto(model) == ir.to_proto(ir.from_proto(proto))


def test_large_weights_stay_in_a_large_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_load, "_READ_WHOLE", 0)
    proto = parsed(HEAD + "g (float[300] x) => (float[300] y) { y = Mul(x, w) }")
    weight = np.arange(40_000, dtype=np.float32)[:300]
    big = np.arange(20_000, dtype=np.float32)
    for name, array in (("w", weight), ("big", big)):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    path = written(tmp_path / "m.onnx", proto)
    model = load(path)
    small, large = (v.const_value for v in model.graph.initializers.values())
    assert not isinstance(small, ir.ExternalTensor)
    assert isinstance(large, ir.ExternalTensor)
    assert Path(large.path) == path
    assert numbers(large).tolist() == big.tolist()
    assert len(onnx_wire.without_weights(path, path.stat().st_size)) < 2000 < big.nbytes


def test_a_cut_large_file_is_refused_at_every_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_load, "_READ_WHOLE", 0)
    monkeypatch.setattr(onnx_wire, "LARGE", 8)
    whole = parsed(WEIGHT)
    whole.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(4, np.float32), "w"))
    data = whole.SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        message(path)
    path.write_bytes(data)
    assert isinstance(load(path).graph.initializers["w"].const_value, ir.ExternalTensor)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no such file"),
        (b"", "the file is empty"),
        (b"hello, this is no model", "not a readable ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"PK\x03\x04\x14\x00", "ZIP archive"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x08\x09", "not a readable ONNX model"),  # an IR version and nothing else
    ],
)
def test_files_that_are_no_model(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    assert expected in message(path)


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    assert "is a folder" in message(tmp_path)


def test_a_model_cut_short_is_refused_at_every_length(tmp_path: Path) -> None:
    data = parsed(WEIGHT).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        message(path)


GRAPHS = {
    "a wrong type": (
        "g (float[4] x, int32[4] z) => (float[4] y) { t = Relu(x) [bad] y = Add(t, z) }",
        "node 'bad' (Add): B has inconsistent type tensor(int32)",
    ),
    "a wrong type at a node without a name": (
        "g (float[4] x, int32[4] z) => (float[4] y) { y = Add(x, z) }",
        "the Add that makes 'y': B has inconsistent type",
    ),
    "a wrong type in a body": (
        "g (bool c, float[4] x) => (float[4] y) { y = If (c) <"
        "then_branch = t () => (float[4] a) { [inner] a = Add(x, c) }, "
        "else_branch = e () => (float[4] b) { b = Neg(x) }> }",
        "node 'inner' (Add)",
    ),
    "an output of another type": (
        "g (float[4] x) => (int32[4] y) { [a] y = Relu(x) }",
        "node 'a' (Relu)",
    ),
    "shapes that don't fit": (
        "g (float[4,3] x) => (float[4,4] y) { [mm] y = MatMul(x, x) }",
        "node 'mm' (MatMul): Incompatible dimensions",
    ),
    "an unknown operator": (
        "g (float[4] x) => (float[4] y) { [a] y = Rdlu(x) }",
        "node 'a' (Rdlu): ONNX opset 20 has no operator Rdlu",
    ),
    "an unknown attribute": (
        "g (float[4] x) => (float[4] y) { [a] y = Relu <foo = 1> (x) }",
        "node 'a' (Relu): Unrecognized attribute: foo",
    ),
    "too many operands": (
        "g (float[4] x) => (float[4] y) { [a] y = Relu(x, x) }",
        "node 'a' (Relu): ",
    ),
    "a cycle": (
        "g (float[4] x) => (float[4] y) { [a] t = Add(x, u) [b] u = Relu(t) [c] y = Neg(u) }",
        "run in a circle, each waiting for the next: node 'a' (Add) -> node 'b' (Relu)",
    ),
    "a cycle through a body": (
        "g (bool c, float[4] x) => (float[4] y) { [a] y = If (c) <"
        "then_branch = t () => (float[4] p) { p = Add(x, u) }, "
        "else_branch = e () => (float[4] q) { q = Neg(x) }> [b] u = Relu(y) }",
        "node 'a' (If) -> node 'b' (Relu)",
    ),
    "an undefined value": (
        "g (float[4] x) => (float[4] y) { [a] y = Add(x, nowhere) }",
        "node 'a' (Add) reads 'nowhere'",
    ),
    "a value made twice": (
        "g (float[4] x) => (float[4] y) { [a] y = Relu(x) [b] y = Neg(x) }",
        "node 'b' (Neg) makes the value 'y', which node 'a' (Relu) gives already",
    ),
    "an input made again": (
        "g (float[4] x) => (float[4] y) { y = Relu(x) [b] x = Neg(y) }",
        "node 'b' (Neg) makes the value 'x', which an input or weight gives already",
    ),
    "an output that nothing makes": (
        "g (float[4] x) => (float[4] y) { t = Relu(x) }",
        "the output 'y' of the graph is made by no node",
    ),
    "a branch that gives back an outer value": (
        "g (bool c, float[4] x) => (float[4] y) { [i] y = If (c) <"
        "then_branch = t () => (float[4] x) { p = Neg(x) }, "
        "else_branch = e () => (float[4] q) { q = Neg(x) }> }",
        "the body 't' of node 'i' (If) gives back 'x'",
    ),
    "an axis that would end onnx's process": (
        "g (float[2,2] x) => (float[2,2] y) "
        "{ [g] y = GatherND <batch_dims = -2147483648> (i, i) i = Cast <to = 7> (x) }",
        "node 'g' (GatherND) has batch_dims=-2147483648",
    ),
    "a split that would end onnx's process": (
        "g (float[4] x) => (float[2] y) { [s] y, a, b, c = Split <num_outputs = 2> (x) }",
        "node 's' (Split) has num_outputs=2 and 4 outputs",
    ),
    "an equation that onnx would read for ever": (
        'g (float[2,2] x) => (float[2,2] y) { [e] y = Einsum <equation = "ij,(jk->ik"> (x, x) }',
        "node 'e' (Einsum) has an equation that can't be read",
    ),
    "a shape of too many axes": (
        "g (float x, int64[2147483647] s) => (float y) { [e] y = Expand(x, s) }",
        "node 'e' (Expand) is given a shape of 2147483647 axes",
    ),
}


@pytest.mark.parametrize("case", sorted(GRAPHS))
def test_broken_graphs_are_refused_by_node(tmp_path: Path, case: str) -> None:
    text, expected = GRAPHS[case]
    assert expected in message(written(tmp_path / "m.onnx", parsed(HEAD + text)))


def edit(**changes: object) -> Callable[[ModelProto], None]:
    def apply(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        for name, value in changes.items():
            if isinstance(value, list):
                getattr(tensor, name)[:] = value
            else:
                setattr(tensor, name, value)

    return apply


def sparse(model: ModelProto) -> None:
    tensor = model.graph.sparse_initializer.add(dims=[4])
    tensor.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))


def give_a_map(model: ModelProto) -> None:
    kind = model.graph.value_info.add(name="p").type.sequence_type.elem_type.map_type
    kind.key_type = TensorProto.INT64


def declare_weight(model: ModelProto) -> None:
    model.graph.value_info.append(helper.make_tensor_value_info("w", TensorProto.INT64, [4]))


def two_versions(model: ModelProto) -> None:
    model.opset_import.add(domain="ai.onnx", version=13)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (edit(dims=[5]), "weight 'w' holds 4 numbers, and its shape [5] needs 5"),
        (edit(dims=[2**62, 2**62]), "weight 'w' holds 4 numbers"),
        (edit(dims=[-4]), "weight 'w' has a shape that none can have"),
        (edit(dims=[4] + [1] * 70), "weight 'w' has a shape that none can have"),
        (edit(data_type=99), "weight 'w' has the element type 99"),
        (edit(data_type=TensorProto.INT64), "weight 'w' holds 0 numbers"),
        (edit(raw_data=b"123"), "weight 'w' holds 3 bytes"),
        (edit(data_type=TensorProto.STRING, raw_data=b"1"), "weight 'w' holds strings as raw"),
        (sparse, "weight 's' is stored sparse"),
        (give_a_map, "the value 'p' is a map"),
        (declare_weight, "weight 'w' has another type or shape"),
        (two_versions, "two versions of the operators of ONNX: 20 and 13"),
        (lambda m: setattr(m, "ir_version", 99), "IR version 99 is newer than the installed onnx"),
        (lambda m: setattr(m, "ir_version", 2), "IR version 2 is from before operator sets"),
        (lambda m: m.ClearField("opset_import"), "opset"),
        (lambda m: setattr(m.opset_import[0], "version", 99), "opset 99 of ONNX is newer"),
        (lambda m: m.graph.input.append(m.graph.input[0]), "two are called 'x'"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "two are called 'w'"),
        (lambda m: m.graph.input[0].ClearField("type"), "the file is damaged"),
    ],
)
def test_broken_parts_are_named(
    tmp_path: Path, change: Callable[[ModelProto], None], expected: str
) -> None:
    model = parsed(WEIGHT)
    change(model)
    assert expected in message(written(tmp_path / "m.onnx", model))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(parsed(RELU).SerializeToString().replace(b"Relu", b"Rel\xf5"))
    assert r"b'Rel\xf5' is not UTF-8" in message(path)


def test_unsorted_nodes_are_sorted(tmp_path: Path) -> None:
    text = (
        "g (bool c, float[4] x) => (float[4] z) { [last] z = Neg(y) [if] y = If (c) <"
        "then_branch = t () => (float[4] p) { p = Neg(o) o = Add(x, late) }, "
        "else_branch = e () => (float[4] q) { q = Neg(x) }> [first] late = Relu(x) }"
    )
    model = load(written(tmp_path / "m.onnx", parsed(HEAD + text)))
    assert [node.name for node in model.graph] == ["first", "if", "last"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_what_the_checker_does_not_know_loads(tmp_path: Path) -> None:
    """A custom domain, ONNX Runtime's operator in ONNX's domain, no shapes, stale shapes."""
    model = parsed(
        '<ir_version: 9, opset_import: ["ai.onnx" : 20, "my.own" : 3]>'
        "g (float[4] x, float[N] s) => (float[5] y, float[4] z)"
        "<float[7] t> { t = my.own.Foo(x) z = SimplifiedLayerNormalization(x, s) y = Relu(x) }"
    )
    model.graph.output[1].type.tensor_type.ClearField("shape")
    model.graph.input[1].type.tensor_type.ClearField("shape")
    model.graph.name = ""
    loaded = load(written(tmp_path / "m.onnx", model))
    assert loaded.opset_imports == {"": 20, "my.own": 3}
    assert [node.op_type for node in loaded.graph] == [
        *("Foo", "SimplifiedLayerNormalization", "Relu")
    ]


def test_functions_must_end(tmp_path: Path) -> None:
    head = '<ir_version: 9, opset_import: ["" : 20, "d" : 1]>'
    function = '<domain: "d", opset_import: ["" : 20, "d" : 1]>'
    calls = "g (float[4] x) => (float[4] y) { y = d.f9(x) }"
    itself = head + calls + f"{function} f9 (x) => (y) {{ y = d.f9(x) }}"
    path = written(tmp_path / "itself.onnx", parsed(itself))
    assert "function 'f9' calls itself" in message(path)
    laughs = head + calls + f"{function} f0 (x) => (y) {{ y = Relu(x) }}"
    for i in range(9):
        body = f"a = d.f{i}(x) " + "".join(
            f"{q} = d.f{i}({p}) " for p, q in itertools.pairwise("abcdefy")
        )
        laughs += f"{function} f{i + 1} (x) => (y) {{ {body} }}"
    path = written(tmp_path / "laughs.onnx", parsed(laughs))
    assert "its functions, written out where they are called" in message(path)


def test_bodies_nested_too_deep_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    data = node.SerializeToString()
    for _ in range(3000):  # the wire format by hand: protobuf itself would not write this
        data = b"\x0a" + varint(len(data)) + data  # GraphProto.node
        data = b"\x32" + varint(len(data)) + data + b"\xa0\x01\x05"  # AttributeProto.g, type GRAPH
        data = b"\x22\x02If\x2a" + varint(len(data)) + data  # NodeProto.op_type, attribute
    data = b"\x0a" + varint(len(data)) + data
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x09\x3a" + varint(len(data)) + data)
    assert "not a readable ONNX model" in message(path)


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def test_the_collector_is_left_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", parsed(RELU))
    load(path)
    assert gc.isenabled()
    gc.disable()
    try:
        load(path)
        assert not gc.isenabled()
    finally:
        gc.enable()
    path.write_bytes(parsed(RELU).SerializeToString().replace(b"Relu", b"Rulu"))
    message(path)
    assert gc.isenabled()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("large", [False, True], ids=["whole", "weights left in the file"])
def test_damage_is_refused_or_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, large: bool
) -> None:
    """What still loads after damage is a model that can be written and checked again."""
    if large:
        monkeypatch.setattr(onnx_load, "_READ_WHOLE", 0)
        monkeypatch.setattr(onnx_wire, "LARGE", 8)
    rng = random.Random(seed)
    path = tmp_path / "m.onnx"
    for model in (*SEEDS.values(), external_seed(tmp_path)):
        path.write_bytes(mutated(model, rng))
        try:
            loaded = load(path)
        except UserError as error:
            assert str(error).startswith(str(path))
        else:
            ir.to_proto(loaded)
