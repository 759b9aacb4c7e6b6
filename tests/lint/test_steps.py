"""The order of events in training steps, on which the rules on gradient scalers stand."""

from __future__ import annotations

import ast

import pytest

from ampconvert.lint.step_places import Places
from tests.lint.training import SCALER, events, source, told, ways


def test_one_step_in_its_order() -> None:
    text = f"""
    {SCALER}
    def train(model, loader, optimizer):
        for x in loader:
            optimizer.zero_grad()
            scaler.scale(model(x)).backward()
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
    """
    assert events(text) == [
        "zero_grad optimizer", "backward scaler", "unscale scaler optimizer", "clip",
        "step scaler optimizer", "update scaler",
    ]  # fmt: skip


def test_nothing_without_a_scaler() -> None:
    text = """
    def train(model, loader, optimizer):
        for x in loader:
            model(x).backward()
            optimizer.step()
    """
    assert source(text).steps.flows == []


def test_a_scaler_is_known_by_its_use() -> None:
    text = """
    def train(model, x, optimizer, s):
        s.scale(model(x)).backward()
        s.step(optimizer)
        s.update()
    """
    assert events(text) == ["backward s", "step s optimizer", "update s"]


def test_a_scaler_of_another_framework_is_none() -> None:
    text = """
    import paddle
    s = paddle.amp.GradScaler()
    def train(model, x, optimizer):
        s.scale(model(x)).backward()
        s.step(optimizer)
    """
    assert source(text).steps.events == []


def test_a_scaler_made_disabled_is_none() -> None:
    text = """
    s = torch.amp.GradScaler('cuda', enabled=False)
    def train(model, x, optimizer):
        s.unscale_(optimizer)
        s.step(optimizer)
    """
    assert events(text) == []


def test_functions_are_written_out_with_what_they_are_given() -> None:
    text = f"""
    def finish(s, o, limit=None):
        if limit is not None:
            s.unscale_(o)
        s.step(o)
        s.update()

    def train(model, loader, optim_g, optim_d):
        {SCALER}
        for x in loader:
            scaler.scale(model(x)).backward()
            finish(scaler, optim_g)
            finish(scaler, optim_d, 1.0)
    """
    assert ways(text) == {
        ("backward", "step", "update", "unscale", "step", "update"),
    }
    found = [e for e in source(text).steps.events if e.kind == "step"]
    assert [told(e) for e in found] == ["step scaler optim_g", "step scaler optim_d"]
    assert all(len(e.loops) == 1 and len(e.calls) == 1 for e in found)


def test_methods_share_the_attributes_of_their_class() -> None:
    text = """
    class Base:
        def finish(self):
            self.scaler.step(self.optimizer)
            self.scaler.update()

    class Trainer(Base):
        def __init__(self, optimizer):
            self.scaler = torch.amp.GradScaler('cuda')
            self.optimizer = optimizer

        def fit(self, loader, model):
            scaler = self.scaler
            for x in loader:
                scaler.scale(model(x)).backward()
                self.finish()
    """
    assert events(text) == [
        "backward self.scaler", "step self.scaler self.optimizer", "update self.scaler",
    ]  # fmt: skip
    places = {e.scaler for e in source(text).steps.events if e.scaler is not None}
    assert len(places) == 1


def test_an_object_of_the_file_and_self_are_one() -> None:
    text = """
    class State:
        def __init__(self):
            self.scaler = torch.amp.GradScaler('cuda')

        def update(self):
            self.scaler.update()

    def train(model, x, optimizer):
        state = State()
        state.scaler.scale(model(x)).backward()
        state.scaler.step(optimizer)
        state.update()
    """
    assert [e for e in events(text) if "scaler" in e] == [
        "backward self.scaler", "step self.scaler optimizer", "update self.scaler",
    ]  # fmt: skip


def test_closures_see_the_names_around_them() -> None:
    text = f"""
    def train(model, loader, optimizer):
        {SCALER}
        def step():
            scaler.step(optimizer)
            scaler.update()
        for x in loader:
            scaler.scale(model(x)).backward()
            step()
    """
    assert events(text) == ["backward scaler", "step scaler optimizer", "update scaler"]


def test_recursion_ends() -> None:
    text = f"""
    {SCALER}
    def train(model, x, optimizer):
        scaler.scale(model(x)).backward()
        train(model, x, optimizer)
        scaler.step(optimizer)
    """
    assert [e for e in events(text) if e.startswith("step")] == ["step scaler optimizer"]


@pytest.mark.parametrize(
    ("backward", "scaled"),
    [
        ("loss.backward()", "plain"),
        ("scaler.scale(loss).backward()", "scaled"),
        ("(scaler.scale(loss) / 2).backward(retain_graph=True)", "scaled"),
        ("torch.autograd.backward(scaler.scale(loss))", "scaled"),
        ("torch.autograd.backward([loss])", "plain"),
        ("engine.backward(scaler.scale(loss))", "scaled"),
        ("engine.backward(loss)", "framework"),
        ("self.manual_backward(loss)", "framework"),
        ("scaled_loss.backward()", "unknown"),
        ("helper.forward_backward(loss)", "unknown"),
    ],
)
def test_how_a_loss_goes_backward(backward: str, scaled: str) -> None:
    text = f"""
    {SCALER}
    def train(self, loss, scaled_loss, engine, helper):
        {backward}
    """
    found = [e for e in source(text).steps.events if e.kind == "backward"]
    assert [e.scaled for e in found] == [scaled]


def test_accelerate_scales_where_it_is_told_to() -> None:
    text = """
    from accelerate import Accelerator
    a = Accelerator(mixed_precision="fp16")
    b = Accelerator(mixed_precision="bf16")
    def train(loss, model):
        a.backward(loss)
        b.backward(loss)
        a.clip_grad_norm_(model.parameters(), 1.0)
        clip_grad_norm_(model.parameters(), 1.0)
    """
    found = source(text).steps.events
    assert [e.scaled for e in found] == ["framework scales", "framework", None]
    assert found[-1].kind == "clip"


def test_conditions_and_loops_around() -> None:
    text = f"""
    {SCALER}
    def train(model, epochs, loader, optimizer, n, log):
        for epoch in epochs:
            if log:
                for i, x in enumerate(loader):
                    scaler.scale(model(x)).backward()
                    if i % n == 0:
                        scaler.step(optimizer)
    """
    steps = source(text).steps
    step = next(e for e in steps.events if e.kind == "step")
    assert len(step.loops) == 2 and len(step.guards) == 2
    assert step.loop is not None
    [guard] = step.guards_in(step.loop)
    assert steps.variance.counts(guard, step.loop)
    assert not steps.variance.is_fixed(guard, step.loop)
    outer = step.guards[0]
    assert steps.variance.is_fixed(outer, step.loop)


@pytest.mark.parametrize(
    ("condition", "counts", "fixed"),
    [
        ("(i + 1) % n == 0", True, False),
        ("i == last", True, False),
        ("count >= n", True, False),
        ("self.seen % self.n == 0", True, False),
        ("n > 1", False, True),
        ("self.n > 1", False, True),
        ("norm < 100", False, False),
        ("torch.isfinite(norm)", False, False),
    ],
)
def test_what_counts_turns(condition: str, counts: bool, fixed: bool) -> None:
    text = f"""
    {SCALER}
    class T:
        def __init__(self, n):
            self.n = n
        def train(self, model, loader, optimizer, n, last):
            count = 0
            for i, x in enumerate(loader):
                count += 1
                self.seen += 1
                norm = model(x).norm()
                if {condition}:
                    scaler.step(optimizer)
                    scaler.update()
    """
    steps = source(text).steps
    step = next(e for e in steps.events if e.kind == "step")
    assert step.loop is not None
    [guard] = step.guards_in(step.loop)
    assert (steps.variance.counts(guard, step.loop), steps.variance.is_fixed(guard, step.loop)) == (
        counts, fixed,
    )  # fmt: skip


def test_places_tell_variables_apart() -> None:
    given = source("""
    def f(scaler):
        a = scaler
        return a

    def g(scaler):
        return scaler
    """)
    places = Places(given)
    a, own = [places.of(r.value, {}) for r in given.nodes(ast.Return) if r.value is not None]
    assert a is not None and own is not None
    assert a.path == own.path == "scaler" and a != own


def test_a_wrapper_that_is_called_is_written_out() -> None:
    text = """
    class NativeScaler:
        def __init__(self):
            self._scaler = torch.amp.GradScaler('cuda')

        def __call__(self, loss, optimizer, clip_grad=None, parameters=None):
            self._scaler.scale(loss).backward()
            if clip_grad is not None:
                self._scaler.unscale_(optimizer)
                clip_grad_norm_(parameters, clip_grad)
            self._scaler.step(optimizer)
            self._scaler.update()

    def train(model, loader, optimizer):
        loss_scaler = NativeScaler()
        for x in loader:
            loss_scaler(model(x), optimizer)
        for x in loader:
            loss_scaler(model(x), optimizer, clip_grad=1.0, parameters=model.parameters())
    """
    assert ways(text) == {
        ("backward", "step", "update", "backward", "unscale", "clip", "step", "update")
    }
