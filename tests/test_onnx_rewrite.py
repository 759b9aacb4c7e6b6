"""What a plan does to an ONNX model in particular places: casts, weights, reasons, notes.

Also that the checks of tests/onnx_judge.py see each kind of damage that they look for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ampconvert.classify import classify
from ampconvert.cost import load_target
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.frontends.onnx import read
from ampconvert.frontends.onnx_apply import apply
from ampconvert.pipeline_onnx import convert as convert_model
from ampconvert.plan import make_plan
from ampconvert.rules import LOWS, OpRule, RuleBook, load
from ampconvert.verify.runtimes import session
from tests.onnx_cases import load_all, numbers, parsed
from tests.onnx_judge import (
    PLANS,
    Converted,
    answers,
    complaints,
    convert,
    inlined,
    params,
    plain,
    reference,
)

CASES = load_all()
DENY_ALL = OpRule("nothing", dict.fromkeys(LOWS, "deny"), "test", nodes=("*",), user=True)
FLOAT = ir.DataType.FLOAT


def done(name: str, low: Low = "float16", kind: str = "rules") -> Converted:
    return convert(CASES[name], low, kind)


def node(model: ir.Model, name: str) -> ir.Node:
    (found,) = (n for n in model.graph.all_nodes() if n.name == name)
    return found


def weight(model: ir.Model, name: str) -> np.ndarray:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    return value.const_value.numpy()


@pytest.mark.parametrize("name", params(CASES))
def test_a_model_with_every_node_denied_is_left_as_it_is(name: str) -> None:
    found = convert(CASES[name], "float16", rules=[DENY_ALL])
    assert not found.plan.casts
    assert plain(found.proto) == plain(found.given)


def test_denied_neighbours_exchange_float32_without_a_cast() -> None:
    found = done("adjacent_denied")
    log = node(found.result, "sink")
    assert log.inputs[0] is not None and log.inputs[0].producer() is node(found.result, "exp")
    assert node(found.result, "exp").outputs[0].dtype == FLOAT


def test_readers_of_one_type_share_one_cast() -> None:
    found = done("fan_out", kind="pinned")
    first, second = (node(found.result, name).inputs[0] for name in ("exp", "exp2"))
    assert first is second and first is not None
    maker = first.producer()
    assert maker is not None and maker.op_type == "Cast"


def test_a_shared_weight_is_rounded_for_its_low_reader_only() -> None:
    found = done("shared_initialiser")
    exact = found.given.graph.initializer[0]
    kept = node(found.result, "exp").inputs[0]
    rounded = node(found.result, "mm").inputs[1]
    assert kept is not None and kept.name == "w" and kept.dtype == FLOAT
    assert np.array_equal(weight(found.result, "w"), onnx.numpy_helper.to_array(exact))
    assert rounded is not None and rounded.const_value is not None
    held = rounded.const_value.numpy()
    assert np.array_equal(held, weight(found.result, "w").astype(np.float16))


@pytest.mark.parametrize("name", ["custom_domain", "custom_domain_untyped"])
@pytest.mark.parametrize("kind", ["rules", "pinned", "forced"])
def test_an_unknown_operator_reads_and_makes_what_it_did(name: str, kind: str) -> None:
    found = done(name, kind=kind)
    before, after = (node(m, "custom") for m in (found.source, found.result))
    assert [v and v.dtype for v in after.inputs] == [v and v.dtype for v in before.inputs]
    assert [v.dtype for v in after.outputs] == [v.dtype for v in before.outputs]
    assert after.attributes == before.attributes
    if kind == "rules":
        assert found.plan.decisions["custom"].unknown


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("name", ["qdq_opset_13", "qdq_opset_19", "qdq_opset_21"])
def test_scales_stay_float32_by_the_rules(name: str, low: Low) -> None:
    found = done(name, low)
    assert weight(found.result, "s").dtype == np.float32
    if name == "qdq_opset_13":  # and by law where no other type is legal
        assert weight(done(name, low, "forced").result, "s").dtype == np.float32


HELD: Mapping[Low, np.dtype] = {"float16": np.dtype("f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("name", ["weights_20000", "weights_subnormal", "cast_chain"])
def test_weights_are_rounded_to_nearest_and_no_further(name: str, low: Low) -> None:
    found = done(name, low)
    exact = weight(found.source, "w")
    held = weight(found.result, "w")
    assert held.dtype == HELD[low]
    wide = held.astype(np.float32)
    assert np.array_equal(wide, exact.astype(HELD[low]).astype(np.float32))
    assert np.array_equal(np.signbit(wide), np.signbit(exact))
    # A value that is lost is lost: it is not pushed up to the smallest number that there is.
    lost = np.abs(exact) < (2.0**-25 if low == "float16" else 2.0**-134)
    assert not wide[lost].any()
    assert lost.any() == (name == "weights_subnormal" and low == "float16")


def test_a_weight_beyond_the_range_keeps_its_reader_and_its_numbers() -> None:
    found = done("weights_1e6")
    decision = found.plan.decisions["mm"]
    assert (decision.cls, decision.rule, decision.figure) == ("deny", "weight-range", 1e6)
    assert np.array_equal(weight(found.result, "w"), weight(found.source, "w"))
    assert done("weights_1e6", "bfloat16").plan.compute["mm"] == "bfloat16"


def test_the_same_holds_for_a_constant_node() -> None:
    found = done("constant_1e6")
    assert found.plan.decisions["mul"].rule == "weight-range"
    (held,) = (n for n in found.result.graph if n.op_type == "Constant")
    assert list(held.attributes["value_floats"].as_floats()) == [1e6, 0.25]


@pytest.mark.parametrize("kind", ["rules", "pinned"])
def test_infinite_weights_stay_infinite_and_deny_nothing(kind: str) -> None:
    found = done("weights_infinite", kind=kind)
    assert np.isneginf(weight(found.result, "ninf"))
    assert {"mm", "mm2"} <= {n for n, t in found.plan.compute.items() if t == "float16"}
    assert found.plan.count("deny") == 0


def test_a_mask_of_huge_numbers_is_limited_when_it_is_cast() -> None:
    found = done("mask_is_input", kind="pinned")
    (cast,) = (c for c in found.plan.casts if c.clamp)
    assert cast.value == "mask"
    assert np.isfinite(np.concatenate(answers(found.emulated, found.case.feeds)[0])).all()


def test_notes_on_the_model_are_kept() -> None:
    found = done("metadata")
    before, after = found.given, found.proto
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(after, name) == getattr(before, name)
    assert after.graph.doc_string == before.graph.doc_string
    assert notes(before).items() <= notes(after).items()
    assert notes(before.graph).items() <= notes(after.graph).items()


NOTED = ("node", "input", "output", "value_info", "initializer")


@pytest.mark.parametrize("part", params(NOTED))
def test_notes_of_every_kind_are_kept(part: str) -> None:
    found = done("metadata")
    after = {owner.name: owner for owner in getattr(found.proto.graph, part)}
    before = getattr(found.case.model.graph, part)
    assert all(owner.doc_string and notes(owner) for owner in before)
    for owner in before:
        assert after[owner.name].doc_string == owner.doc_string
        assert notes(owner).items() <= notes(after[owner.name]).items()


def notes(owner: onnx.NodeProto | onnx.GraphProto | onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in owner.metadata_props}


@pytest.mark.parametrize("kind", params(PLANS))
def test_a_default_that_the_caller_may_replace_stays_float32(kind: str) -> None:
    found = done("input_with_default", kind=kind)
    assert weight(found.result, "scale").dtype == np.float32
    assert np.array_equal(weight(found.result, "scale"), weight(found.source, "scale"))


def test_one_conversion_leaves_no_trace_in_the_next() -> None:
    first = done("resize_constant_scales").proto
    for name in ("weights_1e6", "loop_scan_outputs", "qdq_opset_13"):
        done(name, kind="forced")
    assert done("resize_constant_scales").proto == first


@pytest.mark.parametrize(("name", "low"), params(CASES, LOWS))
def test_inputs_and_outputs_can_be_low_outside(name: str, low: Low) -> None:
    """Every float32 tensor of the interface that has no default is low on the outside as well."""
    found = CASES[name]
    source = inlined(found.model)
    if low == "bfloat16" and source.opset_imports[""] < 13:
        pytest.skip("no operator of this opset takes bfloat16")
    graph = read(source, low)
    ends = (*source.graph.inputs, *source.graph.outputs)
    tensors = [v for v in ends if v.dtype == FLOAT and isinstance(v.type, ir.TensorType)]
    free = [v.name for v in tensors if v.name and v.name not in source.graph.initializers]
    verdicts = classify(graph, RuleBook(load()), low)
    plan = make_plan(graph, verdicts, low, load_target(), io=frozenset(free))
    result = apply(source, plan)
    after = {v.name: v for v in (*result.graph.inputs, *result.graph.outputs)}
    assert {after[name].dtype for name in free} <= {ir.DataType[low.upper()]}
    assert [v.name for v in result.graph.outputs] == [v.name for v in source.graph.outputs]
    if not found.valid:
        onnx.checker.check_model(ir.to_proto(result), full_check=True)
    if not found.runs and low == "float16":
        with session(result):
            pass


NAN = "g (float[2] x) => (float[2] y) <float[2] w = {0.1, nan}> { [add] y = Add(x, w) }"


def test_a_weight_that_is_no_number_is_reported() -> None:
    with pytest.raises(UserError, match="the weight w"):
        convert_model(parsed(NAN), [{"x": numbers(2)}])
    found = convert_model(parsed(NAN), verify=False)
    assert "The weight w holds NaN." in found.analysis.notes
    assert np.isnan(onnx.numpy_helper.to_array(ir.to_proto(found.onnx).graph.initializer[0])[1])


def test_data_that_is_no_number_is_an_error() -> None:
    feed = {"x": np.array([1.0, np.nan], np.float32)}
    with pytest.raises(UserError, match="NaN"):
        convert_model(parsed(NAN.replace("nan", "0.2")), [feed])


def sparse_constant() -> onnx.ModelProto:
    model = parsed("g (float[2, 2] x) => (float[2, 2] y) { [sparse] c = Constant() y = Mul(x, c) }")
    values = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, (2,), (0.1, 0.7))
    places = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, (2,), (0, 3))
    sparse = onnx.helper.make_sparse_tensor(values, places, (2, 2))
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("sparse_value", sparse))
    return model


def output_of_maps() -> onnx.ModelProto:
    text = """<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 3]>
    g (float[2, 2] x) => (seq(map(int64, float)) maps) {
        [zip] maps = ai.onnx.ml.ZipMap<classlabels_int64s = [0, 1]>(x)
    }"""
    return onnx.parser.parse_model(text)


SOURCES = ("file", "proto")


@pytest.mark.parametrize(("kind", "what"), params(SOURCES, ("sparse", "maps")))
def test_what_cannot_be_held_is_refused_with_a_message(
    kind: str, what: str, tmp_path: Path
) -> None:
    model = {"sparse": sparse_constant, "maps": output_of_maps}[what]()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="not supported"):
        convert_model(model if kind == "proto" else tmp_path / "m.onnx", [{"x": numbers(2, 2)}])


def _rename_node(model: ir.Model) -> None:
    node(model, "mm").name = "other"


def _add_node(model: ir.Model) -> None:
    exp = node(model, "exp")
    value = exp.inputs[0]
    twin = ir.Node("", "Identity", [value], name="twin")
    twin.outputs[0].name, twin.outputs[0].type = "twin", value.type if value else None
    model.graph.insert_before(exp, twin)
    exp.replace_input_with(0, twin.outputs[0])


def _drop_cast(model: ir.Model) -> None:
    cast = next(n for n in model.graph if n.op_type == "Cast")
    assert cast.inputs[0] is not None
    cast.outputs[0].replace_all_uses_with(cast.inputs[0])


def _low_output(model: ir.Model) -> None:
    model.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)


def _drop_spare(model: ir.Model) -> None:
    model.graph.initializers.pop("spare")


def _clamp_weight(model: ir.Model) -> None:
    value = model.graph.initializers["w"]
    value.const_value = ir.Tensor(np.clip(weight(model, "w"), -1e4, 1e4))


def _second_cast(model: ir.Model) -> None:
    cast = next(n for n in model.graph if n.op_type == "Cast")
    twin = ir.Node("", "Cast", cast.inputs, cast.attributes.values(), name="twin")
    twin.outputs[0].name, twin.outputs[0].type = "twin", cast.outputs[0].type
    model.graph.insert_after(cast, twin)


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("unsorted_value_info", _rename_node, "nodes: lost"),
        ("unsorted_value_info", _add_node, "nodes: "),
        ("unsorted_value_info", _drop_cast, "valid: "),
        ("unsorted_value_info", _drop_cast, "loads: "),
        ("unsorted_value_info", _low_output, "interface: "),
        ("unsorted_value_info", _second_cast, "one cast each: "),
        ("unread_initialisers", _drop_spare, "loose weights: "),
        ("weights_20000", _clamp_weight, "numbers: "),
    ],
)
def test_the_judge_sees_damage(
    name: str, damage: Callable[[ir.Model], None], complaint: str
) -> None:
    found = done(name)
    assert complaints(found) == []
    harmed = apply(found.source, found.plan)
    damage(harmed)
    assert any(c.startswith(complaint) for c in complaints(_with(found, harmed)))


def _with(found: Converted, result: ir.Model) -> Converted:
    return replace(found, result=result, proto=ir.to_proto(result))


def test_the_judge_sees_a_changed_source_a_missed_verdict_and_a_second_change() -> None:
    found = done("unsorted_value_info")
    assert "untouched" in complaints(replace(found, before=b""))[0]
    missed = replace(found, case=replace(found.case, low=("exp",)))
    assert complaints(missed)[0].startswith("classes: exp runs in float32")
    unfinished = _with(found, found.source.clone())
    assert any(c.startswith("once is enough") for c in complaints(unfinished))


def test_the_reference_is_the_float32_model() -> None:
    found = CASES["up_and_down"]
    (answer,) = reference(found)
    assert np.array_equal(answer[0], found.feeds[0]["x"])
