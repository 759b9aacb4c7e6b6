"""The command line on ONNX models: what it takes, prints, writes, refuses and exits with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from ampconvert import cli
from ampconvert.files import read_plan
from ampconvert.report.explanation import find_nodes

ROOT = Path(__file__).parent.parent
NET = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,8] x, bool wide) => (float[N,4] y, float[N,4] p) {
  h = MatMul(x, w)
  r = Relu(h)
  o = MatMul(r, v)
  y = If(wide) <then_branch = t () => (float[N,4] a) { a = Neg(o) },
                else_branch = e () => (float[N,4] b) { b = Mul(o, o) }>
  p = Softmax(y)
}
"""
SHAPES = {"w": (8, 16), "v": (16, 4)}
NAMES = {"MatMul": "dense", "Softmax": "/head/Softmax"}


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model with a branch, in a folder of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.onnx"
    onnx.save(made(), path)
    return path


def test_convert_writes_model_and_plan_beside_each_other(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["net.onnx"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "net.onnx, opset 21, 7 nodes" in out
    assert "Parity held" in out and "x float32 2x8, wide bool scalar" in out
    assert "random numbers" in out and "opset 21" in out
    assert names(net) == ["net.fp16.onnx", "net.fp16.plan.json", "net.onnx"]
    written = onnx.load("net.fp16.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert {t.data_type for t in written.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert [i.type.tensor_type.elem_type for i in written.graph.input] == [1, 9]


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("--dtype bf16", ["net.bf16.onnx", "net.bf16.plan.json"]),
        ("-o out --name model", ["out/model.fp16.onnx", "out/model.fp16.plan.json"]),
        ("-o deep/er/half.onnx", ["deep/er/half.onnx", "deep/er/half.plan.json"]),
        ("-o half.onnx --dtype bf16", ["half.onnx", "half.plan.json"]),
    ],
)
def test_names_of_the_files(words: str, written: list[str], net: Path) -> None:
    assert cli.main(["net.onnx", *words.split(), "--quiet"]) == 0
    found = [p.relative_to(net.parent).as_posix() for p in net.parent.rglob("*") if p.is_file()]
    assert sorted(found) == sorted([*written, "net.onnx"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nosuch.onnx", "nosuch.onnx: "),
        ("analyze nosuch.onnx", "nosuch.onnx: "),
        ("damaged.onnx", "damaged.onnx: "),
        ("empty.onnx", "empty.onnx: "),
        ("net.onnx --model Net", "--model makes no sense for an ONNX file"),
        ("net.onnx --weights w.pt", "--weights makes no sense for an ONNX file"),
        ("analyze net.onnx --static", "--static makes no sense for an ONNX file"),
        ("net.onnx --io q=fp16", "x, wide, y, p"),
        ("net.onnx --io wide=fp16", "wide"),
        ("net.onnx --io x=fp8", "use fp16, bf16 or fp32"),
        ("net.onnx --io x", "no NAME=TYPE"),
        ("net.onnx --io x=bf16", "x: its type can be float32 or float16"),
        ("net.onnx --io x=fp16 --io x=fp32", "--io gives x two types"),
        ("net.onnx --io x=fp16 --keep-io", "not allowed with argument"),
        ("net.onnx --target tpu", "unknown target 'tpu': use one of"),
        ("net.onnx --no-verify --input x:3x8", "--no-verify runs nothing"),
        ("net.onnx --no-verify --tolerance 1", "no use for --tolerance"),
        ("net.onnx -o taken.onnx", "taken.onnx exists already"),
        ("net.onnx -o net.onnx", "holds the model that is converted"),
        ("net.onnx -o net.onnx --force", "holds the model that is converted"),
        ("net.onnx -o ./link.onnx --force", "holds the model that is converted"),
        ("net.onnx -o half.onnx --name x", "leave out --name"),
        ("net.onnx -o folder.onnx", "this is a folder"),
        ("net.onnx -o taken.onnx/half.onnx", "this is a file"),
        ("net.onnx --input q:2x8", "its inputs are x, wide"),
        ("net.onnx --input x:2x9", "the model takes float32 Nx8"),
        ("net.onnx --inputs no.npz", "no.npz"),
        ("net.onnx --plan no.json", "no.json"),
        ("explain net.onnx Sofmax", "there are Softmax"),
        ("explain net.onnx densse", "dense_0"),
        ("net.py --io x=fp16", "--io is for ONNX models"),
        ("net.py --no-verify", "--no-verify is for ONNX models"),
        ("net.py -o half.onnx", "name a folder"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    words: str, said: str, net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("damaged.onnx").write_bytes(net.read_bytes()[:-40])
    Path("empty.onnx").touch()
    Path("taken.onnx").touch()
    Path("folder.onnx").mkdir()
    Path("link.onnx").symlink_to("net.onnx")
    Path("net.py").write_text("import torch\nmodel = torch.nn.Linear(2, 2)\n", encoding="utf-8")
    before = {p: p.stat().st_mtime_ns for p in net.parent.rglob("*")}
    assert cli.main(words.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ampconvert: error: "), captured.err
    assert said in lines[0]
    assert {p: p.stat().st_mtime_ns for p in net.parent.rglob("*")} == before


def test_the_file_of_the_weights_is_never_written(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(made(), "big.onnx", save_as_external_data=True, location="x.onnx.data",
              size_threshold=0)  # fmt: skip
    before = Path("x.onnx.data").read_bytes()
    assert cli.main(["big.onnx", "-o", "x.onnx", "--force"]) == 2
    assert "holds weights of big.onnx" in capsys.readouterr().err
    assert Path("x.onnx.data").read_bytes() == before
    assert cli.main(["big.onnx", "-q"]) == 0 and Path("big.fp16.onnx").exists()


def test_a_read_only_folder_is_named_before_the_work(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cli.main(["net.onnx", "-o", "out/half.onnx"]) == 2
    assert "read-only" in capsys.readouterr().err
    assert names(net) == ["net.onnx"]


def test_nothing_is_overwritten_unasked(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    assert cli.main(["net.onnx", "-q"]) == 2
    assert "--force" in capsys.readouterr().err
    assert cli.main(["net.onnx", "-q", "--force"]) == 0


def test_a_saved_plan_is_applied_again(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.onnx", "-q", "--deny", "dense_2"]) == 0
    assert cli.main(["net.onnx", "-q", "--plan", "net.fp16.plan.json", "-o", "again"]) == 0
    assert Path("net.fp16.onnx").read_bytes() == Path("again/net.fp16.onnx").read_bytes()
    first, second = (read_plan(Path(p, "net.fp16.plan.json")) for p in (".", "again"))
    assert first == second


def test_a_converted_model_is_left_as_it_is(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    assert cli.main(["net.fp16.onnx", "-o", "again.onnx"]) == 0
    assert "othing is left to convert" in " ".join(capsys.readouterr().out.split())
    first, again = onnx.load("net.fp16.onnx"), onnx.load("again.onnx")
    assert first.graph == again.graph and first.opset_import == again.opset_import


def test_failed_parity_is_exit_1_and_says_what_to_do(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    words = ["net.onnx", "-o", "again", "--plan", "net.fp16.plan.json"]  # planned, not mended
    assert cli.main([*words, "--tolerance", "1e-12"]) == 1
    out = capsys.readouterr().out
    assert "Parity FAILED" in out and "random numbers" in out


def test_no_verify_runs_nothing(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("onnxruntime.InferenceSession", fail)
    assert cli.main(["net.onnx", "--no-verify"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Parity NOT MEASURED" in out and "x float Nx8, wide bool scalar; nothing was run" in out
    assert "ampconvert verify net.onnx net.fp16.onnx" in out
    assert names(net) == ["net.fp16.onnx", "net.fp16.plan.json", "net.onnx"]
    data = run_json(["net.onnx", "--no-verify", "--force", "--json"], capsys)
    assert data["ok"] is None and data["parity"] is None
    assert run_json(["analyze", "net.onnx", "--no-verify", "--json"], capsys)["nodes"]


def test_io_changes_the_interface(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.onnx", "-q", "--io", "x=fp16", "--io", "y=FP16", "--io", "p=fp32"]) == 0
    graph = onnx.load("net.fp16.onnx").graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert types == {"x": 10, "wide": 9, "y": 10, "p": 1}


def test_json_is_all_there_is_on_stdout(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(["net.onnx", "--json"], capsys)
    assert data["command"] == "convert" and data["ok"] is True
    assert data["model"] == {
        "target": "net.onnx", "name": "net.onnx", "how": "opset 21, 7 nodes", "format": "onnx",
    }  # fmt: skip
    assert data["opset"] == "21" and data["dynamic"] is None
    assert set(data["files"]) == {"onnx", "plan"}
    found = run_json(["analyze", "net.onnx", "--json"], capsys)
    nodes = {n["node"]: n for n in found["nodes"]}
    assert {"dense_0", "dense_2", "Relu_1", "Neg_0", "Mul_0", "/head/Softmax_4"} <= set(nodes)
    assert nodes["dense_0"]["op"] == "onnx::MatMul" and nodes["dense_0"]["runs_in"] == "float16"


@pytest.mark.parametrize(
    ("part", "nodes"),
    [
        ("dense_0", ["dense_0"]),
        ("dense*", ["dense_0", "dense_2"]),
        ("MatMul", ["dense_0", "dense_2"]),
        ("head", ["/head/Softmax_4"]),
        ("/head/*", ["/head/Softmax_4"]),
        ("Soft*", ["/head/Softmax_4"]),
    ],
)
def test_explain_takes_nodes_scopes_and_operators(
    part: str, nodes: list[str], net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run_json(["explain", "net.onnx", part, "--json"], capsys)
    assert [n["node"] for n in told["nodes"]] == nodes
    assert cli.main(["explain", "net.onnx", part]) == 0
    assert nodes[0] in capsys.readouterr().out


def test_analyze_writes_nothing_and_names_operators_as_onnx_does(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["analyze", "net.onnx"]) == 0
    out = capsys.readouterr().out
    assert "nothing was written" in out and "MatMul" in out and "branch or loop value" in out
    assert "phi" not in out.replace("phi\n", "") and "onnx::" not in out
    assert names(net) == ["net.onnx"]


@pytest.mark.parametrize(
    ("pattern", "denied"),
    [
        ("dense_0", {"dense_0"}),
        ("dense_*", {"dense_0", "dense_2"}),
        ("matmul", {"dense_0", "dense_2"}),
        ("/head/Softmax_4", {"/head/Softmax_4"}),
        ("head.*", {"/head/Softmax_4"}),
        ("Neg_0", {"Neg_0"}),
        ("Nosuch", set()),
    ],
)
def test_deny_takes_operators_names_and_globs(
    pattern: str, denied: set[str], net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_json(["analyze", "net.onnx", "--json", "--deny", pattern], capsys)
    mine = {n["node"] for n in found["nodes"] if n["rule"] == f"--deny {pattern}"}
    assert mine == denied
    assert found["unused_rules"] == ([] if denied else [f"--deny {pattern}"])


def test_names_with_brackets_are_denied_by_name(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = made()
    proto.graph.node[0].name = "layers[0].dense"
    onnx.save(proto, "net.onnx")
    found = run_json(["analyze", "net.onnx", "--json", "--deny", "layers[0].dense"], capsys)
    mine = [n["node"] for n in found["nodes"] if n["rule"].startswith("--deny")]
    assert mine == ["layers[0].dense"]
    told = run_json(["explain", "net.onnx", "layers[0].dense", "--json"], capsys)
    assert [n["node"] for n in told["nodes"]] == ["layers[0].dense"]


def test_data_comes_from_files(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("a.npz", x=np.full((3, 8), 2, np.float32), wide=np.array(True))
    data = run_json(["net.onnx", "--inputs", "a.npz", "--json"], capsys)
    assert data["inputs"]["random"] is False and data["inputs"]["batches"] == 1
    assert data["inputs"]["tensors"][0]["shape"] == [3, 8]
    Path("more").mkdir()
    np.savez("more/b.npz", x=np.ones((1, 8), np.float32), wide=np.array(False))
    words = ["analyze", "net.onnx", "--inputs", "a.npz", "--data", "more", "--json"]
    assert run_json(words, capsys)["inputs"]["batches"] == 2


def test_a_model_that_fails_on_random_inputs_says_which_to_give(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
      g (float[B,3] x) => (float[a,b] y) <int64[2] s = {7, 7}> { y = Reshape(x, s) }"""
    onnx.save(parser.parse_model(text), "odd.onnx")
    assert cli.main(["odd.onnx"]) == 2
    err = capsys.readouterr().err
    assert "odd.onnx: the FP32 model does not run on random inputs" in err
    assert "--input 'x:float32:2x3'" in err and len(err.splitlines()) == 1


def test_no_framework_but_onnx_is_needed(net: Path) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom ampconvert.cli import main\n"
        "sys.exit(main(['net.onnx', '--quiet']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=net.parent,
        env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_targets_in_the_help_are_the_ones_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["convert", "--help"]) == 0
    shown = capsys.readouterr().out
    known = {path.stem for path in (ROOT / "rules/targets").glob("*.toml")} - {
        "h100",
        "torch-cpu",
    }  # costs alone
    assert known == {"trt", "ort-cuda", "ort-cpu"}
    assert "trt|ort-cuda|ort-cpu" in shown


def test_operators_are_searched_only_where_no_name_fits() -> None:
    from ampconvert.graph import Node

    nodes = [Node("Relu", "onnx::Neg", (), ()), Node("other", "onnx::Relu", (), ())]
    assert [n.name for n in find_nodes(nodes, ["Relu"])] == ["Relu"]
    assert [n.name for n in find_nodes(nodes, ["Neg"])] == ["Relu"]


def made() -> onnx.ModelProto:
    """NET with seeded weights and named nodes."""
    proto = parser.parse_model(NET)
    random = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        array = random.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    graphs = [proto.graph, *(a.g for a in proto.graph.node[3].attribute)]
    for graph in graphs:
        for number, node in enumerate(graph.node):
            node.name = f"{NAMES.get(node.op_type, node.op_type)}_{number}"
    return proto


def names(net: Path) -> list[str]:
    return sorted(p.name for p in net.parent.iterdir())


def run_json(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(words) == code
    return cast("dict[str, Any]", json.loads(capsys.readouterr().out))


def test_an_operator_that_cannot_run_needs_no_verify(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "com.acme" : 1]>
      g (float[2,4] x) => (float[2,4] y) <float[4] w = {1, 2, 3, 4}> {
        a = Mul(x, w) b = com.acme.Magic(a) y = Mul(b, w) }"""
    onnx.save(parser.parse_model(text), "magic.onnx")
    for command in ("convert", "analyze"):
        assert cli.main([command, "magic.onnx"]) == 2
        err = capsys.readouterr().err
        assert "magic.onnx: " in err and "com.acme" in err and "--no-verify" in err
    assert cli.main(["magic.onnx", "--no-verify"]) == 0
    assert "No rule names com.acme::Magic" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_the_example_keeps_its_accuracy(
    net: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples import convert_onnx

    convert_onnx.main(net.parent / "out")
    scores = [float(line.split()[2].strip("%,")) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 3 and min(scores) > 94 and max(scores) - min(scores) < 1
    assert (
        cli.main(["out/digits.onnx", "--inputs", "out/calibration.npz", "-o", "out", "--force"])
        == 0
    )
    assert "Parity held" in capsys.readouterr().out
