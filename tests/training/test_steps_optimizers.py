"""Guards in loops as people write them: schedulers, closures, scalers, wrapped optimizers."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, StepLR

from ampconvert.training.steps import StepGuard, skip_nonfinite_steps
from tests.training.guarded import (
    CPU,
    INF,
    NAN,
    OPTIMIZERS,
    Net,
    Sharp,
    backward,
)

pytestmark = pytest.mark.usefixtures("fake_trainings")


@pytest.mark.parametrize("scheduler_first", [True, False])
def test_schedulers_come_before_or_after(net: Net, scheduler_first: bool) -> None:
    """No warning about their order, not even when the first step is skipped."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if scheduler_first:
            scheduler = StepLR(optimizer, 1, 0.5)
        guard = skip_nonfinite_steps(optimizer, net)
        if not scheduler_first:
            scheduler = StepLR(optimizer, 1, 0.5)
        more = LambdaLR(optimizer, lambda _: 1.0)
        for by in (1e6, 1.0):
            before = net.head.bias.detach().clone()
            backward(net, by)
            optimizer.step()
            assert torch.equal(before, net.head.bias) == (by > 1)
            scheduler.step()
            more.step()
            optimizer.zero_grad()
    assert (guard.steps, guard.skipped) == (2, 1)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_closures_run_before_the_check(net: Net, name: str) -> None:
    optimizer = OPTIMIZERS[name](net.parameters())
    guard = skip_nonfinite_steps(optimizer, net)
    for by, arguments in itertools.product((1.0, 1e6), ("positional", "keyword")):
        before = net.head.bias.detach().clone()

        def closure(by: float = by) -> Tensor:
            optimizer.zero_grad()
            assert torch.is_grad_enabled()
            loss = net(torch.ones(2, 3)).sum() * by
            loss.backward()
            return loss  # type: ignore[no-any-return]

        with torch.no_grad():
            loss = (
                optimizer.step(closure)
                if arguments == "positional"
                else optimizer.step(closure=closure)
            )
        assert isinstance(loss, Tensor)
        assert torch.equal(before, net.head.bias) == (by > 1)
    assert (guard.steps, guard.skipped) == (4, 2)


class Small(torch.optim.SGD):
    """A user's subclass that steps as torch's."""


def test_other_optimizers_get_their_closure_and_arguments(net: Net) -> None:
    optimizer, calls = Sharp(net.parameters()), []
    guard = skip_nonfinite_steps(optimizer, net)
    backward(net)
    assert optimizer.step(lambda: calls.append(1) or 7, half=True) == 7
    assert len(calls) == 2 and guard.skipped == 0
    net.head.bias.grad[0] = INF  # type: ignore[index]
    assert optimizer.step(lambda: calls.append(1)) is None
    assert len(calls) == 2 and guard.skipped == 1
    own = Small(net.parameters(), lr=0.1)
    guard = skip_nonfinite_steps(own, net)
    assert own.step(lambda: calls.append(1) or 5) == 5 and len(calls) == 3


def wrapper(module: str, attribute: str) -> Callable[[Any], Any]:
    """A class of another package that holds an optimizer and calls its step."""

    def step(self: Any, closure: Any = None) -> Any:
        return getattr(self, attribute).step(closure)

    cls = type("Wrapped", (torch.optim.Optimizer,), {"__module__": module, "step": step})

    def wrap(optimizer: Any) -> Any:
        own = cls.__new__(cls)
        own.__dict__[attribute] = optimizer
        return own

    return wrap


@pytest.mark.parametrize(
    "wrap",
    [
        wrapper("accelerate.optimizer", "optimizer"),
        wrapper("lightning.pytorch.core.optimizer", "_optimizer"),
        wrapper("pytorch_lightning.core.optimizer", "_optimizer"),
    ],
)
def test_wrapped_optimizers_are_guarded_inside(net: Net, wrap: Callable[[Any], Any]) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    outer = wrap(wrap(optimizer))
    guard = skip_nonfinite_steps(outer, net)
    assert guard.optimizer is optimizer and skip_nonfinite_steps(optimizer, net) is guard
    backward(net, 1e6)
    outer.step()
    assert guard.skipped == 1


@pytest.mark.parametrize("name", ["sgd", "adamw", "adamw-fused"])
@pytest.mark.parametrize("explicit", [False, True])
def test_a_gradscaler_in_the_loop_has_the_same_result(net: Net, name: str, explicit: bool) -> None:
    def train(guarded: bool) -> tuple[list[Tensor], list[float], StepGuard | None]:
        torch.manual_seed(1)
        net = Net()
        optimizer = OPTIMIZERS[name](net.parameters())
        guard = skip_nonfinite_steps(optimizer, net, init_scale=2.0) if guarded else None
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
        seen = []
        for by in (1.0, 1e9, 1.0, 1e6, 1.0):
            optimizer.zero_grad()
            scaler.scale(net(torch.full((1, 3), 0.5)).sum() * by).backward()
            if explicit:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            seen.append(scaler.get_scale())
        return list(net.parameters()), seen, guard

    expected, scales, _ = train(False)
    got, seen, guard = train(True)
    assert seen == scales and guard is not None
    assert (guard.steps, guard.skipped, guard.scale) == (5, 1, 1.0)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def test_a_disabled_gradscaler_changes_nothing(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    scaler.scale(net(torch.ones(1, 3)).sum() * 1e6).backward()
    scaler.step(optimizer)
    assert guard.skipped == 1 and guard.scale == 2.0**15


def test_optimizers_that_step_while_gradients_flow() -> None:
    """S stays what it was until the backward pass is through, so that it multiplies and divides
    alike.
    """
    net = Net()
    optimizers = {p: torch.optim.SGD([p], lr=0.0) for p in net.parameters()}
    for optimizer in optimizers.values():
        guard = skip_nonfinite_steps(optimizer, net, growth_interval=1)
    true = []
    for p, optimizer in optimizers.items():

        def step(p: Tensor, optimizer: Any = optimizer) -> None:
            optimizer.step()
            true.append(p.grad.clone())  # type: ignore[union-attr]
            optimizer.zero_grad()

        p.register_post_accumulate_grad_hook(step)
    factor = net.state.scaling.group("", CPU).factor
    for i in range(3):
        assert factor.item() == guard.scale == 2.0 ** (16 + i)
        backward(net, 2.0**-8)
        assert torch.equal(true[-1], true[2]), "the weight in float16 comes last"


def test_hooks_of_a_skipped_step_do_not_run(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(guard.steps))
    guard = skip_nonfinite_steps(optimizer, net)
    for by in (1.0, 1e6, 1.0):
        optimizer.zero_grad()
        backward(net, by)
        optimizer.step()
    assert seen == [1, 3]


def test_a_loop_may_compile_its_step(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=torch.tensor(0.1))
    guard = skip_nonfinite_steps(optimizer, net)

    @torch.compile(backend="eager")
    def step() -> None:
        optimizer.step()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for by in (1.0, 1e6, 1.0):
            before = net.head.bias.detach().clone()
            optimizer.zero_grad()
            backward(net, by)
            step()
            assert torch.equal(before, net.head.bias) == (by > 1)
    assert (guard.steps, guard.skipped) == (3, 1)
    assert net.state.heard == [False, True, False]


def test_guarding_twice_gives_the_same_guard(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net, init_scale=256.0)
    step = optimizer.step
    assert skip_nonfinite_steps(optimizer, net, growth_interval=1) is guard
    assert optimizer.step == step and guard.scale == 256
    backward(net)
    optimizer.step()
    assert guard.steps == 1 and guard.scale == 512


@pytest.mark.parametrize("scheduled", ["before", "after", "never"])
def test_a_removed_guard_lets_every_step_pass(net: Net, scheduled: str) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    if scheduled == "before":
        StepLR(optimizer, 1)
    guard = skip_nonfinite_steps(optimizer, net)
    if scheduled == "after":
        StepLR(optimizer, 1)
    backward(net)
    guard.remove()
    assert guard.scale == 1 and net.state.scaling.group("", CPU).factor.item() == 1
    assert "ampconvert" not in optimizer.state_dict()
    net.head.bias.grad[0] = NAN  # type: ignore[index]
    optimizer.step()
    assert guard.steps == 0 and net.head.bias[0].isnan()
    again = skip_nonfinite_steps(optimizer, net)
    assert again is not guard and again.scale == 65536
    optimizer.step()
    assert (again.steps, again.skipped, guard.steps) == (1, 1, 0)
