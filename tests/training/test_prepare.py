"""prepare_training: the module stays what it was, and its gradients are those of float32."""

from __future__ import annotations

import copy
import inspect
import io

import pytest
import torch
from torch import nn

from ampconvert.training.prepare import Forward, trainings_of, unprepare_training
from tests.training.models import (
    LOWS,
    MODELS,
    ROOM,
    Net,
    distance,
    gradients,
    low_share,
    parts,
    prepared,
)


@pytest.mark.parametrize("scale", [1.0, 2.0**7])
@pytest.mark.parametrize("dtype", LOWS, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_float32(name: str, dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    make, data = MODELS[name]
    model = make()
    reference = copy.deepcopy(model)
    x = data(6)
    keys = list(model.state_dict())
    assert prepared(model, dtype, loss_scale=scale) is model
    found, truth = gradients(model, x), gradients(reference, x)
    assert 0 < distance(found, truth) < ROOM[dtype]
    assert low_share(model) > 0
    assert list(model.state_dict()) == keys
    for name, value in reference.state_dict().items():
        mine = model.state_dict()[name]
        assert mine.dtype == value.dtype
        assert torch.allclose(mine.double(), value.double(), rtol=0.02, atol=0.02), name


def test_the_module_is_the_same_object_with_the_same_signature() -> None:
    model = Net()
    prepared(model)
    assert type(model) is Net
    assert list(inspect.signature(model.forward).parameters) == ["x", "scale"]
    x = torch.randn(2, 1, 4, 4)
    model.eval()
    assert torch.allclose(model(x, scale=2.0), 2 * model(x), rtol=1e-2)


def test_state_dicts_load_both_ways() -> None:
    a, b = Net(), Net()
    prepared(a)
    a.load_state_dict(b.state_dict())
    Net().load_state_dict(a.state_dict())
    x = torch.randn(2, 1, 4, 4)
    assert torch.allclose(a.eval()(x), b.eval()(x), rtol=1e-2, atol=1e-2)


def test_train_and_eval_differ_as_ever() -> None:
    torch.manual_seed(0)
    model = Net()
    prepared(model)
    x = torch.randn(8, 1, 4, 4)
    before = model.norm.running_mean.clone()
    model.eval()
    assert torch.equal(model(x), model(x))
    assert torch.equal(model.norm.running_mean, before)
    model.train()
    assert not torch.equal(model(x), model(x))
    assert model.norm.running_mean.dtype == torch.float32
    assert not torch.equal(model.norm.running_mean, before)
    with torch.no_grad():
        assert model(x).grad_fn is None


def test_batch_sizes_change() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 3))
    reference = copy.deepcopy(model)
    prepared(model)
    for size in (4, 7, 1, 9, 30):
        x = torch.randn(size, 3)
        assert distance(gradients(model, x), gradients(reference, x)) < ROOM[torch.float16]
    assert len(parts(model)) <= 3


def test_a_copy_is_prepared_too_and_independent() -> None:
    model = Net()
    prepared(model)
    model(torch.randn(2, 1, 4, 4))
    twin = copy.deepcopy(model)
    assert isinstance(twin.forward, Forward)
    assert twin.forward.module is twin
    assert trainings_of(twin)[0] is not trainings_of(model)[0]
    twin.eval()
    with torch.no_grad():
        twin.head.weight.zero_()
        twin.head.bias.zero_()
    x = torch.randn(2, 1, 4, 4)
    assert not twin(x).any()
    assert model.eval()(x).any()


def test_a_saved_module_comes_back_prepared() -> None:
    model = Net()
    prepared(model)
    model.eval()
    x = torch.randn(2, 1, 4, 4)
    expected = model(x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert isinstance(again.forward, Forward)
    assert torch.equal(again(x), expected)


def test_unprepared_it_is_what_it_was() -> None:
    model = Net().eval()
    x = torch.randn(2, 1, 4, 4)
    expected = model(x)
    prepared(model)
    assert not torch.equal(model(x), expected)
    unprepare_training(model)
    assert "forward" not in vars(model)
    assert torch.equal(model(x), expected)


def test_a_forward_that_someone_replaced_is_kept() -> None:
    model = nn.Linear(3, 3)
    model.forward = lambda x: nn.Linear.forward(model, x) + 1  # type: ignore[method-assign]
    x = torch.randn(2, 3)
    expected = model(x)
    prepared(model)
    assert torch.allclose(model(x), expected, rtol=1e-2, atol=1e-2)
    unprepare_training(model)
    assert torch.equal(model(x), expected)


def test_what_dynamo_gave_up_elsewhere_is_captured() -> None:
    """torch.compile leaves recurrent layers to Python, and marks the forward that called one."""
    make, data = MODELS["lstm"]
    torch.compile(make(), backend="eager")(data(3))
    model = make()
    prepared(model, torch.bfloat16)
    model(data(3))
    assert low_share(model) > 0


class Looping(nn.Module):
    """A graph break in a loop: Dynamo leaves all of forward to Python."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 2)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = torch.relu(block(x))
            torch._dynamo.graph_break()
        return self.last(x)


def test_layers_beside_a_graph_break_are_captured_alone(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Looping()
    reference = copy.deepcopy(model)
    prepared(model, torch.bfloat16)
    x = torch.randn(4, 8)
    with caplog.at_level("WARNING", "ampconvert.training"):
        for _ in range(5):
            model(x)
    assert sum("captured alone" in r.message for r in caplog.records) == 1
    assert low_share(model) >= 3
    assert 0 < distance(gradients(model, x), gradients(reference, x)) < ROOM[torch.bfloat16]
    unprepare_training(model)
    assert "forward" not in vars(model.first)
    assert torch.equal(model(x), reference(x))


@pytest.mark.parametrize("name", MODELS)
def test_what_was_captured_is_not_missed(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, data = MODELS[name]
    model = make()
    prepared(model, torch.bfloat16)
    with caplog.at_level("WARNING", "ampconvert.training"):
        for _ in range(5):
            model(data(3))
    assert not [r.message for r in caplog.records if "no graph" in r.message]


def test_a_model_of_which_nothing_was_captured_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Opaque(nn.Linear):
        @torch.compiler.disable
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    model = Opaque(3, 2)
    prepared(model, torch.bfloat16)
    with caplog.at_level("WARNING", "ampconvert.training"):
        for _ in range(5):
            model(torch.randn(2, 3))
    assert sum("no graph has the model" in r.message for r in caplog.records) == 1
