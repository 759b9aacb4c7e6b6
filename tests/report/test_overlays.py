"""What viewers get: metadata on the right nodes, answers that stay, ids as viewers have them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from ampconvert.frontends import onnx_save
from ampconvert.frontends.onnx_load import load
from ampconvert.report.overlays import By, annotate, model_explorer
from ampconvert.report.overlays_nodes import described, explorer_ids
from tests.report import reports
from tests.report.reports import REPORTS
from tests.text_graphs import model_of_text

BYS: tuple[By, ...] = ("precision", "error", "flops")
CONVERTED = ("onnx", "onnx branches", "onnx repaired", "torch")


@pytest.mark.parametrize("case", CONVERTED)
def test_every_operator_is_annotated(case: str) -> None:
    data = REPORTS[case]()
    model = load(reports.written(data, "onnx"))
    count = annotate(model, data)
    noted = noted_in(model)
    floats = {
        node["node"] for node in data["nodes"] if node["runs_in"] and "::phi" not in node["op"]
    }
    assert {props["ampconvert.node"] for props in noted if "ampconvert.node" in props} >= floats
    assert count == sum("ampconvert.node" in props for props in noted) >= len(floats)
    entries = {node["node"]: node for node in data["nodes"]}
    for props in noted:
        if "ampconvert.node" in props:
            entry = entries[props["ampconvert.node"]]
            assert props["ampconvert.precision"] == (entry["runs_in"] or "unchanged")
            assert props["ampconvert.verdict"] == entry["verdict"]
            assert props["ampconvert.reason"] == entry["reason"]
        else:
            assert "ampconvert.cast" in props


@pytest.mark.parametrize("case", ["onnx", "torch"])
def test_precision_is_what_the_model_has(case: str) -> None:
    """The type on a node is that of the tensor which it makes in the file."""
    data = REPORTS[case]()
    model = load(reports.written(data, "onnx"))
    annotate(model, data)
    names = {"float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}
    checked = 0
    for node in model.graph.all_nodes():
        precision = node.metadata_props.get("ampconvert.precision")
        if precision in names and node.outputs[0].dtype in names.values():
            assert node.outputs[0].dtype == names[precision], node.name
            checked += 1
    assert checked >= len(data["nodes"])


def test_results_have_their_range_and_error() -> None:
    data = REPORTS["onnx"]()
    model = load(reports.written(data, "onnx"))
    annotate(model, data)
    product = next(node for node in model.graph if node.op_type == "MatMul")
    seen = data["nodes"][0]["seen"]["h"]
    told = product.metadata_props["ampconvert.range"]
    assert told.startswith(f"{seen['minimum']:.3g} to {seen['maximum']:.3g}, smallest magnitude ")
    value = product.outputs[0].metadata_props
    assert value["ampconvert.range"] == told
    measured = {d["value"]: d["rel_l2"] for d in data["differences"]["values"]}
    assert float(value["ampconvert.measured_error"]) == pytest.approx(measured["h"], rel=0.05)
    error = data["nodes"][0]["output_error"]
    predicted = product.metadata_props.get("ampconvert.predicted_error")
    assert (predicted is None) == (error is None)


def test_casts_say_what_they_move() -> None:
    data = REPORTS["onnx"]()
    model = load(reports.written(data, "onnx"))
    annotate(model, data)
    casts = [node.metadata_props for node in model.graph if node.op_type == "Cast"]
    assert len(casts) == len(data["casts"]) > 0
    assert {int(c["ampconvert.bytes"]) for c in casts} == {c["bytes"] for c in data["casts"]}
    assert {c["ampconvert.cast"] for c in casts} == {"float32 to float16", "float16 to float32"}
    out = model.graph.outputs[0].metadata_props  # Netron shows those of inputs and outputs only
    assert "ampconvert.range" in out


@pytest.mark.parametrize("case", CONVERTED)
@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_answers_stay_what_they_are(
    case: str, external: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = REPORTS[case]()
    source = reports.written(data, "onnx")
    if external:
        monkeypatch.setattr(onnx_save, "EXTERNAL_FROM", 8)
        monkeypatch.setattr(onnx_save, "_SMALL", 16)
    model = load(source)
    annotate(model, data)
    files = onnx_save.save(model, tmp_path / "annotated.onnx")
    assert len(files) == 1 + external
    onnx.checker.check_model(str(files[0]), full_check=True)
    before, after = answers(source), answers(files[0])
    assert before and all(np.array_equal(b, a) for b, a in zip(before, after, strict=True))
    read = noted_in(load(files[0]))
    assert read == noted_in(model)  # and all of it is in the file


def test_annotating_again_replaces_what_was_said() -> None:
    data = REPORTS["onnx"]()
    model = load(reports.written(data, "onnx"))
    annotate(model, data)
    once = noted_in(model)
    annotate(model, data)
    assert noted_in(model) == once
    bare = REPORTS["old plan"]()
    assert annotate(model, bare) == 2
    assert all("ampconvert.range" not in props for props in noted_in(model))


def test_the_model_that_was_converted_can_be_annotated() -> None:
    for case, name in (("onnx", "plain.onnx"), ("onnx branches", "branches.onnx")):
        data = REPORTS[case]()
        model = load(reports.folder() / name)
        nodes = {n.name: n for n in model.graph.all_nodes()}
        found = annotate(model, data)
        assert found == sum("::phi" not in node["op"] for node in data["nodes"])
        assert all("ampconvert.reason" in n.metadata_props for n in nodes.values() if n in
                   described(model, data))  # fmt: skip


def test_another_model_is_left_alone() -> None:
    model = ir.from_proto(model_of_text("g (float[2] x) => (float[2] y) { [last] y = Relu(x) }"))
    assert annotate(model, REPORTS["onnx"]()) == 0  # its `last` is a Softmax
    assert noted_in(model) == []
    assert model_explorer(REPORTS["onnx"](), model) == {}


@pytest.mark.slow
def test_a_model_that_torch_exported_is_found_by_its_fx_nodes(tmp_path: Path) -> None:
    """In FP32 and by torch.onnx alone, as its owner has it."""
    import torch

    from ampconvert.frontends.entry import find

    module = find(str(reports.folder() / "net.py"), None).model
    program = torch.onnx.export(module, (torch.zeros(2, 8),), dynamo=True, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "net.onnx"))
    model = load(tmp_path / "net.onnx")
    data = REPORTS["torch"]()
    annotate(model, data)
    noted = {props["ampconvert.node"] for props in noted_in(model)}
    assert noted == {node["node"] for node in data["nodes"]}


@pytest.mark.parametrize("by", BYS)
@pytest.mark.parametrize("case", CONVERTED)
def test_node_data_has_the_form_that_model_explorer_reads(case: str, by: By) -> None:
    data = REPORTS[case]()
    model = load(reports.written(data, "onnx"))
    found = model_explorer(data, model, by)
    json.dumps(found, allow_nan=False)
    ids = set(explorer_ids(model).values())
    assert found or all(node["output_error"] is None for node in data["nodes"])
    for graph, one in found.items():
        assert one.keys() <= {"name", "results", "thresholds", "hideAggregatedStats",
                              "showExpandedSummaryOnGroupNode"}  # fmt: skip
        limits = [item["value"] for item in one.get("thresholds", ())]
        assert limits == sorted(limits)
        for node, result in one["results"].items():
            assert (graph, node) in ids
            if by == "precision":
                assert result["bgColor"].startswith("#") and isinstance(result["value"], str)
            else:
                assert 0 <= result["value"] <= limits[-1]


@pytest.mark.parametrize("case", ["onnx", "torch"])
def test_flops_add_up(case: str) -> None:
    """Each operator's FLOPs stand on its nodes once, also where the exporter wrote out several."""
    data = REPORTS[case]()
    found = model_explorer(data, load(reports.written(data, "onnx")), by="flops")
    total = sum(r["value"] for one in found.values() for r in one["results"].values())
    assert total == pytest.approx(sum(node["flops"] for node in data["nodes"]))


def test_flops_of_an_operator_in_several_nodes_stand_on_the_products() -> None:
    text = """g (float[2,3,4] x, float[4,4] w, float[4] b) => (float[2,3,4] y)
        { [m] h = MatMul(x, w)  [a] y = Add(h, b) }"""
    model = ir.from_proto(model_of_text(text))
    for node in model.graph:
        node.metadata_props["ampconvert.node"] = "linear"
    data = {
        "model": {"format": "torch"},
        "nodes": [{"node": "linear", "op": "aten::linear", "outputs": ["linear"], "flops": 192.0,
                   "output_error": "Infinity", "runs_in": "float16", "class": "allow"}],
    }  # fmt: skip
    assert values(model_explorer(data, model, "flops")) == {"m": 192.0}
    assert values(model_explorer(data, model, "precision")) == {"m": "FP16", "a": "FP16"}
    error = model_explorer(data, model, "error")
    assert values(error) == {"a": "Infinity"}
    assert next(iter(error.values()))["results"]["a"]["bgColor"] == "#000000"


def test_without_a_model_the_ids_are_those_of_the_pt2_file() -> None:
    data = REPORTS["torch"]()
    found = model_explorer(data, None, "flops")
    assert found.keys() == {"graph"}
    assert found["graph"]["results"].keys() == {node["node"] for node in data["nodes"]}
    with pytest.raises(ValueError, match="not by 'colour'"):
        model_explorer(data, None, "colour")  # type: ignore[arg-type]


def test_an_old_plan_gives_precision_alone() -> None:
    data = REPORTS["old plan"]()
    model = load(reports.folder() / "plain.onnx")
    assert len(values(model_explorer(data, model))) == 2
    assert model_explorer(data, model, "error") == {} == model_explorer(data, model, "flops")


def test_names_are_told_apart_as_the_adapter_does() -> None:
    text = "g (float[2] x) => (float[2] y) { a = Relu(x)  [n] b = Relu(a)  [n] y = Relu(b) }"
    model = ir.from_proto(model_of_text(text))
    assert list(explorer_ids(model).values()) == [
        ("g", "node"), ("g", "n"), ("g", "n_1"),
    ]  # fmt: skip
    assert [node.name for node in model.graph] == ["", "n", "n"] or model.graph[0].name is None


@pytest.mark.slow
@pytest.mark.parametrize("case", CONVERTED)
def test_ids_are_those_of_model_explorer_s_adapter_for_onnx(case: str, tmp_path: Path) -> None:
    adapter = pytest.importorskip(
        "model_explorer_onnx.main", reason="model-explorer-onnx"
    ).ONNXAdapter()
    data = REPORTS[case]()
    path = reports.written(data, "onnx")
    known = {(graph.id, node.id) for graph in adapter.convert(str(path), {})["graphs"]
             for node in graph.nodes}  # fmt: skip
    model = load(path)
    assert set(explorer_ids(model).values()) <= known
    shown = {(graph, node) for graph, one in model_explorer(data, model).items()
             for node in one["results"]}  # fmt: skip
    assert shown and shown <= known


@pytest.mark.slow
def test_ids_of_unnamed_and_nested_nodes_are_those_of_the_adapter(tmp_path: Path) -> None:
    adapter = pytest.importorskip(
        "model_explorer_onnx.main", reason="model-explorer-onnx"
    ).ONNXAdapter()
    text = """g (bool c, bool d, int64 n, float[2] x) => (float[2] y) {
        a = Relu(x)  [n] b = Relu(a)  [n] e = Relu(b)
        [outer] z = If (c) <
          then_branch = t () => (float[2] u) {
            [inner] u = If (d) < then_branch = tt () => (float[2] p) { p = Relu(e) },
                                 else_branch = te () => (float[2] q) { [n] q = Abs(e) }>
          },
          else_branch = f () => (float[2] v) {
            [turn] v = Loop (n, c, e) <body = b (int64 i, bool go, float[2] s)
              => (bool on, float[2] r) { on = Identity(go)  [n] r = Add(s, s) }> }>
        y = Neg(z) }"""
    path = tmp_path / "nested.onnx"
    onnx.save(model_of_text(text), path)
    known = {(graph.id, node.id) for graph in adapter.convert(str(path), {})["graphs"]
             for node in graph.nodes}  # fmt: skip
    ids = set(explorer_ids(load(path)).values())
    assert len(ids) == 11 and ids <= known


@pytest.mark.slow
def test_ids_are_those_of_model_explorer_s_adapter_for_pt2() -> None:
    impl = pytest.importorskip("model_explorer.pytorch_exported_program_adapter_impl")
    import torch

    data = reports.conversion("net.py", "--static")  # it can't show dynamic dimensions (0.1.34)
    program = torch.export.load(reports.written(data, "pt2"))
    settings = {"const_element_count_limit": 16}
    graph = impl.PytorchExportedProgramAdapterImpl(program, settings).convert()["graphs"][0]
    found = model_explorer(data, None)
    assert found.keys() == {graph.id}
    assert found["graph"]["results"].keys() <= {node.id for node in graph.nodes}


def noted_in(model: ir.Model) -> list[dict[str, str]]:
    """What ampconvert says on each node, where it says anything."""
    noted = [
        {key: text for key, text in node.metadata_props.items() if key.startswith("ampconvert.")}
        for node in model.graph.all_nodes()
    ]
    return [props for props in noted if props]


def values(found: dict[str, Any]) -> dict[str, Any]:
    return {name: r["value"] for one in found.values() for name, r in one["results"].items()}


def answers(path: Path) -> list[np.ndarray[Any, Any]]:
    """What ONNX Runtime answers to the same random inputs, NaN nowhere."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    feeds: dict[str, Any] = {}
    for given in session.get_inputs():
        shape = [d if isinstance(d, int) else 2 for d in given.shape]
        kinds = {"tensor(bool)": np.array(True), "tensor(int64)": np.array(2)}
        feeds[given.name] = kinds.get(given.type, rng.standard_normal(shape, np.float32))
    found: list[np.ndarray[Any, Any]] = session.run(None, feeds)
    assert all(math.isfinite(float(np.abs(one).max())) for one in found)
    return found
