"""Reports from hand-made results: pages that fit and tell all, strict JSON, quiet progress."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import RenderableType

from ampconvert.classify import UNKNOWN, Decision
from ampconvert.conversion import Analysis, Conversion
from ampconvert.graph import Graph, Node, Value
from ampconvert.plan import OUTPUT, Cast, Plan
from ampconvert.ranges.calibrate import Range
from ampconvert.report import jsonable, layout
from ampconvert.report.explanation import explanation_page, find_nodes, near_names
from ampconvert.report.next_steps import deny_pattern, suspect
from ampconvert.report.parity import comparison_page
from ampconvert.report.subject import Subject, Tensor
from ampconvert.report.terminal import analysis_page, conversion_page
from ampconvert.summary import summarise
from ampconvert.verification import Comparison
from ampconvert.verify.compare import Verification
from ampconvert.verify.first_bad import BadTensor
from ampconvert.verify.metrics import Parity, compare

SUBJECT = Subject(
    target="net.py", name="Net", how="class Net at net.py:4",
    tensors=(Tensor("x", "float32", (2, 8)),), inputs_source="guessed from Linear(8, 8): x",
    inputs_random=True, data_source="random, 4 batches like the example", data_random=True,
    batches=4,
)  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_page(width: int) -> None:
    for page in pages(failed()):
        for line in text(page, width).splitlines():
            paths = "Wrote" in line or "://" in line or line.startswith("  ampconvert ")
            assert paths or len(line) <= width, line


def test_conversion_page_fits_a_screen(tmp_path: Path) -> None:
    done = held()
    quiet = replace(done.analysis, notes=(), unused_rules=())
    done = replace(done, analysis=quiet, files=written(tmp_path))
    page = text(conversion_page(SUBJECT, done, 12.3))
    assert len(page.splitlines()) <= 40


def test_conversion_page_tells_everything(tmp_path: Path) -> None:
    page = text(conversion_page(SUBJECT, replace(held(), files=written(tmp_path)), 12.3), 200)
    for fact in (
        "Net: class Net at net.py:4", "x float32 2x8; guessed from Linear(8, 8)",
        "(random numbers)", "random, 4 batches", "FP16-safe", "FP32-required", "neutral",
        "FLOPs", "2 casts",
        "3 Cast nodes in the ONNX file", "Weights", "at the peak", "relative L2", "net.py:6",
        "Parity held", "FP32's own", "No GPU ran",
        "emulated model on ONNX Runtime's CPU provider",
        "No rule names aten::odd: 1 op", "Matched nothing: '--deny Nosuch'", "a note", "12.3 s",
        "net.fp16.onnx", "1.5 kB", "FP32 to FP16", "dynamic batch",
    ):  # fmt: skip
        assert fact in page, fact


def test_bfloat16_has_its_own_words() -> None:
    page = text(analysis_page(SUBJECT, analysis("bfloat16"), 1.0), 100)
    assert "BF16-safe" in page and "run in BF16" in page and "FP16" not in page


def test_failure_says_what_to_do() -> None:
    page = text(conversion_page(SUBJECT, failed(), 1.0), 100)
    assert "Parity FAILED" in page and "NO" in page
    first = "First bad tensor: h, made by Mul node_mul (net.py:7): 90000 in FP32"
    assert first in page and "FP16 ends at 65504" in " ".join(page.split())
    assert "ampconvert explain net.py block.0" in page
    assert "ampconvert net.py --deny 'block.0.*'" in page
    assert "--dtype bf16" in page and "--inputs, --data" in page


def test_advice_names_the_worst_op_when_nothing_overflowed() -> None:
    done = failed()
    assert done.verification is not None
    bad = replace(done.verification, first_bad=None)
    found = suspect(replace(done, verification=bad))
    assert found is not None and found.name == done.summary.worst[0].node
    assert "What to do" not in text(conversion_page(SUBJECT, held(), 1.0))


def test_deny_pattern_is_no_operator_name_for_a_module() -> None:
    from ampconvert.rules import command_line_rule

    for node in nodes():
        rule = command_line_rule(deny_pattern(node), "deny")
        assert rule.matches(node, graph(), "float16"), node.name


def test_parity_that_was_not_measured_is_not_called_held() -> None:
    page = text(conversion_page(SUBJECT, replace(held(), verification=None), 1.0))
    assert "NOT MEASURED" in page and "held" not in page


def test_page_says_when_the_real_model_ran_on_a_gpu() -> None:
    done = held()
    assert done.verification is not None
    gpu = replace(
        done.verification, how="ONNX Runtime CUDA provider on NVIDIA H100", provider="cuda",
        low_nodes=7, total_nodes=9,
    )  # fmt: skip
    page = text(conversion_page(SUBJECT, replace(done, verification=gpu), 1.0), 200)
    assert "by the model itself: ONNX Runtime CUDA provider on NVIDIA H100; 7 of 9 nodes" in page
    assert "No GPU ran" not in page


def test_many_outputs_show_the_worst() -> None:
    reference = np.ones((2, 8))
    parities = tuple(
        compare(f"out{i}", [reference], [reference * (1 + i * 1e-5)], 1e-2) for i in range(30)
    )
    page = text(conversion_page(SUBJECT, replace(held(), verification=emulated(parities)), 1.0))
    assert "out29" in page and "out0 " not in page and "and 22 more outputs" in page


def test_explanation_lists_every_op_and_each_reason_once() -> None:
    found = analysis()
    page = text(explanation_page(SUBJECT, found, found.graph.nodes), 120)
    for name in found.plan.compute:
        assert name in page
    assert page.count("Products add in FP32.") == 1
    assert "rule matmul" in page and "https://example.org/matmul" in page
    assert "seen in the data or weights (range: 60000)" in page
    assert "the plan chose by cost: FP16" in page
    assert "1 op on integers" in page
    assert "x) is cast to FP16" in page and "y is cast to FP32 for the model's output" in page


def test_find_nodes_takes_modules_names_and_globs() -> None:
    def names(*patterns: str) -> list[str]:
        return [n.name for n in find_nodes(nodes(), patterns)]

    assert names("block.0") == ["linear", "mul"]
    assert names("block") == ["linear", "mul", "odd"]
    assert names("block.*") == ["linear", "mul", "odd"]
    assert names("*.1") == ["odd"]
    assert names("argmax") == ["argmax"]
    assert names("lin*") == ["linear"]
    assert names("block.0.mul") == ["mul"]
    assert names("blo") == []
    assert len(names()) == len(nodes())


def test_near_names_come_first() -> None:
    assert near_names(nodes(), "blok.0")[0] == "block.0"
    assert "linear" in near_names(nodes(), "lin")
    assert near_names(nodes(), "zzzz")


def test_comparison_page_says_how_a_torch_candidate_ran() -> None:
    done = held()
    assert done.verification is not None
    torch_run = replace(
        done.verification, how="PyTorch 2.13 on the CPU, whose FP16 kernels round at every op",
        provider="torch",
    )  # fmt: skip
    found = Comparison(
        "a.py", "b.pt2", "FP64 on PyTorch", "float16", SUBJECT, torch_run, ("n",), 1.0
    )
    page = text(comparison_page(found), 200)
    assert "whose FP16 kernels round at every op" in page and "a.py, run in FP64" in page
    assert "emulated" not in page
    data = strict(jsonable.comparison(found))
    assert data["ok"] is True and data["low"] == "float16" and data["candidate"] == "b.pt2"


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    done = replace(failed(), files=written(tmp_path))
    data = strict(jsonable.conversion(SUBJECT, done, 3.0))
    assert data["schema"] == 1 and data["command"] == "convert" and data["ok"] is False
    assert data["parity"]["outputs"][0]["rel_l2"] == "Infinity"
    assert data["parity"]["first_bad"]["tensor"] == "h"
    assert data["files"]["onnx"] == {"path": str(tmp_path / "net.fp16.onnx"), "bytes": 1500}
    assert data["summary"]["verdicts"][0]["name"] == "FP16-safe"
    assert data["inputs"]["random"] is True
    assert strict(jsonable.analysis(SUBJECT, analysis()))["nodes"][1]["figure"] == 60000.0
    explained = strict(
        jsonable.explanation(SUBJECT, analysis(), ["mul"], find_nodes(nodes(), ["mul"]))
    )
    assert [n["node"] for n in explained["nodes"]] == ["mul"]
    assert explained["nodes"][0]["seen"]["h"]["maximum"] == 60000.0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(JSON)
def test_anything_becomes_strict_json(data: object) -> None:
    back = strict({"data": data})["data"]
    assert same(data, back)


def test_an_infinite_prediction_is_not_given_as_a_figure() -> None:
    found = analysis()
    endless = replace(found, summary=replace(found.summary, predicted_error=math.inf))
    assert "no finite estimate" in text(analysis_page(SUBJECT, endless, 1.0))
    assert "relative L2 error 6" in text(analysis_page(SUBJECT, found, 1.0))
    unknown = replace(found, summary=replace(found.summary, predicted_error=None))
    assert "Predicted" not in text(analysis_page(SUBJECT, unknown, 1.0))


def test_piped_output_has_no_escape_codes_and_no_trailing_blanks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout.show(conversion_page(SUBJECT, held(), 1.0))
    out = capsys.readouterr().out
    assert "Parity held" in out and "\x1b" not in out
    assert not [line for line in out.splitlines() if line != line.rstrip()]


def test_long_paths_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("/nowhere") / ("deep/" * 30) / "net.fp16.onnx"
    layout.show(conversion_page(SUBJECT, replace(held(), files={"onnx": path}), 1.0), width=60)
    assert str(path) in capsys.readouterr().out


def test_names_that_look_like_markup_are_printed_as_they_are() -> None:
    odd = replace(SUBJECT, name="[bold]Net[/]", target=":smile: [red]")
    page = text(analysis_page(odd, analysis(), 1.0), 120)
    assert "[bold]Net[/]" in page and ":smile: [red]" in page


def pages(done: Conversion) -> Iterator[RenderableType]:
    found = done.analysis
    yield conversion_page(SUBJECT, done, 1.0)
    yield analysis_page(SUBJECT, found, 1.0)
    yield explanation_page(SUBJECT, found, found.graph.nodes)


def text(page: RenderableType, width: int = 80) -> str:
    out = io.StringIO()
    layout.console(out, width=width).print(page, crop=False)
    return out.getvalue()


def strict(data: Any) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    return cast("dict[str, Any]", json.loads(jsonable.dumps(data), parse_constant=refuse))


def same(data: object, back: object) -> bool:
    if isinstance(data, float) and not math.isfinite(data):
        return isinstance(back, str) and repr(float(back)) == repr(data)
    if isinstance(data, list | tuple):
        return isinstance(back, list) and all(map(same, data, back)) and len(data) == len(back)
    if isinstance(data, dict):
        return isinstance(back, dict) and all(same(data[k], back[k]) for k in data)
    return data == back


def nodes() -> tuple[Node, ...]:
    return (
        Node("linear", "aten::linear", ("x", "w"), ("h0",), ("input", "weight"), {}, "default",
             "block.0", "net.py:6"),
        Node("mul", "aten::mul", ("h0", "h0"), ("h",), ("self", "other"), {}, "Tensor", "block.0",
             "net.py:7"),
        Node("odd", "aten::odd", ("h",), ("o",), ("self",), {}, "default", "block.1", "net.py:8"),
        Node("relu", "aten::relu", ("o",), ("y",), ("self",), {}, "default", "", "net.py:9"),
        Node("argmax", "aten::argmax", ("k",), ("i",), ("self",), {}, "default", "", "net.py:10"),
    )  # fmt: skip


def graph() -> Graph:
    floats = {n: Value(n, "float32", (2, 8), hint=(2, 8)) for n in ("h0", "h", "o", "y")}
    values = {
        "x": Value("x", "float32", (2, 8), "input", hint=(2, 8)),
        "w": Value("w", "float32", (8, 8), "weight", hint=(8, 8), label="block.0.weight"),
        **floats,
        "k": Value("k", "int64", (2,), "input", hint=(2,)),
        "i": Value("i", "int64", (), hint=()),
    }
    made = Graph(nodes(), values, ("x", "k"), ("y", "i"), "net")
    made.check()
    return made


def analysis(low: str = "float16") -> Analysis:
    decisions = {
        "linear": Decision(
            "allow", "matmul", "Products add in FP32.", "https://example.org/matmul", work="matmul"
        ),
        "mul": Decision(
            "deny", "range", "Its result was seen at 6e+04.", evidence="seen", figure=60000.0
        ),
        "odd": Decision("deny", "unknown", UNKNOWN),
        "relu": Decision("clear", "relu", "It only selects."),
        "argmax": Decision("clear", "argmax", "Integers stay."),
    }  # fmt: skip
    compute = {"linear": low, "mul": "float32", "odd": "float32", "relu": low}
    casts = (Cast("x", low, (("linear", 0),)), Cast("y", "float32", ((OUTPUT, 0),)))
    plan = Plan(cast(Any, low), compute, casts, {"w": (low,)}, decisions, fingerprint="f")
    errors = {"h0": 4e-7, "y": 1e-8, "x": 1e-9, "w": 2e-8, "h": 1e-3}
    return Analysis(
        "net", cast(Any, low), graph(), plan, summarise(graph(), plan, errors),
        {"h": Range(-1.0, 60000.0, 60000.0, 0.5, elements=16)}, errors, "batch", ("a note",),
        ("--deny Nosuch",), {"capture": 1.0}, cast(Any, None),
    )  # fmt: skip


def emulated(parities: tuple[Parity, ...]) -> Verification:
    return Verification(parities, "emulated on ONNX Runtime CPU", "cpu", 2, 4)


def held() -> Conversion:
    reference = np.linspace(-1, 1, 16).reshape(2, 8)
    parity = compare("y", [reference], [reference * 1.0001], 1e-2, reference_rel_l2=2e-8)
    done = Conversion(
        analysis(), cast(Any, None), None, emulated((parity,)), {}, {"export": 2.0}, 3
    )
    assert done.ok
    return done


def failed() -> Conversion:
    reference = np.linspace(-1, 1, 16).reshape(2, 8)
    parity = compare("y", [reference], [np.full((2, 8), np.inf)], 1e-2)
    bad = BadTensor(
        "h", "node_mul", "Mul", 90000.0, 3, 16, 0,
        {"ampconvert.node": "mul", "ampconvert.where": "net.py:7"},
    )  # fmt: skip
    done = replace(held(), verification=replace(emulated((parity,)), first_bad=bad))
    assert not done.ok
    return done


def written(folder: Path) -> dict[str, Path]:
    files = {"onnx": folder / "net.fp16.onnx", "plan": folder / "net.fp16.plan.json"}
    for path in files.values():
        path.write_bytes(b"0" * 1500)
    return files
