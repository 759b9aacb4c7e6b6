"""Reading ONNX: the scope tree as one graph, and what the schemas say of types."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from ampconvert.frontends.onnx import read
from ampconvert.frontends.onnx_schema import signature
from ampconvert.frontends.onnx_scopes import PHI
from ampconvert.graph import Graph, Node

IF = """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1, 2}> {
    [choose] y = If(c) <
        then_branch = t () => (float[2] o) <float[2] w = {3, 4}> { [m] o = Mul(x, w) },
        else_branch = e () => (float[2] o) { [a] o = Abs(x) }>
}"""
LOOP = """g (int64 n, bool c, float[2] x) => (float[2] y, float[k, 2] z) {
    [turns] y, z = Loop(n, c, x) <body = b (int64 i, bool d, float[2] s)
        => (bool e, float[2] t, float[2] u) { e = Identity(d) [grow] t = Add(s, x) u = Neg(t) }>
}"""
SCAN = """g (float[2] s, float[3, 2] x) => (float[2] y, float[3, 2] z) {
    [scan] y, z = Scan<num_scan_inputs = 1, body = b (float[2] a, float[2] b)
        => (float[2] c, float[2] d) { c = Add(a, b) d = Relu(c) }>(s, x)
}"""
SEQUENCE = """g (float[4] x, int64 i) => (float[2] y) {
    [split] s = SplitToSequence(x) [at] y = SequenceAt(s, i)
}"""


def graph(text: str, opset: int = 18, low: str = "float16") -> Graph:
    header = f'<ir_version: 9, opset_import: ["" : {opset}, "my.own" : 1, "com.microsoft" : 1]>'
    model = ir.from_proto(onnx.parser.parse_model(header + text))
    return read(model, low)  # type: ignore[arg-type]


def named(found: Graph, name: str) -> Node:
    return next(node for node in found.nodes if node.name == name)


def test_branches_meet_in_a_phi() -> None:
    found = graph(IF)
    phi = named(found, "choose.out0")
    assert (phi.op, phi.inputs, phi.outputs) == (PHI, ("o", "choose.else_branch/o"), ("y",))
    assert named(found, "choose").inputs == ("c",)
    assert named(found, "m").scope == "choose.then_branch"


def test_one_name_in_two_scopes_is_two_values() -> None:
    found = graph(IF)
    assert named(found, "m").inputs == ("x", "choose.then_branch/w")
    assert {n for n, v in found.values.items() if v.kind == "weight"} == {
        "w", "choose.then_branch/w",
    }  # fmt: skip


def test_a_loops_state_is_tied_and_what_it_collects_is_not() -> None:
    found = graph(LOOP)
    assert found.ties == (("turns.in0", "turns.out0"),)
    assert named(found, "turns.in0").inputs == ("x",)
    assert named(found, "turns.in0").outputs == ("s",)
    assert named(found, "turns.out1").outputs == ("z",)
    assert named(found, "grow").inputs == ("s", "x")


def test_a_scan_has_states_and_slices() -> None:
    found = graph(SCAN)
    assert found.ties == (("scan.in0", "scan.out0"),)
    assert named(found, "scan.in1").outputs == ("b",)


def test_all_that_touch_a_sequence_are_tied() -> None:
    assert graph(SEQUENCE).ties == (("split", "at"),)


def test_a_sequence_of_the_interface_stays() -> None:
    found = graph("g (float[4] x) => (seq(float[2]) y) { [split] y = SplitToSequence(x) }")
    assert "input or output of the model" in named(found, "split").bound


def test_constants_are_weights() -> None:
    found = graph(
        "g (float[2] x) => (float[2] y) { c = Constant<value_float = 2.5>() y = Mul(x, c) }"
    )
    assert [node.op for node in found.nodes] == ["onnx::Mul"]
    loaded = found.values["c"].const
    assert loaded is not None
    assert loaded() == 2.5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("g (float[2] x) => (float[2] y) { [n] y = my.own.Thing(x) }", "No schema"),
        ("g (float a, float b, float c) => (float[k] y) { [n] y = Range(a, b, c) }", "opset 18"),
        ("g (float[2] x) => (float16[2] y) { [n] y = Cast<to = 10>(x) }", "itself casts"),
        ("g (seq(float[2]) x) => (seq(float[2]) y) { [n] y = SequenceMap(x)"
         " <body = b (float[2] s) => (float[2] t) { t = Neg(s) }> }", "input or output"),
    ],
)  # fmt: skip
def test_what_cannot_change_its_type_says_why(text: str, why: str) -> None:
    assert why in named(graph(text), "n").bound


def test_scopes_come_from_what_torch_writes() -> None:
    found = graph('g (float[2] x) => (float[2] y) { ["/encoder/layer.0/Relu"] y = Relu(x) }')
    assert found.nodes[0].scope == "encoder.layer.0"


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "outputs", "low", "fixed_inputs", "fixed_outputs"),
    [
        ("Resize", 13, 4, 1, "float16", (2, 3), ()),
        ("Resize", 19, 3, 1, "bfloat16", (1, 2), ()),
        ("TopK", 11, 2, 2, "float16", (1,), (1,)),
        ("Max", 13, 3, 1, "float16", (), ()),
        ("CumSum", 14, 2, 1, "float16", (1,), ()),
        ("QuantizeLinear", 13, 3, 1, "float16", (0, 1, 2), (0,)),
        ("QuantizeLinear", 19, 2, 1, "float16", (), (0,)),
        ("LayerNormalization", 17, 3, 3, "bfloat16", (), (1, 2)),
        ("Conv", 11, 2, 1, "bfloat16", (0, 1), (0,)),
        ("Conv", 22, 2, 1, "bfloat16", (), ()),
        ("ConstantOfShape", 9, 1, 1, "float16", (0,), ()),
    ],
)  # fmt: skip
def test_legality_is_the_schemas(
    op: str, opset: int, inputs: int, outputs: int, low: str, fixed_inputs: tuple[int, ...],
    fixed_outputs: tuple[int, ...],
) -> None:  # fmt: skip
    found = signature("", op, opset, inputs, outputs, low)  # type: ignore[arg-type]
    assert found is not None
    assert (found.fixed_inputs, found.fixed_outputs) == (fixed_inputs, fixed_outputs)


def test_operands_of_one_type_variable_are_coupled() -> None:
    old, new = (signature("", "BatchNormalization", v, 5, 1, "float16") for v in (9, 15))
    assert old is not None and new is not None
    assert old.input_types == ("T",) * 5
    assert new.input_types == ("T", "T1", "T1", "T2", "T2")
