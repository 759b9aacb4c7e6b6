"""Repairs of captured programs: float32 answers the same, and the emulated low model better."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ampconvert.cost import load_target
from ampconvert.frontends import fx_repair_bias
from ampconvert.repairs import Repair, find_all
from ampconvert.repairs.correct_bias import correctable
from ampconvert.repairs.find import find
from tests.repaired import Torch


class RmsNorm(nn.Module):
    """Llama's, by hand, behind a layer; `size` is what the activations come to."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 32)
        self.weight = nn.Parameter(torch.rand(32) + 0.5)
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inner(x) * self.size
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))


class LayerNorm(RmsNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inner(x) * self.size
        centred = h - h.mean(-1, keepdim=True)
        deviation = torch.sqrt((centred * centred).mean(-1, keepdim=True) + 1e-5)
        return centred / deviation * self.weight


class Normalize(RmsNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.inner(x) * self.size, dim=-1)


class Deviation(RmsNorm):
    """A variance whose value itself is used, so that the scale has to be undone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.inner(x) * self.size
        return h / (1 + h.var(-1, keepdim=True).sqrt())


class Nested(RmsNorm):
    """Two norms, one in the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = super().forward(x) * self.size
        return h * torch.rsqrt((h * h).sum(-1, keepdim=True) + 1e-6)


class Attention(nn.Module):
    def __init__(self, by: str) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(16, 80), nn.Linear(16, 80)
        self.by = by

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = self.query(x) * 90, self.key(x) * 90
        scores = q @ k.transpose(-1, -2)
        if self.by == "div":
            scores = scores / math.sqrt(80)
        elif self.by == "power of two":
            scores = scores * 0.125
        else:
            scores = 0.1 * scores
        mask = torch.tril(torch.ones(8, 8)) == 0
        return torch.softmax(scores.masked_fill(mask, -1e9) * 1e-3, -1) @ x


class OnePass(nn.Module):
    """A variance as a difference, around a mean that hides it in 16 bits."""

    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean((-1, -2), keepdim=self.keepdim)
        return (x * x).mean((-1, -2), keepdim=self.keepdim) - mean**2


class LogProbabilities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 32)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.inner(x) * 12
        return torch.log(F.softmax(h, -1)), torch.log(torch.sigmoid(h))


class Small(nn.Module):
    """Weights that float16 hardly holds: of a layer with a bias, a convolution and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 24)
        self.conv = nn.Conv1d(24, 24, 3, padding=1, bias=False)
        self.matrix = nn.Parameter(torch.randn(24, 8) * 2e-6)
        with torch.no_grad():
            self.linear.weight *= torch.logspace(-6, 0, 24)[:, None]
            self.linear.bias *= 1e-2
            self.conv.weight *= 1e-5

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.linear(x)
        return h * 1000, self.conv(h.transpose(-1, -2)).transpose(-1, -2) @ self.matrix * 1e7


SQUARES = {
    "rms norm": (RmsNorm, 900.0),
    "layer norm": (LayerNorm, 900.0),
    "normalize": (Normalize, 900.0),
    "deviation": (Deviation, 900.0),
    "tiny": (RmsNorm, 1e-3),
    "tiny layer norm": (LayerNorm, 5e-3),
}


def made(module: nn.Module, *shape: int, shift: float = 0.0) -> Torch:
    generator = torch.Generator().manual_seed(1)
    return Torch.of(module, torch.randn(*shape, generator=generator) + shift)


def found(model: Torch, kind: str, low: str = "float16") -> tuple[Repair, ...]:
    return find(kind, model.graph, low, model.ranges())  # type: ignore[arg-type]


def allowed(repairs: tuple[Repair, ...]) -> list[str]:
    return [name for repair in repairs for name in repair.allows]


def nodes_of(repairs: tuple[Repair, ...]) -> list[str]:
    return [name for repair in repairs for name in repair.nodes]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("case", SQUARES)
def test_squares_are_scaled(case: str) -> None:
    module, size = SQUARES[case]
    model = made(module(size), 4, 16)
    repairs = found(model, "scale-squares")
    assert len(repairs) == 1
    repaired = model.repaired(repairs)
    expected = model.answers()
    for before, after in zip(expected, repaired.answers(), strict=True):
        np.testing.assert_array_equal(before, after)
    right = repaired.run("float16", expected, allowed(repairs), repaired.ranges())
    assert set(allowed(repairs)) <= right.low
    assert right.error < 2e-3
    assert not found(repaired, "scale-squares")


@pytest.mark.parametrize("size", [900.0, 1e-3])
def test_squares_that_leave_float16_go_wrong_without_the_repair(size: float) -> None:
    model = made(RmsNorm(size), 4, 16)
    repairs = found(model, "scale-squares")
    expected = model.answers()
    wrong = model.run("float16", expected, nodes_of(repairs))
    repaired = model.repaired(repairs)
    right = repaired.emulated("float16", expected, allowed(repairs), ranges=repaired.ranges())
    assert right.error < 2e-3
    assert wrong.error > 2 * right.error


def test_nested_norms_are_scaled_each() -> None:
    model = made(Nested(900.0), 4, 16)
    repairs = found(model, "scale-squares")
    assert len(repairs) == 2
    repaired = model.repaired(repairs)
    np.testing.assert_array_equal(model.answers()[0], repaired.answers()[0])
    result = repaired.run("float16", model.answers(), allowed(repairs))
    assert result.error < 2e-3


def test_squares_that_fit_are_left_alone() -> None:
    assert not found(made(RmsNorm(3.0), 4, 16), "scale-squares")
    assert not found(made(RmsNorm(900.0), 4, 16), "scale-squares", "bfloat16")


@pytest.mark.parametrize("by", ["div", "power of two", "mul"])
def test_the_query_is_scaled(by: str) -> None:
    model = made(Attention(by), 2, 8, 16)
    repairs = found(model, "scale-query")
    assert len(repairs) == 1
    repaired = model.repaired(repairs)
    expected = model.answers()
    np.testing.assert_allclose(repaired.answers()[0], expected[0], rtol=1e-5, atol=1e-6)
    wrong = model.run("float16", expected, [repairs[0].nodes[0]])
    right = repaired.run("float16", expected, allowed(repairs), repaired.ranges())
    assert set(allowed(repairs)) <= right.low
    assert math.isinf(wrong.error) or wrong.error > 10 * right.error
    assert right.error < 2e-2
    assert not found(repaired, "scale-query")
    has_scaling = any(node.name == repairs[0].nodes[1] for node in repaired.graph.nodes)
    assert has_scaling == (by != "power of two")


@pytest.mark.parametrize("keepdim", [True, False])
def test_a_variance_takes_two_passes(keepdim: bool) -> None:
    model = made(OnePass(keepdim), 4, 6, 32, shift=40.0)
    repairs = found(model, "two-pass-variance")
    assert len(repairs) == 1
    repaired = model.repaired(repairs)
    exact = [model.args[0].double().var((-1, -2), unbiased=False, keepdim=keepdim).numpy()]
    np.testing.assert_allclose(repaired.answers()[0], exact[0], rtol=1e-5)
    np.testing.assert_allclose(model.answers()[0], exact[0], rtol=1e-2)
    for low in ("float16", "bfloat16"):
        every = [node.name for node in model.graph.nodes]
        wrong = model.run(low, exact, every)  # type: ignore[arg-type]
        every = [node.name for node in repaired.graph.nodes]
        right = repaired.run(low, exact, every)  # type: ignore[arg-type]
        assert right.error < wrong.error / 2
    assert not found(repaired, "two-pass-variance")
    assert allowed(repairs)


def test_logarithms_of_probabilities_are_taken_together() -> None:
    model = made(LogProbabilities(), 4, 16)
    repairs = found(model, "log-softmax")
    assert [repair.edits[0].function for repair in repairs] == ["log_softmax", "log_sigmoid"]  # type: ignore[union-attr]
    repaired = model.repaired(repairs)
    expected = model.answers()
    for before, after in zip(expected, repaired.answers(), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    wrong = model.run("float16", expected, nodes_of(repairs))
    right = repaired.emulated("float16", expected, allowed(repairs), ranges=repaired.ranges())
    assert math.isinf(wrong.error)
    assert right.error < 5e-3
    assert not found(repaired, "log-softmax")


def test_small_weights_are_scaled_row_by_row() -> None:
    model = made(Small(), 4, 6, 16)
    repairs = found(model, "scale-weights")
    assert len(repairs) == 3
    repaired = model.repaired(repairs)
    expected = model.answers()
    for before, after in zip(expected, repaired.answers(), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-7)
    wrong = model.run("float16", expected, nodes_of(repairs), model.ranges())
    right = repaired.emulated("float16", expected, allowed(repairs), ranges=repaired.ranges())
    assert right.error < wrong.error / 4
    assert repaired.program.state_dict.keys() == model.program.state_dict.keys()
    assert not found(repaired, "scale-weights")


def test_large_weights_are_scaled_into_range() -> None:
    module = nn.Linear(16, 8)
    with torch.no_grad():
        module.weight *= 4e5
        module.bias *= 0
    model = made(nn.Sequential(Shrink(), module, Shrink()), 4, 16)
    repairs = found(model, "scale-weights")
    assert len(repairs) == 1
    assert repairs[0].numbers["power"] < 0
    repaired = model.repaired(repairs)
    expected = model.answers()
    np.testing.assert_array_equal(repaired.answers()[0], expected[0])
    assert math.isinf(model.run("float16", expected, nodes_of(repairs)).error)
    assert repaired.run("float16", expected, allowed(repairs)).error < 2e-3


class Shrink(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.01


class Uncentred(nn.Module):
    """Layers with inputs of one sign: with a bias, without one, and as a bare product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 48), nn.Conv1d(48, 40, 1, bias=False)
        self.third = nn.Parameter(torch.randn(40, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.first(F.relu(x + 3))) + 2
        h = F.relu(self.second(h.transpose(-1, -2)).transpose(-1, -2)) + 2
        return h @ self.third


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_biases_are_corrected_on_data_not_seen(low: str) -> None:
    model = made(Uncentred(), 8, 16, 32)
    layers = correctable(model.graph, low)  # type: ignore[arg-type]
    assert len(layers) == 3
    seen = fx_repair_bias.output_errors(
        model.program, [((torch.randn(8, 16, 32),), {}), ((torch.randn(8, 16, 32),), {})],
        low, layers,  # type: ignore[arg-type]
    )  # fmt: skip
    repairs = find_all(model.graph, low, {}, errors=seen)  # type: ignore[arg-type]
    assert len(repairs) >= 2
    repaired = model.repaired(repairs)
    expected = model.answers()
    assert np.abs(repaired.answers()[0] - expected[0]).mean() < np.abs(expected[0]).mean() / 100
    before = model.run(low, expected)  # type: ignore[arg-type]
    after = repaired.run(low, expected)  # type: ignore[arg-type]
    assert after.error < 0.97 * before.error
    again = fx_repair_bias.output_errors(
        repaired.program, [(model.args, {})], low, correctable(repaired.graph, low)  # type: ignore[arg-type]
    )  # fmt: skip
    corrected = {repair.nodes[0] for repair in repairs}
    more = find_all(repaired.graph, low, {}, errors=again)  # type: ignore[arg-type]
    assert not corrected & {repair.nodes[0] for repair in more}


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mm(x, self.weight)


def test_a_weight_is_split_where_the_target_keeps_float32_results() -> None:
    model = Torch.of(Head(), torch.randn(8, 32).half().float())
    target = load_target("h100")
    assert not find("split-weight", model.graph, "float16", {}, load_target("ort-cuda"))
    repairs = find("split-weight", model.graph, "float16", {}, target)
    assert len(repairs) == 1
    repaired = model.repaired(repairs)
    expected = model.answers()
    np.testing.assert_allclose(repaired.answers()[0], expected[0], rtol=1e-5, atol=1e-5)
    before = model.emulated("float16", expected)
    after = repaired.emulated("float16", expected, keeps=repairs[0].keeps)
    assert before.error > 1e-4
    assert after.error < 1e-6
    assert not find("split-weight", repaired.graph, "float16", {}, target)


def test_what_is_new_belongs_where_it_stands() -> None:
    """Module path, source line and dynamic batch are those of what it was made for."""
    model = made(nn.Sequential(RmsNorm(900.0)), 4, 16)
    repairs = found(model, "scale-squares")
    repaired = model.repaired(repairs)
    old = {node.name: node for node in model.graph.nodes}
    new = [node for node in repaired.graph.nodes if node.name not in old]
    assert new
    for node in new:
        assert node.scope == "0"
        assert node.where == old[repairs[0].nodes[0]].where != ""
    shapes = {v.name: v.shape for v in model.graph.values.values()}
    for value in repaired.graph.values.values():
        assert value.shape == shapes.get(value.name, value.shape)
        assert value.name not in {n.name for n in new} or isinstance((value.shape or ())[0], str)
    other = torch.randn(7, 16)
    torch.testing.assert_close(
        repaired.program.module()(other), model.program.module()(other), rtol=0, atol=0
    )


def test_the_original_is_left_as_it_was() -> None:
    model = made(Small(), 4, 6, 16)
    before = {name: tensor.clone() for name, tensor in model.program.state_dict.items()}
    code = str(model.program.graph)
    model.repaired(found(model, "scale-weights"))
    assert str(model.program.graph) == code
    for name, tensor in model.program.state_dict.items():
        assert torch.equal(tensor, before[name])
