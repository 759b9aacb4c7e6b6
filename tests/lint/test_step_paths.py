"""The ways through training steps: equal conditions have equal answers, and jumps end turns."""

from __future__ import annotations

import ast

import pytest

from ampconvert.lint.step_paths import Path
from tests.lint.training import SCALER, source, told, ways


def test_equal_conditions_have_equal_answers() -> None:
    text = f"""
    {SCALER}
    def train(model, x, optimizer, args):
        amp = args.amp
        if args.amp:
            scaler.scale(model(x)).backward()
        else:
            model(x).backward()
        if not amp:
            optimizer.step()
            optimizer.zero_grad()
            return
        scaler.step(optimizer)
    """
    assert ways(text) == {("backward", "step"), ("backward", "optimizer_step", "zero_grad")}


@pytest.mark.parametrize(
    ("made", "asked"),
    [
        ("torch.amp.GradScaler('cuda') if amp else None", "scaler is not None"),
        ("torch.amp.GradScaler('cuda') if amp else None", "scaler"),
        ("torch.amp.GradScaler('cuda')", "bool(amp)"),
        ("torch.amp.GradScaler('cuda')", "amp is True"),
        ("torch.amp.GradScaler('cuda')", "not (not amp)"),
    ],
)
def test_a_condition_in_other_words(made: str, asked: str) -> None:
    text = f"""
    def train(model, x, optimizer, amp):
        scaler = {made}
        if amp:
            scaler.scale(model(x)).backward()
        else:
            model(x).backward()
        if {asked}:
            scaler.step(optimizer)
        else:
            optimizer.step()
        optimizer.zero_grad()
    """
    told_ways = {
        tuple(told(e) for e in path.events if e.kind in ("backward", "step", "optimizer_step"))
        for path in source(text).steps.paths
    }
    assert told_ways == {
        ("backward scaler", "step scaler optimizer"),
        ("backward plain", "optimizer_step optimizer"),
    }


def test_a_scaler_that_is_used_is_there() -> None:
    text = """
    def train(model, x, optimizer, amp, scaler=None):
        if amp:
            scaler.scale(model(x)).backward()
        if scaler is None:
            clip_grad_norm_(model.parameters(), 1.0)
    """
    assert ways(text) == {("backward",), (), ("clip",)}


def test_conjunctions_and_computed_flags() -> None:
    text = f"""
    {SCALER}
    def train(model, loader, optimizer, n, clip):
        for i, x in enumerate(loader):
            ready = (i + 1) % n == 0
            scaler.scale(model(x)).backward()
            if ready and clip:
                scaler.unscale_(optimizer)
            if (i + 1) % n != 0:
                continue
            scaler.step(optimizer)
            scaler.update()
    """
    assert ways(text) == {
        ("backward",), ("backward", "step", "update"),
        ("backward", "unscale", "step", "update"),
    }  # fmt: skip


def test_turns_tell_how_they_end() -> None:
    text = f"""
    {SCALER}
    def train(model, loader, optimizer):
        for x in loader:
            scaler.scale(model(x)).backward()
            if x.bad:
                continue
            if x.last:
                break
            if x.wrong:
                raise ValueError(x)
            scaler.step(optimizer)
            scaler.update()
    """
    [(loop, found)] = source(text).steps.turns
    assert isinstance(loop.node, ast.For)
    ends = {(path.end, len([e for e in path.events if e.kind == "step"])) for path in found}
    assert ends == {("continue", 0), ("break", 0), ("end", 1)}


def test_a_handler_runs_without_the_body() -> None:
    text = f"""
    {SCALER}
    def train(model, x, optimizer):
        try:
            scaler.scale(model(x)).backward()
        except RuntimeError:
            optimizer.zero_grad()
        finally:
            scaler.update()
        optimizer.step()
    """
    assert ways(text) == {
        ("backward", "update", "optimizer_step"), ("zero_grad", "update", "optimizer_step"),
    }  # fmt: skip


def test_a_scaled_loss_is_followed_by_name() -> None:
    text = f"""
    {SCALER}
    def train(model, x, optimizer, amp):
        loss = model(x)
        if amp:
            loss = scaler.scale(loss)
        loss.backward()
        scaler.step(optimizer)
    """
    steps = source(text).steps
    found = set()
    for path in steps.paths:
        for at, event in enumerate(path.events):
            if event.kind == "backward":
                kinds = tuple(e.kind for e in path.before(at))
                found.add((kinds, path.loss_of(at)[0]))
    assert found == {(("assign", "scale"), "scaled"), (("assign",), "plain")}


def test_too_many_ways_are_taken_apart() -> None:
    branches = "\n".join(
        f"            if a{n}:\n                optimizer.zero_grad()" for n in range(12)
    )
    text = f"""
{SCALER}
def train(model, loader, optimizer):
    for x in loader:
        for y in x:
            scaler.scale(model(y)).backward()
            scaler.step(optimizer)
        for z in x:
{branches}
"""
    assert ways(text) == {("backward", "step")}


def test_always_wants_every_way_to_be_wrong() -> None:
    text = f"""
    {SCALER}
    def train(model, x, optimizer, a, b):
        scaler.scale(model(x)).backward()
        if a:
            scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 1.0)
        if b:
            scaler.unscale_(optimizer)
        clip_grad_norm_(model.parameters(), 2.0)
    """
    steps = source(text).steps

    def unclipped(path: Path, index: int) -> bool:
        return not any(e.kind == "clip" for e in path.before(index))

    assert [w.event.node.lineno for w in steps.always(("clip",), unclipped)] == [10]
    assert list(steps.always(("clip",), steps.are_scaled)) == []
