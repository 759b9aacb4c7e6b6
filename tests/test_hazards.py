"""Every hazard's own examples, the same hazards in PyTorch models, and what a plan does to them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from ampconvert import functions, hazards
from ampconvert.classify import Decision, OpClass, Verdicts
from ampconvert.cost import load_target
from ampconvert.dtypes import Low
from ampconvert.findings import Finding, Location
from ampconvert.frontends import fx
from ampconvert.frontends.onnx import read
from ampconvert.frontends.onnx_run import calibrate
from ampconvert.graph import Graph
from ampconvert.hazards import Case, Hazard
from ampconvert.hazards.page import page
from ampconvert.hazards.scene import Scene
from ampconvert.plan import Plan, make_plan
from ampconvert.report import hazards as report
from ampconvert.report import jsonable
from tests.onnx_random import Sample, samples
from tests.text_graphs import graph_of_text

HAZARDS = hazards.all_hazards()


def examples(kind: str) -> list[object]:
    return [
        pytest.param(hazard, case, id=f"{hazard.NAME}-{number}")
        for hazard in HAZARDS
        for number, case in enumerate(getattr(hazard, kind))
    ]


def codes(case: Case) -> set[str]:
    graph = graph_of_text(case.text, low=case.low)
    assert not set(case.seen) - set(graph.values)
    return {found.code for found in hazards.find(graph, case.low, case.ranges)}


@pytest.mark.parametrize(("hazard", "case"), examples("INVALID"))
def test_found(hazard: Hazard, case: Case) -> None:
    assert hazard.CODE in codes(case)


@pytest.mark.parametrize(("hazard", "case"), examples("VALID"))
def test_not_found(hazard: Hazard, case: Case) -> None:
    assert hazard.CODE not in codes(case)


def test_no_code_or_name_stands_twice() -> None:
    assert len({h.CODE for h in HAZARDS}) == len({h.NAME for h in HAZARDS}) == len(HAZARDS) >= 13
    assert all(len(h.VALID) >= 3 and len(h.INVALID) >= 3 for h in HAZARDS)


@pytest.mark.parametrize("hazard", HAZARDS, ids=lambda h: h.NAME)
def test_has_a_page(hazard: Hazard) -> None:
    text = type(hazard).__doc__ or ""
    assert re.fullmatch(r"AMP6\d\d", hazard.CODE) and re.fullmatch(r"[a-z-]+", hazard.NAME)
    assert "Source:" in text and text.split("\n\n")[0].endswith(".")
    assert re.search(r"\d", text), "a page gives the number that matters"


def test_the_page_is_fresh() -> None:
    held = (Path(__file__).parent.parent / "docs/hazards.md").read_text(encoding="utf-8")
    assert held == page(), "python -m ampconvert.hazards > docs/hazards.md"


class _Steps(torch.nn.Module):
    """Takes a float matrix and its steps: one hazard each."""

    def __init__(self, steps: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.steps(x)


def of_torch(
    steps: Callable[[torch.Tensor], torch.Tensor], low: Low = "float16", width: int = 8
) -> dict[str, Finding]:
    x = torch.randn(4, width)
    program = torch.export.export(_Steps(steps), (x,)).run_decompositions({})
    return {found.code: found for found in hazards.find(fx.read(program), low, {})}


def by_hand_attention(x: torch.Tensor) -> torch.Tensor:
    q, k = x * 1.5, x + 1
    return torch.softmax(q @ k.transpose(-2, -1) / 512**0.5, -1)


TORCH: list[tuple[str, Callable[[torch.Tensor], torch.Tensor], int]] = [
    ("AMP601", lambda x: F.normalize(x, dim=-1), 8),
    ("AMP601", lambda x: x * torch.rsqrt(x.relu().mean(-1, keepdim=True) + 1e-12), 8),
    ("AMP602", lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5), 8),
    ("AMP603", lambda x: x.square().mean(-1) - x.mean(-1) ** 2, 8),
    ("AMP604", lambda x: x.exp() / x.exp().sum(-1, keepdim=True), 8),
    ("AMP605", lambda x: x.exp().sum(-1).log(), 8),
    ("AMP606", lambda x: torch.softmax(x, -1).log(), 8),
    ("AMP607", lambda x: x.masked_fill(x > 0, -1e9).mean(-1), 8),
    ("AMP608", lambda x: (torch.arange(5000).float() / 2).floor().long(), 8),
    ("AMP609", lambda x: torch.outer(torch.arange(1000).float(), torch.ones(4)).cos(), 8),
    ("AMP610", lambda x: x.cumsum(-1), 5000),
    ("AMP611", by_hand_attention, 512),
    ("AMP612", lambda x: x * torch.tensor([1e5, 1.0] * 4), 8),
    ("AMP613", lambda x: F.binary_cross_entropy(x.sigmoid(), x.detach().sigmoid()), 8),
    ("AMP613", lambda x: (1 - x.sigmoid()).log(), 8),
]


@pytest.mark.parametrize(("code", "steps", "width"), TORCH)
def test_found_in_torch(
    code: str, steps: Callable[[torch.Tensor], torch.Tensor], width: int
) -> None:
    assert code in of_torch(steps, width=width)


CLEAN: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda x: F.layer_norm(x, (8,), eps=1e-12),
    lambda x: F.rms_norm(x, (8,), eps=1e-12),
    lambda x: F.cross_entropy(x, torch.zeros(4, dtype=torch.long)),
    lambda x: F.binary_cross_entropy_with_logits(x, x.detach().sigmoid()),
    lambda x: torch.logsumexp(x, -1),
    lambda x: torch.softmax(x.masked_fill(x > 0, torch.finfo(x.dtype).min), -1),
    lambda x: (x - x.amax(-1, keepdim=True)).exp() / x.sum(),
    lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None]),
    lambda x: x.var(-1) + x.std(-1),
    lambda x: F.gelu(x, approximate="tanh") + F.silu(x).clamp(max=1e20),
    lambda x: x / (x > 0).sum().float(),
]


@pytest.mark.parametrize("number", range(len(CLEAN)))
def test_nothing_in_clean_torch(number: int) -> None:
    assert not of_torch(CLEAN[number])


def rms_norm(*, precise: bool) -> tuple[Graph, Plan]:
    """An RMSNorm whose epsilon and squares are float16's, and a plan that keeps it or does not."""
    graph = graph_of_text(
        """g (float[2,8] x) => (float[2,8] y)
        <float two = {2.0}, int64[1] axes = {-1}, float eps = {1e-8}> {
            s = Pow(x, two)
            m = ReduceMean<keepdims = 1>(s, axes)
            a = Add(m, eps)
            r = Sqrt(a)
            y = Div(x, r)
        }"""
    )
    cls: OpClass = "deny" if precise else "allow"
    decisions = {n.name: Decision(cls, "test", "asked for") for n in graph.nodes}
    return graph, make_plan(graph, Verdicts(decisions), "float16", load_target())


def test_a_plan_handles_what_it_keeps() -> None:
    graph, plan = rms_norm(precise=True)
    found = hazards.find(graph, "float16", {}, plan)
    assert {f.code for f in found} == {"AMP601", "AMP602"}
    assert all(f.handled == "kept in FP32 by this plan" and not f.is_open for f in found)
    graph, plan = rms_norm(precise=False)
    assert all(f.is_open for f in hazards.find(graph, "float16", {}, plan))


def test_one_op_in_low_leaves_a_hazard_open() -> None:
    graph, plan = rms_norm(precise=True)
    compute = {**plan.compute, plan_of(graph, "Div"): "float16"}
    found = {f.code: f for f in hazards.find(graph, "float16", {}, replace(plan, compute=compute))}
    assert found["AMP601"].is_open  # the sum is cast to float16, and 1e-8 with it
    assert not found["AMP602"].is_open


def plan_of(graph: Graph, op: str) -> str:
    return next(node.name for node in graph.nodes if node.op == f"onnx::{op}")


def test_a_saturated_mask_is_handled() -> None:
    graph = graph_of_text(
        """g (float[2,8] x, bool[2,8] m) => (float[2,8] y) <float big = {-1e9}> {
            y = Where(m, big, x)
        }"""
    )
    decisions = {n.name: Decision("allow", "test", "asked for") for n in graph.nodes}
    plan = make_plan(graph, Verdicts(decisions), "float16", load_target())
    (found,) = hazards.find(graph, "float16", {}, plan)
    assert found.is_open
    (found,) = hazards.find(graph, "float16", {}, replace(plan, masks=frozenset({"big"})))
    assert found.handled == "saturated by this plan"


def test_severity_follows_what_was_seen() -> None:
    def worst(*ends: float) -> list[str]:
        case = Case(
            """g (float[2,8] x) => (float[2,1] y) <int64[1] axes = {-1}> {
                s = Mul(x, x)
                y = ReduceMean<keepdims = 1>(s, axes)
            }""",
            {"x": (-ends[0], ends[0])} if ends else {},
        )
        found = hazards.find(graph_of_text(case.text), "float16", case.ranges)
        return [f.severity for f in found if f.code == "AMP602"]

    assert worst() == ["warning"]
    assert worst(100.0) == []
    assert worst(200.0) == ["warning"]
    assert worst(300.0) == ["error"]


@given(edge=st.floats(1e-12, 1e-3))
@settings(max_examples=40, deadline=None)
def test_an_epsilon_is_found_exactly_when_the_type_loses_it(edge: float) -> None:
    graph = graph_of_text(
        f"""g (float[2,8] x) => (float[2,8] y) <float eps = {{{edge:.8e}}}> {{
            s = Abs(x)
            a = Add(s, eps)
            r = Sqrt(a)
            y = Div(x, r)
        }}"""
    )
    found = [f for f in hazards.find(graph, "float16", {}) if f.code == "AMP601"]
    assert bool(found) == (np.float16(np.float32(f"{edge:.8e}")) == 0)


@given(samples(steps=6))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_leaves_its_bounds(sample: Sample) -> None:
    model = ir.from_proto(sample.model)
    graph = read(model, "float16")
    seen, _ = calibrate(model, sample.feeds, lambda done: None)
    scene = Scene(graph, "float16", {}, functions.calls(graph))
    for name, found in seen.items():
        if name in graph.values and found.elements and found.minimum <= found.maximum:
            low, high = scene.bounds(name)
            room = 1e-5 * max(abs(found.minimum), abs(found.maximum), 1.0)
            assert low - room <= found.minimum and found.maximum <= high + room, name


def test_findings_come_in_execution_order() -> None:
    graph, _ = rms_norm(precise=True)
    order = [node.name for node in graph.nodes]
    places = [order.index(f.where.node) for f in hazards.find(graph, "float16", {})]
    assert places == sorted(places) and len(places) == 2


def test_a_location_reads_well() -> None:
    at = Location("node_1", "onnx::Add", "encoder.layer.0", "model.py", 42, 7)
    assert str(at) == "encoder.layer.0 (model.py:42:7)"
    assert str(Location(path="train.py", line=3)) == "train.py:3"
    assert str(Location("node_1")) == "node_1"


def findings(*, handled: str = "") -> list[Finding]:
    return [
        Finding(
            "AMP602", "squares overflow", Location(f"n{i}", scope=f"layer.{i}"), "warning",
            "Scale them.", handled, "squares-overflow", (f"n{i}",),
        )
        for i in range(3)
    ]  # fmt: skip


def shown(found: Sequence[Finding]) -> str:
    screen = Console(width=80, file=StringIO(), record=True)
    for part in report.section(found, "float16"):
        screen.print(part)
    return screen.export_text()


def test_the_section_groups_what_is_alike() -> None:
    error = replace(findings()[0], code="AMP609", name="angles-too-large", severity="error")
    text = shown([*findings(handled="kept in FP32 by this plan"), *findings()[:1], error])
    assert text.index("AMP609") < text.index("squares overflow") < text.index("3 places")
    assert "2 open in FP16, 3 handled by the plan" in text
    assert "3 places, first layer.0: kept in FP32 by this plan" in text
    assert shown([]) == ""


def test_the_section_prints_brackets_as_they_are() -> None:
    found = replace(findings()[0], message="E[x^2] - E[x]^2 of [bold]x[/bold]")
    assert "E[x^2] - E[x]^2 of [bold]x[/bold]" in shown([found])


def test_findings_as_data() -> None:
    (first, *rest) = json.loads(json.dumps(jsonable.hazards(findings())))
    assert len(rest) == 2
    assert first["code"] == "AMP602" and first["open"] is True and first["nodes"] == ["n0"]
    assert first["where"]["scope"] == "layer.0" and first["where"]["text"] == "layer.0"
