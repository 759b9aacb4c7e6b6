"""What a guard knows rides in checkpoints, and stays out of copies."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from ampconvert.errors import UserError
from ampconvert.training import steps
from ampconvert.training.scaling import Scaling
from ampconvert.training.steps import StepGuard, skip_nonfinite_steps
from tests.training.guarded import (
    CPU,
    Net,
    Trained,
    backward,
)

pytestmark = pytest.mark.usefixtures("fake_trainings")


def test_state_rides_in_the_optimizers_checkpoint(net: Net) -> None:
    def fresh(seed: int) -> tuple[Net, torch.optim.Optimizer, StepGuard]:
        torch.manual_seed(seed)
        net = Net()
        optimizer = torch.optim.AdamW(net.parameters())
        return net, optimizer, skip_nonfinite_steps(optimizer, net, growth_interval=4)

    net, optimizer, guard = fresh(0)
    net.state.learnt = {"promoted": ["blocks.0/matmul#0"]}
    for by in (1e6, 1.0, 1.0):
        optimizer.zero_grad()
        backward(net, by)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    twin, other, restored = fresh(1)
    other.load_state_dict(state)
    assert "ampconvert" in state, "the caller's own is left as it was"
    assert restored.state_dict() == guard.state_dict()
    assert (restored.steps, restored.skipped, restored.scale) == (3, 1, 2.0**15)
    assert twin.state.learnt == net.state.learnt
    assert "ampconvert" not in other.param_groups[0]
    for _ in range(2):  # two good steps more are four in all
        backward(twin)
        assert restored.scale == 2.0**15
        assert twin.state.scaling.group("", CPU).factor.item() == 2.0**15
        other.step()
    assert restored.scale == 2.0**16


def test_checkpoints_without_a_guard_load_with_one_and_the_other_way_round(net: Net) -> None:
    plain = torch.optim.AdamW(net.parameters())
    guarded = torch.optim.AdamW(net.parameters(), lr=0.5)
    guard = skip_nonfinite_steps(guarded, net)
    backward(net)
    guarded.step()
    state = guarded.state_dict()
    plain.load_state_dict(state)
    assert plain.param_groups[0]["lr"] == 0.5 and plain.state
    guarded.load_state_dict(torch.optim.AdamW(net.parameters(), lr=0.25).state_dict())
    assert guarded.param_groups[0]["lr"] == 0.25 and guard.steps == 1
    guard.load_state_dict({**guard.state_dict(), "skipped": 5})
    assert guard.skipped == 5


def test_a_guard_takes_up_what_was_loaded_before_it_came(net: Net) -> None:
    optimizer = torch.optim.AdamW(net.parameters())
    guard = skip_nonfinite_steps(optimizer, net)
    backward(net, 1e6)
    optimizer.step()
    twin = Net()
    later = torch.optim.AdamW(twin.parameters())
    later.load_state_dict(optimizer.state_dict())
    late = skip_nonfinite_steps(later, twin)
    assert late.state_dict() == guard.state_dict() and late.scale == 2.0**15
    assert "ampconvert" not in later.param_groups[0]


@pytest.mark.parametrize("flat", [False, True])
def test_distributed_checkpoints_carry_the_state(net: Net, flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    optimizer = torch.optim.AdamW(net.parameters())
    guard = skip_nonfinite_steps(optimizer, net)
    for by in (1e6, 1.0):
        optimizer.zero_grad()
        backward(net, by)
        optimizer.step()
    state = get_optimizer_state_dict(net, optimizer, options=options)
    twin = Net()
    other = torch.optim.AdamW(twin.parameters())
    restored = skip_nonfinite_steps(other, twin)
    get_optimizer_state_dict(twin, other, options=options)
    assert other.state and restored.steps == 0, "filling an optimizer's state is no step"
    set_optimizer_state_dict(twin, other, state, options=options)
    if flat:  # its loader asks for the optimizer's own keys alone
        assert restored.steps == 0
    else:
        assert restored.state_dict() == guard.state_dict()
    unguarded = torch.optim.AdamW(Net().parameters())
    set_optimizer_state_dict(twin, torch.optim.AdamW(twin.parameters()), state, options=options)
    assert unguarded.param_groups


def test_a_first_step_at_a_rate_of_zero_is_guarded(net: Net) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0)  # a warm-up's
    guard = skip_nonfinite_steps(optimizer, net)
    backward(net, 1e6)
    optimizer.step()
    assert guard.skipped == 1 and not optimizer.state


def test_copied_and_unpickled_optimizers_have_no_guard(net: Net) -> None:
    optimizer = torch.optim.AdamW(net.parameters())
    guard = skip_nonfinite_steps(optimizer, net)
    backward(net)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        twin.step()
        assert "ampconvert" not in twin.state_dict()
        assert type(twin.step.__func__).__name__ == "function"
    assert guard.steps == 0
    optimizer.step()
    assert guard.steps == 1


def test_copies_start_anew(net: Net) -> None:
    skip_nonfinite_steps(torch.optim.SGD(net.parameters(), lr=0.1), net)
    backward(net)
    for make in (copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))):
        twin = make(net.state.scaling)
        assert twin.value() == 1 and not twin.guarded
        assert twin.group("", CPU).factor is not net.state.scaling.group("", CPU).factor
    assert copy.deepcopy(Scaling(64.0)).value() == 64


def test_compiled_models_join_at_their_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings: list[Trained] = []
    monkeypatch.setattr(steps, "trainings_of", lambda _: trainings)
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="prepare_training"):
        skip_nonfinite_steps(optimizer, model)
    guard = skip_nonfinite_steps(optimizer, torch.compile(model, backend="eager"))  # type: ignore[arg-type]
    guard.load_state_dict(
        {
            "steps": 7,
            "skipped": 1,
            "trainings": [{"scaling": {"scales": {"": 4.0}, "good": {}}, "state": {"a": 1}}],
        }
    )
    assert guard.scale == 1 and guard.steps == 7
    optimizer.step()
    assert guard.scale == 1
    trainings.append(Trained())
    optimizer.step()
    assert guard.scale == 4 and trainings[0].learnt == {"a": 1} and guard.steps == 9
    assert skip_nonfinite_steps(optimizer, model, compiled=True) is guard
