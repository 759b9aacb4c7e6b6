"""ampconvert diff: what counts as drift of a plan, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ampconvert.cli import main
from ampconvert.files import read_plan, write_plan
from ampconvert.plan import Plan
from ampconvert.plan_diff import diff

PLAN = Path(__file__).parents[2] / "examples" / "pipeline" / "model.fp16.plan.json"


def plan() -> Plan:
    return read_plan(PLAN)


def with_decision(old: Plan, node: str, **changes: object) -> Plan:
    decision = replace(old.decisions[node], **changes)  # type: ignore[arg-type]
    return replace(old, decisions={**old.decisions, node: decision})


def without(old: Plan, node: str) -> Plan:
    return replace(
        old,
        decisions={n: d for n, d in old.decisions.items() if n != node},
        compute={n: t for n, t in old.compute.items() if n != node},
        fingerprint="another",
    )


def with_type(old: Plan, node: str) -> Plan:
    return replace(old, compute={**old.compute, node: "float32"})


def test_a_plan_is_the_same_as_itself() -> None:
    found = diff(plan(), plan())
    assert not found.drifted
    assert found.changes == () and found.other == ()


def test_another_reason_alone_is_no_drift() -> None:
    told = with_decision(plan(), "linear", reason="seen at 3.1", figure=3.1)
    assert not diff(plan(), told).drifted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda old: with_type(old, "linear_1"), "1 in another type"),
        (lambda old: with_decision(old, "linear_1", cls="deny"), "1 with another verdict"),
        (lambda old: with_decision(old, "linear_1", rule="mine"), "1 with another verdict"),
        (lambda old: without(old, "linear_1"), "1 gone"),
        (lambda old: replace(old, casts=old.casts[1:]), "0 new, 1 gone"),
        (lambda old: replace(old, low="bfloat16"), "the type is bfloat16, and was float16"),
        (lambda old: replace(old, weights={}), "6 weights are absent now"),
        (lambda old: replace(old, io=frozenset({"x"})), "inputs or outputs change their type: x"),
        (lambda old: replace(old, masks=frozenset({"mul"})), "clamped as masks: mul"),
        (lambda old: replace(old, scalars={"mul": {"value": -6e4}}), "value=-60000, and had none"),
        (lambda old: replace(old, repairs=({"kind": "two-pass"},)), "1 now, and 0 before"),
        (lambda old: replace(old, fingerprint="another"), "another one:"),
    ],
)
def test_what_is_drift(
    change: Callable[[Plan], Plan], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.plan.json"
    write_plan(change(plan()), new)
    assert main(["diff", str(PLAN), str(new)]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("ampconvert Plans differ")
    assert said in printed
    assert main(["diff", str(new), str(new)]) == 0
    assert "Plans are the same" in capsys.readouterr().out


def test_numbers_of_a_repair_are_no_drift() -> None:
    one, other = ({"kind": "correct-bias", "edits": [{"by": by}]} for by in (0.25, 0.26))
    assert not diff(replace(plan(), repairs=(one,)), replace(plan(), repairs=(other,))).drifted


def test_the_json_holds_both_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = tmp_path / "new.plan.json"
    write_plan(with_type(with_decision(plan(), "linear_1", cls="deny"), "linear_1"), new)
    assert main(["diff", str(PLAN), str(new), "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["drifted"] is True
    assert [entry["node"] for entry in data["nodes"]] == ["linear_1"]
    old, now = (data["nodes"][0][side] for side in ("old", "new"))
    assert (old["runs_in"], old["verdict"]) == ("float16", "FP16-safe")
    assert (now["runs_in"], now["verdict"]) == ("float32", "FP32-required")
    assert data["plans"]["old"]["errors"]["log_softmax"] < 1e-2


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"schema": 1}'])
def test_what_is_no_plan_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    assert main(["diff", str(PLAN), str(bad)]) == 2
    assert str(bad) in capsys.readouterr().err
