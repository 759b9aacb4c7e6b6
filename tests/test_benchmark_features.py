"""The feature table: every row can be run, its checks can fail, what is run is what is shown."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ampconvert.verify.runtimes import session
from benchmarks.features import __main__ as program
from benchmarks.features import checks, models, report, run
from benchmarks.features.cells import (
    Call,
    Converts,
    Documented,
    Feature,
    Found,
    FromResult,
    Lacks,
    PartlyMetError,
    Ran,
    Run,
    Section,
    UnmetError,
)

FEATURES = [f for section in program.SECTIONS for f in section.features]
KNOWN = {*models.MODELS, *models.FILES}


def test_each_feature_has_a_name_of_its_own() -> None:
    names = [feature.name for feature in FEATURES]
    assert len(names) == len(set(names)) and len(names) > 50
    assert len({run.slug(name) for name in names}) == len(names)


@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: run.slug(f.name))
def test_a_row_can_be_run(feature: Feature) -> None:
    section = next(s for s in program.SECTIONS if feature in s.features)
    assert feature.peers and set(feature.peers) <= set(section.peers)
    assert set(feature.models) <= KNOWN
    for cell in (feature.ours, *feature.peers.values()):
        if isinstance(cell, Run):
            assert len(cell.wanted) == len(cell.commands)
        if isinstance(cell, Converts):
            assert cell.model in KNOWN
        if isinstance(cell, Documented):
            assert cell.link.startswith("https://")
    if isinstance(feature.ours, Run):
        for command in feature.ours.commands:
            words = [w for w in shlex.split(command) if "=" not in w]
            assert words[0] in ("ampconvert", "python", "torchrun")
    else:
        assert isinstance(feature.ours, Call | FromResult)


def test_others_are_shown_where_they_do_more() -> None:
    lacking = [f for f in FEATURES if isinstance(f.ours, Run) and f.ours.verdict == "no"]
    assert len(lacking) >= 8


@pytest.mark.parametrize("name", models.MODELS)
def test_models_are_valid_and_finite(name: str) -> None:
    model = models.MODELS[name]()
    made = model.proto()
    onnx.checker.check_model(made, full_check=True)
    with session(made, threads=1) as opened:
        for feed in model.feeds:
            for output in opened.run(dict(feed)).values():
                assert output.dtype != np.float32 or np.isfinite(output).all()


def test_the_naive_file_overflows(tmp_path: Path) -> None:
    for name in ("rms", "naive"):
        models.build(name, tmp_path)
    with pytest.raises(UnmetError, match="emulated"):
        checks.sound()(tmp_path / "rms.onnx", tmp_path / "naive.onnx", "")


@pytest.mark.parametrize(
    ("model", "check", "said"),
    [
        ("net", checks.sound(), "no tensor is float16"),
        ("net", checks.blocked("Softmax"), "no tensor is float16"),
        ("if", checks.in_bodies, "no tensor is float16"),
        ("net", checks.io_is({"p": 10}), "types are"),
        ("net", checks.holds("QLinearMatMul"), "Softmax"),
        ("net", checks.training_info_kept, "dropped"),
        ("net", checks.names_kept_nodes, "names MatMul_0"),
    ],
)
def test_checks_fail_on_a_file_that_nobody_converted(
    model: str, check: Any, said: str, tmp_path: Path
) -> None:
    models.build(model, tmp_path)
    path = tmp_path / f"{model}.onnx"
    with pytest.raises(UnmetError, match=said):
        check(path, path, "")


def test_a_reason_for_some_nodes_is_a_part(tmp_path: Path) -> None:
    models.build("net", tmp_path)
    path = tmp_path / "net.onnx"
    names = ["MatMul_0", "Add_1", "Relu_2", "MatMul_3", "Softmax_4"]
    with pytest.raises(PartlyMetError, match="the 5 nodes that stay in FP32"):
        checks.names_kept_nodes(path, path, "\n".join(f"kept {name}: wide" for name in names))
    with pytest.raises(UnmetError, match="names Softmax_4"):
        checks.names_kept_nodes(path, path, " ".join(names[:-1]))


def test_a_cast_too_many_is_seen(tmp_path: Path) -> None:
    models.build("net", tmp_path)
    model = onnx.load(tmp_path / "net.onnx")
    for i, (source, to) in enumerate((("b", TensorProto.FLOAT16), ("c0", TensorProto.FLOAT))):
        model.graph.node.insert(2 + i, helper.make_node("Cast", [source], [f"c{i}"], to=to))
    model.graph.node[4].input[0] = "c1"
    onnx.save(model, tmp_path / "cast.onnx")
    paths = (tmp_path / "net.onnx", tmp_path / "cast.onnx", "")
    assert "2 casts" in checks.few_casts(2)(*paths)
    with pytest.raises(UnmetError, match="2 casts where 1"):
        checks.few_casts(1)(*paths)


def test_bodies_in_the_low_type_are_seen(tmp_path: Path) -> None:
    models.build("if", tmp_path)
    model = onnx.load(tmp_path / "if.onnx")
    branch = model.graph.node[1].attribute[0].g
    branch.node[0].output[0] = "r32"
    for i, to in enumerate((TensorProto.FLOAT16, TensorProto.FLOAT)):
        source, made = ("r32", "low") if i == 0 else ("low", "r")
        branch.node.insert(1 + i, helper.make_node("Cast", [source], [made], to=to))
    onnx.save(model, tmp_path / "low.onnx")
    assert "bodies hold FP16" in checks.in_bodies(tmp_path / "if.onnx", tmp_path / "low.onnx", "")


@pytest.fixture
def places(tmp_path: Path) -> run.Places:
    return run.Places(tmp_path, {"me": Path(sys.executable)}, tmp_path / "linters")


def answer(cell: Run, places: run.Places) -> Found:
    return run.ours(Feature("A feature", cell, {}), places)


@pytest.mark.parametrize(
    ("cell", "verdict", "detail"),
    [
        (Run(("python -c 'print(12)'",), checks.says("12")), "yes", "prints '12'"),
        (Run(("python -c 'print(12)'",), checks.says("13")), "FAILED", "does not say '13'"),
        (Run(("python -c 'exit(3)'",), lambda ran: ""), "FAILED", "exits with 3, not 0"),
        (Run(("python -c 'exit(3)'",), lambda ran: "", (3,), "no"), "no", ""),
        (Run(("python -c ''",), checks.json_says(str)), "FAILED", "JSONDecodeError"),
        (Run(("nosuch x",), lambda ran: ""), "not run", "nosuch is not installed here"),
        (Run(("A=7 python -c 'import os; print(os.environ)'",), checks.says("'A': '7'")),
             "yes", ""),
        (Run(("python -c 'print(12)'",), checks.says("12"), figure=lambda ran: ran.out),
             "12", "prints"),
        (Run(("python -c 'import ampconvert; print(ampconvert.__file__)'",),
             checks.says(str(run.ROOT / "ampconvert"))), "yes", ""),
    ],
)  # fmt: skip
def test_commands_are_run_as_they_stand(
    cell: Run, verdict: str, detail: str, places: run.Places
) -> None:
    found = answer(cell, places)
    assert found.verdict == verdict and detail in found.detail
    assert found.source == cell.commands[0]
    assert found.bad == (verdict == "FAILED")


def test_blocks_block(places: run.Places) -> None:
    torch = Run(("PYTHONPATH=no_torch python -c 'import torch'",), lambda ran: "")
    assert "no torch" in answer(torch, places).detail
    code = 'import urllib.request as r; r.urlopen("http://127.0.0.1:9")'
    network = Run((f"PYTHONPATH=no_network python -c '{code}'",), lambda ran: "")
    assert "no network" in answer(network, places).detail


def test_searches_of_a_peers_source(places: run.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        Feature("none", Run((), lambda ran: ""), {"torch.amp": Lacks("purple elephant")}),
        Feature("some", Run((), lambda ran: ""), {"torch.amp": Lacks("class GradScaler")}),
        Feature("size", Run((), lambda ran: ""), {"torch.amp": Call("maturity")}),
        Feature("odd", Run((), lambda ran: ""), {"torch.amp": Call("nosuch")}),
    ]
    here = run.Places(places.work, {"torch.amp": Path(sys.executable)}, places.linters)
    found = run.peer_cells(asked, "torch.amp", here)
    assert found["none"].verdict == "no"
    assert found["some"].verdict == "UNCLEAR" and "grad_scaler.py" in found["some"].detail
    assert found["size"].verdict[0].isdigit()
    assert found["odd"].bad
    away = run.peer_cells(asked, "torch.amp", places)
    assert {one.verdict for one in away.values()} == {"not run"}


def test_a_task_that_ends_the_process_is_blamed_and_the_rest_go_on(tmp_path: Path) -> None:
    python = tmp_path / "python"
    lines = [
        f"#!{sys.executable}",
        "import json, sys",
        "for task in json.load(open(sys.argv[3])):",
        "    if task['id'] == 1: sys.exit(9)",
        "    print(json.dumps({'id': task['id'], 'log': ''}), flush=True)",
    ]
    python.write_text("\n".join(lines), encoding="utf-8")
    python.chmod(0o755)
    tasks = [{"id": i, "call": "lacks"} for i in range(3)]
    found = run._asked(python, "peer", tasks, "", tmp_path)
    assert found[1]["error"] == "the process ended with exit code 9"
    assert "error" not in found[0] and "error" not in found[2]


def feature(name: str) -> Feature:
    return Feature(name, Run((), lambda ran: ""), {"peer": Lacks("x")})


def test_tables_tell_how_an_answer_is_known() -> None:
    sections = [Section("All", ("peer",), (feature("a"), feature("b")))]
    answers = {
        "a": {
            "ampconvert": Found("yes", "x | y", "command", "a | b"),
            "peer": Found("no", "said", "documentation", "https://example.org"),
        },
        "b": {"ampconvert": Found("FAILED", "why", "command", "c")},
    }
    table, evidence = report.tables(sections, answers)
    assert table.rows[0] == ("a", "yes", "no ᵈ") and table.rows[1] == ("b", "**FAILED**", "-")
    assert evidence.rows[0] == ("a", "ampconvert", "yes", "x \\| y", "`a \\| b`")
    assert evidence.rows[1][4] == "[documentation](https://example.org)"
    assert report.failures(sections, answers) == ["b, ampconvert: FAILED: why (c)"]
    assert json.dumps(report.plain(sections, answers))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    def here(options: Any) -> run.Places:
        return run.Places(tmp_path, {}, tmp_path)

    monkeypatch.setattr(program, "_places", here)
    yield ["--quick"]


def test_the_program_runs_a_row(scratch: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([*scratch, "--only", "opset 24", "--evidence"]) == 0
    out = capsys.readouterr().out
    assert "ampconvert newest.onnx" in " ".join(out.split()) and "not run" in out


def test_a_command_that_does_not_hold_is_exit_code_1(
    scratch: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Feature("Broken", Run(("python -c 'exit(1)'",), lambda ran: ""), {})
    monkeypatch.setattr(program, "SECTIONS", (Section("All", (), (row,)),))
    assert program.main(scratch) == 1
    assert "failed: Broken" in capsys.readouterr().out


@pytest.mark.slow
def test_every_command_of_the_table_holds(
    scratch: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(scratch) == 0, capsys.readouterr().out


def test_a_ran_command_is_read_in_single_blanks(tmp_path: Path) -> None:
    ran = Ran(tmp_path, (0,), ('{"a":\n   1}',), ("b\n c",))
    assert (ran.out, ran.error, ran.json) == ('{"a": 1}', "b c", {"a": 1})
