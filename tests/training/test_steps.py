"""Guarded steps: what is skipped stays as it was, bit for bit, and S moves as GradScaler's does."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ampconvert.errors import UserError
from ampconvert.training.scaling import Scaling, Schedule
from ampconvert.training.steps import StepGuard, skip_nonfinite_steps
from tests.training.guarded import (
    CPU,
    INF,
    NAN,
    OPTIMIZERS,
    Low,
    Net,
    Sharp,
    Trained,
    backward,
)

pytestmark = pytest.mark.usefixtures("fake_trainings")


def snapshot(net: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    """Parameters and the optimizer's state, bit for bit."""
    file = io.BytesIO()
    state = optimizer.state_dict()
    state.pop("ampconvert", None)
    state["param_groups"][0].pop("ampconvert", None)
    torch.save([list(net.parameters()), state], file)
    return file.getvalue()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("overflow", ["low", "head", "hidden"])
def test_a_skipped_step_changes_nothing(
    net: Net, make: Callable[[Any], torch.optim.Optimizer], overflow: str
) -> None:
    optimizer, twin = make(net.parameters()), copy.deepcopy(net)
    reference = make(twin.parameters())
    guard = skip_nonfinite_steps(optimizer, net)
    for bad in (False, True, False, True):
        optimizer.zero_grad()
        backward(net, 1e6 if bad and overflow != "head" else 1.0)
        if bad and overflow == "head":
            net.head.bias.grad[1] = NAN  # type: ignore[index]
        if bad and overflow == "hidden":
            for p in net.parameters():
                torch.nan_to_num_(p.grad, 0.0, 0.0, 0.0).clamp_(-1, 1)  # type: ignore[arg-type]
        before = snapshot(net, optimizer), [p.grad.clone() for p in net.parameters()]  # type: ignore[union-attr]
        optimizer.step()
        if bad:
            assert snapshot(net, optimizer) == before[0]
            for p, grad in zip(net.parameters(), before[1], strict=True):
                assert torch.equal(p.grad.nan_to_num(), grad.nan_to_num())  # type: ignore[union-attr]
        else:
            for p, q in zip(net.parameters(), twin.parameters(), strict=True):
                q.grad = p.grad.clone()  # type: ignore[union-attr]
            reference.step()
    assert (guard.steps, guard.skipped, guard.scale) == (4, 2, 2.0**14)
    assert net.state.heard == [False, True, False, True]
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


@settings(max_examples=50, deadline=None)
@given(
    found=st.lists(st.booleans(), max_size=40),
    interval=st.integers(1, 5),
    growth=st.sampled_from([1.0, 2.0, 4.0]),
    backoff=st.sampled_from([0.5, 0.125]),
    flagged=st.booleans(),
)
def test_scale_moves_as_gradscalers(
    found: Sequence[bool], interval: int, growth: float, backoff: float, flagged: bool
) -> None:
    numbers = {"growth_factor": growth, "backoff_factor": backoff, "growth_interval": interval}
    if growth == 1.0:  # GradScaler refuses what means: never grow
        scaler = None
    else:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, **numbers)  # type: ignore[arg-type]
    p = nn.Parameter(torch.ones(1))
    twin = torch.optim.SGD([p], lr=0.0)
    scaling, guard = Scaling(), object.__new__(StepGuard)
    scale = scaling.group("", CPU)
    scaling.join(guard, Schedule(2.0**10, **numbers))  # type: ignore[arg-type]
    for bad in found:
        scaling.update(guard, {""} if bad and flagged else (), bad)
        assert scale.factor.item() == scaling.value()
        if scaler is not None:
            scaler.scale(torch.ones(1))
            p.grad = torch.full((1,), INF if bad else 1.0)
            scaler.step(twin)
            scaler.update()
            assert scaling.value() == scaler.get_scale()


def test_microbatches_add_up_and_one_that_overflows_spoils_the_step(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net)
    for bad in (None, 0, 2):
        optimizer.zero_grad()
        for i in range(3):
            backward(net, 1e6 if i == bad else 1.0)
        optimizer.step()
    assert (guard.steps, guard.skipped, guard.scale) == (3, 2, 2.0**14)


def test_two_optimizers_of_one_model_lower_once(net: Net) -> None:
    first = torch.optim.SGD(net.low.parameters(), lr=0.1)
    second = torch.optim.Adam(net.head.parameters(), lr=0.1)
    guards = [skip_nonfinite_steps(o, net, growth_interval=2) for o in (first, second)]

    def train(by: float) -> Sequence[bool]:
        before = [guard.skipped for guard in guards]
        for optimizer in (first, second):
            optimizer.zero_grad()
        backward(net, by)
        for optimizer in (first, second):
            optimizer.step()
        return [guard.skipped > n for guard, n in zip(guards, before, strict=True)]

    # The head's own gradients are finite: the second skips for what the first one met.
    assert train(1e6) == [True, True] and guards[0].scale == guards[1].scale == 2.0**15
    assert train(1.0) == [False, False]
    assert guards[0].scale == 2.0**15, "a good step of each is one good step"
    assert train(1.0) == [False, False] and guards[0].scale == 2.0**16
    assert train(1e6) == [True, True] and guards[1].scale == 2.0**15


def test_what_one_optimizer_finds_in_its_own_gradients_stops_no_other(net: Net) -> None:
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (net.low, net.head)]
    guards = [skip_nonfinite_steps(o, net) for o in optimizers]
    backward(net)
    net.low.weight.grad[0, 0] = INF  # type: ignore[index]
    for optimizer in optimizers:
        optimizer.step()
    assert [g.skipped for g in guards] == [1, 0] and guards[0].scale == 2.0**15
    backward(net)
    for p in net.parameters():
        p.grad.fill_(NAN)  # type: ignore[union-attr]
    for optimizer in optimizers:
        optimizer.step()
    assert [g.skipped for g in guards] == [2, 1] and guards[0].scale == 2.0**14


def test_one_optimizer_of_two_models_lowers_the_one_to_blame() -> None:
    nets = Net(), Net()
    optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], lr=0.1)
    guard = skip_nonfinite_steps(optimizer, nets[0])
    assert skip_nonfinite_steps(optimizer, nets[1]) is guard
    backward(nets[0])
    backward(nets[1], 1e6)
    optimizer.step()
    assert [net.state.scaling.value() for net in nets] == [2.0**16, 2.0**15]
    assert guard.skipped == 1 and guard.scale == 2.0**15
    assert [net.state.heard for net in nets] == [[True], [True]]


def test_layers_have_scales_of_their_own() -> None:
    net = Net("layerwise")
    net.low.name = "layers.0"
    net.more = Low(net.state, "layers.1")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    guard = skip_nonfinite_steps(optimizer, net, growth_interval=3)
    scaling = net.state.scaling
    backward(net)
    backward(net.more, 1e6)
    optimizer.step()
    assert scaling.values() == {"layers.0": 2.0**16, "layers.1": 2.0**15}
    assert scaling.blamed == {"layers.1"} and guard.scale == 2.0**15
    scaling.set("layers.0", 8.0)
    optimizer.zero_grad()
    for _ in range(2):
        backward(net)
        optimizer.step()
    assert scaling.values() == {"layers.0": 16.0, "layers.1": 2.0**15}
    scaling.restore()
    assert scaling.values() == {"layers.0": 16.0, "layers.1": 2.0**16}
    net.head.bias.grad[0] = NAN  # type: ignore[index]
    optimizer.step()
    assert guard.skipped == 2 and scaling.values() == {"layers.0": 16.0, "layers.1": 2.0**16}


def test_a_static_scale_never_moves() -> None:
    net = Net(1024.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scale = net.state.scaling.group("", CPU)
    assert scale.factor.item() == 1024
    guard = skip_nonfinite_steps(optimizer, net, growth_interval=1)
    for by in (1.0, 1e6, 1.0):
        optimizer.zero_grad()
        backward(net, by)
        optimizer.step()
        assert scale.factor.item() == guard.scale == 1024
    assert guard.skipped == 1
    guard.remove()
    assert scale.factor.item() == 1024


def test_tensors_stay_the_same_and_devices_share_the_scale() -> None:
    scaling, guard = Scaling(), object.__new__(StepGuard)
    scale = scaling.group("any", CPU)
    assert scaling.group("other", CPU) is scale, "one group for all"
    factor, flag = scale.factor, scale.overflowed
    other = scaling.group("", torch.device("meta"))
    assert other is not scale and other.factor.device.type == "meta"
    assert factor.item() == 1 and not scaling.guarded
    scaling.join(guard, Schedule())
    assert factor.item() == 65536 and scaling.guarded
    with torch.inference_mode():
        assert not scaling.group("", CPU).factor.is_inference()
        late = Scaling("layerwise").group("x", CPU)
    assert not late.factor.is_inference()
    scaling.leave(guard)
    assert factor.item() == 1 and scaling.group("", CPU).overflowed is flag


def test_gradients_of_every_kind_are_checked() -> None:
    bad = torch.tensor([1.0, NAN])
    cases: dict[str, tuple[Tensor, Tensor]] = {
        "float32": (torch.ones(2), bad),
        "float64": (torch.ones(2).double(), bad.double()),
        "bfloat16": (torch.ones(2).bfloat16(), bad.bfloat16()),
        "float16": (torch.full((2,), 6e4).half(), torch.tensor([1.0, -INF]).half()),
        "complex": (torch.ones(2) * 1j, bad * 1j),
        "strided": (torch.ones(4, 3).t(), torch.full((4, 3), INF).t()),
        "expanded": (torch.ones(1).expand(5), torch.tensor([INF]).expand(5)),
        "scalar": (torch.tensor(1e38), torch.tensor(NAN)),
        "large": (torch.full((3,), 3.4e38), torch.tensor([INF, 1.0, 1.0])),
        "sparse": (
            torch.sparse_coo_tensor([[0, 1]], [1.0, 2.0], (3,), check_invariants=False),
            torch.sparse_coo_tensor([[0, 0]], [1.0, INF], (3,), check_invariants=False),
        ),
    }
    for name, (good, wrong) in cases.items():
        for grad, expected in ((good, False), (wrong, True)):
            net = Net()
            odd = nn.Parameter(torch.zeros(grad.shape, dtype=grad.dtype))
            empty = nn.Parameter(torch.zeros(0, 3))
            odd.grad, empty.grad = grad, torch.zeros(0, 3)
            optimizer = Sharp([*net.parameters(), empty, odd])
            optimizer.step = lambda: None  # type: ignore[method-assign]
            guard = skip_nonfinite_steps(optimizer, net)
            backward(net)
            version, kept = odd.grad._version, odd.grad.clone()
            optimizer.step()
            assert bool(guard.skipped) == expected, name
            assert odd.grad._version == version and torch.equal(
                odd.grad.to_dense().abs().nan_to_num(), kept.to_dense().abs().nan_to_num()
            )


def test_embedding_with_sparse_gradients() -> None:
    net = Net()
    net.table = nn.Embedding(10, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(net.table.parameters(), lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net)
    for by in (1.0, 1e6):
        optimizer.zero_grad()
        (net(net.table(torch.tensor([1, 1, 4]))).sum() * by).backward()
        before = net.table.weight.detach().clone()
        optimizer.step()
        assert torch.equal(before, net.table.weight) == (by > 1)
    assert guard.skipped == 1


def test_the_step_of_a_graph_in_use_may_change_the_scale(net: Net) -> None:
    """Two losses of one forward pass; the first one's step lowers S before the second flows."""
    optimizer = torch.optim.SGD([net.head.bias], lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net)
    out = net(torch.ones(2, 3))
    (out.sum() * 1e6).backward(retain_graph=True)
    optimizer.step()
    net.zero_grad()
    out.sum().backward()
    optimizer.step()
    assert guard.skipped == 1 and guard.scale == 2.0**15


def test_a_step_waits_for_the_device_once(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts what would wait on a GPU, in every kind of step."""
    net.state = net.low.training_[0] = Trained("layerwise")
    net.more = Low(net.state, "more")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net, growth_interval=2)
    waits = []
    for name in ("tolist", "item", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, original: Any = original) -> Any:
            waits.append(original)
            return original(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    for by in (1.0, 1e6, 1.0, 1.0):
        optimizer.zero_grad()
        backward(net, by)
        backward(net.more, 2.0**-10)
        waits.clear()
        optimizer.step()
        assert len(waits) == 1 and guard.scale > 1
    assert guard.skipped == 1


def test_bad_input(net: Net) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(UserError, match="LBFGS"):
        skip_nonfinite_steps(torch.optim.LBFGS(net.parameters()), net)
    with pytest.raises(UserError, match="Linear is not prepared"):
        skip_nonfinite_steps(optimizer, nn.Linear(1, 1))
    with pytest.raises(UserError, match="no optimizer"):
        skip_nonfinite_steps(net, net)
    for name, value in {
        "init_scale": 1000.0,
        "growth_factor": 0.5,
        "backoff_factor": 1.0,
        "growth_interval": 0,
    }.items():
        with pytest.raises(UserError, match=name):
            skip_nonfinite_steps(optimizer, net, **{name: value})  # type: ignore[arg-type]
    for value in (0.0, -2.0, INF, NAN, 3.0, 2.0**127):
        with pytest.raises(UserError, match="power of two"):
            Scaling(value)
    assert optimizer.step.__func__.__qualname__.startswith("SGD"), "nothing was guarded"  # type: ignore[attr-defined]
