"""What an observed step shows: constructed overflows and losses, and that observing changes
nothing.
"""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ampconvert.rules import command_line_rule
from ampconvert.training.observation import (
    Observation,
    Overflow,
)
from tests.training.observed import watched


class Attention(nn.Module):
    def __init__(self, size: int = 16, logits: float = 1.0) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(size, size, bias=False) for _ in range(3))
        with torch.no_grad():
            self.q.weight.copy_(torch.eye(size) * logits)
            self.k.weight.copy_(torch.eye(size) * logits)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = (scores / 4).masked_fill(later, -torch.inf).softmax(-1)
        return weights @ self.v(x)


class Net(nn.Module):
    def __init__(self, logits: float = 1.0) -> None:
        super().__init__()
        self.attn = Attention(logits=logits)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attn(x))


def batch(*sizes: int) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------------------ forward


def test_logits_beyond_float16_are_found_and_the_infinities_of_a_mask_are_not() -> None:
    x = batch(2, 6, 16)
    assert not watched(Net()).step(x).overflows
    seen = watched(Net(logits=100.0)).step(x)
    assert list(seen.overflows) == ["attn/matmul#0"]
    found = seen.overflows["attn/matmul#0"]
    assert found.places == ("attn/matmul#0", "attn/div#0")  # who makes it, and who reads it
    x16 = (x.half().float() * 100).half().float()
    size = (x16 @ x16.transpose(-1, -2)).abs().max().item()
    assert found.magnitude == pytest.approx(size, rel=1e-5)
    assert size > 65520
    assert seen.where["attn/matmul#0"].startswith("test_observe.py:")


class SquaredNorm(nn.Module):
    """RMSNorm as people write it by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16, bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(torch.eye(16))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return h * torch.rsqrt((h * h).mean(-1, keepdim=True) + 1e-6)


def test_a_square_that_overflows_is_found_though_no_output_shows_it() -> None:
    allow = [command_line_rule(op, "allow") for op in ("mul", "mean", "add", "rsqrt")]
    x = batch(4, 16).sign() * 300
    run = watched(SquaredNorm(), rules=allow)
    assert run.micro(x).isfinite()  # 1 / sqrt(inf) is 0: the layer is silent
    seen = run.step(x)
    # The mean of 9e4 overflows too: all is named at once, up to the op that brings it back.
    assert set(seen.overflows) == {"mul#0", "mean#0", "add#0"}
    assert seen.overflows["mul#0"].magnitude == 90000
    assert seen.overflows["mul#0"].places == ("mul#0", "mean#0")
    assert seen.overflows["add#0"].places == ("add#0", "rsqrt#0")
    # A mean that fits again ends it there.
    part = torch.cat([x[:, :1], torch.ones(4, 15)], 1)
    assert set(run.step(part).overflows) == {"mul#0"}


def test_an_input_that_float16_cannot_hold_is_named_by_who_reads_it() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    seen = watched(model).step(torch.full((2, 4), 1e5))
    assert seen.overflows["0/linear#0:input"] == Overflow(1e5, ("0/linear#0",))
    assert not watched(model).step(torch.full((2, 4), 6e4 / 5)).overflows


def test_what_was_infinite_before_is_nobodys_overflow() -> None:
    x = torch.ones(2, 4)
    x[0, 0] = torch.inf
    assert not watched(nn.Sequential(nn.Linear(4, 4), nn.ReLU())).step(x).overflows


# ------------------------------------------------------------------------ changes nothing


class Mixed(nn.Module):
    """Dropout, BatchNorm, one module twice and a shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.block = nn.Linear(16, 16)
        self.out = nn.Linear(16, 16)
        self.out.weight = self.block.weight

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.norm(self.conv(x)).relu().mean((-1, -2)), 0.5, self.training)
        h = h.repeat(1, 4)
        return self.out(self.block(torch.tanh(self.block(h))))


def test_observing_changes_no_number_and_draws_none() -> None:
    results = []
    for watches in (False, True):
        torch.manual_seed(0)
        run = watched(Mixed(), scale=1024.0)
        run.training.watches = watches
        loss = run.micro(batch(3, 1, 8, 8))
        grads = {name: p.grad for name, p in run.model.named_parameters()}
        results.append((loss, grads, dict(run.model.named_buffers()), torch.rand(2)))
    plain, seen = results
    torch.testing.assert_close(seen, plain, rtol=0, atol=0)
    assert plain[2]["norm.num_batches_tracked"] == 1


def test_two_uses_of_a_module_are_two_places() -> None:
    seen = watched(Mixed()).step(batch(3, 1, 8, 8))
    assert {"block/linear#0", "block/linear#1", "out/linear#0"} <= set(seen.gradients)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention(logits=100.0)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(lambda h: self.drop(self.attn(h)), x, use_reentrant=False)


def test_the_body_of_a_checkpoint_is_watched() -> None:
    x = batch(2, 6, 16)
    grads = []
    for watches in (False, True):
        torch.manual_seed(0)
        run = watched(Checkpointed(), scale=8.0)
        run.training.watches = watches
        run.micro(x * 0.1)
        grads.append([p.grad for p in run.model.parameters()])
    torch.testing.assert_close(*grads, rtol=0, atol=0)
    seen = run.step(x)
    assert [name.split("#")[0] for name in seen.overflows] == ["attn/matmul"]
    assert any(name.startswith("attn.v/linear") for name in seen.gradients)


def test_nothing_of_a_run_outlives_it() -> None:
    """Hooks live as long as the graph of gradients, and hold no values."""
    run = watched(Net())
    x = batch(2, 6, 16)
    gc.collect()
    gc.disable()
    try:
        y = run.call(x)
        first = weakref.ref(y.grad_fn)
        y.square().mean().backward()
        del y
        assert first() is None
    finally:
        gc.enable()


# ----------------------------------------------------------------------------- gradients


class TwoHeads(nn.Module):
    """Gradients of very different size in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.large, self.small = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.large(x).tanh(), self.small(x).tanh()


def two_losses(large: float, small: float) -> Any:
    return lambda y: (y[0] * large).sum() + (y[1] * small).sum()


def test_the_gradient_that_overflows_and_those_that_vanish_are_told_apart() -> None:
    run = watched(TwoHeads(), scale=2.0**10)
    seen = run.step(batch(3, 8), loss=two_losses(100.0, 2.0**-38))
    assert seen.first is not None
    assert not seen.first.outside
    assert seen.first.name == "tanh#0"  # 100 * 1024 > 65504 as it enters the region
    large, small = seen.gradients["tanh#0"], seen.gradients["tanh#1"]
    assert large.overflowed == 12
    assert large.histogram.largest == 100
    assert (small.flushed, small.overflowed, small.histogram.nonzero) == (12, 0, 12)
    assert small.histogram.lost(10, "float16") == 1.0
    assert small.histogram.lost(14, "float16") == 0.0
    assert run.step(batch(3, 8), loss=two_losses(1.0, 1.0)).first is None


def test_a_loss_that_is_not_finite_itself_is_no_overflow_of_a_region() -> None:
    seen = watched(TwoHeads()).step(batch(3, 8), loss=two_losses(float("nan"), 1.0))
    assert seen.first is not None
    assert seen.first.outside


def test_histograms_are_of_the_true_gradient_whatever_the_scale() -> None:
    x = batch(16, 16, 16)
    torch.manual_seed(0)
    run = watched(Net(), scale=2.0**6)
    near = run.step(x)
    run.scale(2.0**9)
    far = run.step(x)
    assert near.gradients.keys() == far.gradients.keys()
    for name, gradient in near.gradients.items():
        assert (gradient.scale, far.gradients[name].scale) == (2.0**6, 2.0**9)
        assert gradient.histogram.largest == pytest.approx(
            far.gradients[name].histogram.largest, rel=0.01
        )
    assert far.underflow < near.underflow


def test_the_histogram_at_one_scale_predicts_the_loss_at_another() -> None:
    """What float16 keeps at S, counted, and what the histogram of a larger S says of S."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh())
    x = batch(64, 32)
    run = watched(model, scale=2.0**10)
    rich = run.step(x)
    for power in (-2, -5, -8):
        run.scale(2.0**power)
        poor = run.step(x)
        name = "0/linear#0"
        size = rich.gradients[name].histogram
        kept = poor.gradients[name].histogram.nonzero
        assert 1 - kept / size.nonzero == pytest.approx(size.lost(power, "float16"), abs=0.06)


def test_microbatches_add_up() -> None:
    run = watched(Net(), scale=4.0)
    x = batch(2, 6, 16)
    one = run.step(x)
    run.micro(x)
    two = run.training.watcher.read()
    for name, gradient in one.gradients.items():
        assert two.gradients[name].histogram == gradient.histogram.merge(gradient.histogram)


def test_layers_with_scales_of_their_own_are_counted_with_those() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](self.layers[0](x))

    run = watched(Layers(), loss_scale="layerwise")
    run.call(batch(2, 8))  # makes the groups
    run.scale(4.0, "layers.0")
    run.scale(64.0, "layers.1")
    seen = run.step(batch(2, 8))
    assert seen.gradients["layers.0/linear#0"].scale == 4.0
    assert seen.gradients["layers.0/linear#0:weight"].scale == 4.0
    assert seen.gradients["layers.1/linear#0"].scale == 64.0
    assert seen.gradients["layers.1/linear#0:input"].scale == 64.0  # before it is rescaled


def test_bfloat16_is_not_observed() -> None:
    seen = watched(Net(logits=100.0), dtype=torch.bfloat16).step(batch(2, 6, 16))
    assert seen == Observation()


# -------------------------------------------------------------------------------- places


def test_places_are_the_same_in_other_modes_and_for_other_sizes() -> None:
    run = watched(Mixed())
    for mode, size in ((True, 3), (True, 5), (False, 4)):
        run.model.train(mode)
        run.micro(batch(size, 1, 8, 8))
    named = [{p.name for p in found.values()} for found in run.training.places]
    common = {"conv/conv2d#0", "norm/batch_norm#0", "block/linear#1", "out/linear#0"}
    assert all(common <= names for names in named)
    lines = [{p.name: p.where for p in found.values()} for found in run.training.places]
    assert len({found["block/linear#0"] for found in lines}) == 1
