"""`--report` and `ampconvert report`: files by suffix, before and after the work, and later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from ampconvert import cli
from ampconvert.files import read_plan, write_plan
from tests.text_graphs import model_of_text

TEXT = """
net (float[2,8] x) => (float[2,4] y)
<float[8,4] w = {0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,
                 0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8}>
{
  h = MatMul(x, w)
  y = Softmax(h)
}
"""


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small model in a folder of its own that is the current one."""
    monkeypatch.chdir(tmp_path)
    onnx.save(model_of_text(TEXT), tmp_path / "net.onnx")
    return tmp_path


def read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def test_a_conversion_writes_every_report_it_is_asked_for(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["r.html", "r.md", "r.json"]
    assert cli.main(["net.onnx", *(word for file in files for word in ("--report", file))]) == 0
    out = capsys.readouterr().out
    assert all(file in out for file in files)
    data = read("r.json")
    assert (data["command"], data["ok"], len(data["nodes"])) == ("convert", True, 2)
    assert data["files"]["onnx"]["bytes"] == Path("net.fp16.onnx").stat().st_size
    assert "MatMul" in Path("r.html").read_text(encoding="utf-8")
    assert "Softmax" in Path("r.md").read_text(encoding="utf-8")


def test_the_json_report_is_what_json_prints(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["net.onnx", "--json", "--report", "r.json"]) == 0
    assert json.loads(capsys.readouterr().out) == read("r.json")


@pytest.mark.parametrize(
    "command", [["analyze"], ["convert", "--pareto"]], ids=["analyze", "pareto"]
)
def test_other_commands_on_models_report_too(net: Path, command: list[str]) -> None:
    first, *more = command
    assert cli.main([first, "net.onnx", *more, "-q", "--report", "r.html", "--report", "r.md"]) == 0
    assert "MatMul" in Path("r.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in net.iterdir()) == ["net.onnx", "r.html", "r.md"]


def test_verify_reports_and_fails_all_the_same(net: Path) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    words = [
        "verify",
        "net.onnx",
        "net.fp16.onnx",
        "-q",
        "--report",
        "r.json",
        "--report",
        "r.html",
    ]
    assert cli.main([*words, "--tolerance", "1e-12"]) == 1
    assert read("r.json")["ok"] is False
    assert "FAILED" in Path("r.html").read_text(encoding="utf-8")


def test_a_plan_gives_the_same_report_later(net: Path) -> None:
    assert cli.main(["net.onnx", "-q", "--report", "now.json"]) == 0
    assert cli.main(["report", "net.fp16.plan.json", "-q", "-o", "later.json"]) == 0
    now, later = read("now.json"), read("later.json")
    assert later == {k: v for k, v in now.items() if k not in ("seconds", "seconds_total", "files")}


def test_the_same_command_writes_the_same_files(net: Path) -> None:
    written = []
    for _ in range(2):
        assert cli.main(["net.onnx", "-q", "--force"]) == 0
        written.append([Path(f"net.fp16.{end}").read_bytes() for end in ("onnx", "plan.json")])
    assert written[0] == written[1]


def test_without_a_name_the_page_stands_beside_the_plan(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    assert cli.main(["report", "net.fp16.plan.json"]) == 0
    assert "net.fp16.report.html" in capsys.readouterr().out
    assert Path("net.fp16.report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_report_that_json_printed_is_read(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analyze", "net.onnx", "--json"]) == 0
    Path("found.json").write_text(capsys.readouterr().out, encoding="utf-8")
    assert cli.main(["report", "found.json", "-o", "-"]) == 0
    assert "MatMul" in capsys.readouterr().out


def test_a_plan_without_a_report_still_has_its_decisions(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    write_plan(read_plan(Path("net.fp16.plan.json")), Path("old.plan.json"))
    assert cli.main(["report", "old.plan.json", "-o", "old.html", "-o", "old.md"]) == 0
    assert "without its report" in Path("old.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "bad.json"),
        ("[1, 2]", "no plan and no report"),
        ('{"schema": 1}', "damaged"),
        ('{"report": 3}', "damaged"),
        ('{"report": {"schema": 99}}', "newer ampconvert"),
        ('{"schema": 1, "command": "convert", "parity": {"outputs": [3]}}', "damaged ("),
        ('{"schema": 1, "command": "convert", "nodes": 7}', "damaged (TypeError"),
    ],
)
def test_what_is_no_report_is_refused(
    net: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    Path("bad.json").write_text(content, encoding="utf-8")
    assert cli.main(["report", "bad.json"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert sorted(p.name for p in net.iterdir()) == ["bad.json", "net.onnx"]


def test_reports_are_refused_before_any_work(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there.html").write_text("mine", encoding="utf-8")
    for words, message in {
        ("--report", "there.html"): "exists already",
        ("--report", "no/where.html"): "there is no folder no",
        ("--report", "r.pdf"): "ends in .html, .md or .json",
    }.items():
        assert cli.main(["net.onnx", *words]) == 2
        assert message in capsys.readouterr().err
    assert Path("there.html").read_text(encoding="utf-8") == "mine"
    assert sorted(p.name for p in net.iterdir()) == ["net.onnx", "there.html"]
    assert cli.main(["analyze", "net.onnx", "-q", "--report", "there.html", "--force"]) == 0
    assert Path("there.html").read_text(encoding="utf-8") != "mine"


def test_nothing_is_reported_of_a_run_that_found_bad_input(net: Path) -> None:
    assert cli.main(["net.onnx", "--input", "x:9x9", "--report", "r.html"]) == 2
    assert not Path("r.html").exists()


def test_viewers_get_their_files(net: Path) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    words = ["report", "net.fp16.plan.json", "-q", "--netron", "net.fp16.onnx", "seen.onnx"]
    assert cli.main([*words, "--model-explorer", "nodes.json"]) == 0
    nodes = {n.op_type: {p.key: p.value for p in n.metadata_props}
             for n in onnx.load("seen.onnx").graph.node}  # fmt: skip
    assert nodes["MatMul"]["ampconvert.verdict"] == "FP16-safe"
    assert read("nodes.json")
    assert not Path("net.fp16.report.html").exists()


def test_a_report_on_an_onnx_model_has_errors_and_a_front(net: Path) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    assert cli.main(["report", "net.fp16.plan.json", "-q", "-o", "without.json"]) == 0
    without = read("without.json")
    assert without["front"] is None and without["nodes"][0]["output_error"] is None
    assert without["next_steps"][-1]["command"].endswith("--report report.html --force")
    assert cli.main(["net.onnx", "-q", "--force", "--report", "with.json"]) == 0
    with_errors = read("with.json")
    assert with_errors["front"]["points"] and with_errors["nodes"][0]["output_error"] > 0
    assert with_errors["summary"]["predicted_error"] > 0


def test_overlays_that_say_nothing_are_refused(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["net.onnx", "-q"]) == 0
    words = ["report", "net.fp16.plan.json", "-o", "r.md", "--model-explorer", "nodes.json"]
    assert cli.main([*words, "--by", "error"]) == 2
    assert "convert the model again with --report" in capsys.readouterr().err
    onnx.save(model_of_text("other (float[2] x) => (float[2] y) { y = Relu(x) }"), "other.onnx")
    assert cli.main([*words, "--model", "other.onnx"]) == 2
    assert "name the model that was converted" in capsys.readouterr().err
    assert not Path("r.md").exists() and not Path("nodes.json").exists()
