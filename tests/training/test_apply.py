"""Plans applied to training graphs: where casts stand, and what scale they carry."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ampconvert
from ampconvert.training import apply as applying
from ampconvert.training import casts
from ampconvert.training.groups import layer
from ampconvert.training.prepare import trainings_of
from ampconvert.training.subgraph import Subgraph
from tests.training.models import MODELS, distance, gradients, parts, prepared


class Blocks(nn.Module):
    """Layers with residual connections, which hand gradients from one scale to another."""

    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


def only(model: nn.Module) -> Subgraph:
    (subgraph,) = [s for training in trainings_of(model) for s in training.subgraphs]
    return subgraph


def calls(model: nn.Module, target: Any) -> list[Any]:
    return only(model).converted.graph.find_nodes(op="call_function", target=target)


def guarded(model: nn.Module, **options: Any) -> None:
    prepared(model, torch.float16, adapt=False, **options)
    ampconvert.skip_nonfinite_steps(torch.optim.SGD(model.parameters(), 0.1), model)


def test_one_region_needs_three_casts() -> None:
    """In, out, and one call for all parameters."""
    model = Blocks()
    guarded(model)
    model(torch.randn(4, 8)).mean().backward()
    assert len(calls(model, casts.to_full)) == 1
    (weights,) = calls(model, casts.to_low)
    assert len(weights.args[3:]) == len(list(model.parameters()))
    assert len(calls(model, torch.ops.aten._to_copy.default)) == 1  # x, which needs no gradient


def test_bfloat16_and_passes_without_gradients_have_plain_casts() -> None:
    for dtype, grad in ((torch.bfloat16, True), (torch.float16, False)):
        model = Blocks()
        prepared(model, dtype)
        with torch.set_grad_enabled(grad):
            model(torch.randn(4, 8))
        assert not calls(model, casts.to_low)
        assert not calls(model, casts.to_full)
        assert not dict(only(model).converted.named_buffers())


def test_many_weights_go_in_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "BUCKET", 600)
    model = Blocks()
    reference = copy.deepcopy(model)
    guarded(model, loss_scale=1024.0)
    x = torch.randn(4, 8)
    found, truth = gradients(model, x * 1e-3), gradients(reference, x * 1e-3)
    buckets = calls(model, casts.to_low)
    assert len(buckets) > 2
    sizes = [sum(4 * w.meta["val"].numel() for w in node.args[3:]) for node in buckets]
    assert all(size <= 600 for size in sizes)
    assert distance(found, truth) < 0.01


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_layers_have_scales_of_their_own(inner: str) -> None:
    """Powers of two round nothing: gradients are the same bits whatever each layer's scale is."""
    torch.manual_seed(0)
    model = Blocks()
    uniform = copy.deepcopy(model)
    guarded(model, loss_scale="layerwise", inner=inner)
    guarded(uniform, inner=inner)
    x = torch.randn(16, 8)
    model(x)
    scaling = trainings_of(model)[0].scaling
    assert set(scaling.values()) == {"", "blocks.0", "blocks.1", "blocks.2", "head"}
    for group, scale in {
        "blocks.0": 2.0**9,
        "blocks.1": 2.0**12,
        "head": 2.0**8,
        "": 2.0**11,
    }.items():
        scaling.set(group, scale)
    scaling.set("blocks.2", 2.0**10)
    trainings_of(uniform)[0].scaling.set("", 2.0**10)
    if inner == "eager":
        assert len(calls(model, casts.rescale)) >= 3
    found, truth = gradients(model, x), gradients(uniform, x)
    assert all(torch.equal(found[name], truth[name]) for name in truth)


def test_a_layer_is_a_path_up_to_its_first_number() -> None:
    assert layer("encoder.layers.3.attention.out.0") == "encoder.layers.3"
    assert layer("head.dense") == "head"
    assert layer("") == ""


def test_masks_mean_minus_infinity_in_float16_too() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            scores = self.q(x) @ x.transpose(-1, -2)
            mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
            return torch.softmax(scores.masked_fill(mask, -1e9), -1) @ x

    model = Masked()
    reference = copy.deepcopy(model)
    prepared(model, torch.float16)
    x = torch.randn(2, 5, 4)
    out = model(x)
    assert torch.allclose(out, reference(x), atol=1e-2)
    assert out.isfinite().all()


def test_a_users_rule_stands_first() -> None:
    model = Blocks()
    prepared(model, torch.float16, rules=[ampconvert.rule("blocks.1*", "deny")])
    model(torch.randn(4, 8))
    (part,) = parts(model)
    scopes = {n.name: n.scope for n in part.graph.nodes}
    full = {scopes[name] for name, dtype in part.plan.compute.items() if dtype == "float32"}
    low = {scopes[name] for name, dtype in part.plan.compute.items() if dtype == "float16"}
    assert any(scope.startswith("blocks.1") for scope in full)
    assert not any(scope.startswith("blocks.1") for scope in low)


def test_small_layers_stay_in_float32_where_casts_cost_more() -> None:
    model = MODELS["mlp"][0]()
    ampconvert.prepare_training(model, torch.bfloat16)
    model(torch.randn(4, 3))
    (part,) = parts(model)
    assert set(part.plan.compute.values()) == {"float32"}
    wide = nn.Linear(1024, 1024)
    ampconvert.prepare_training(wide, torch.bfloat16)
    wide(torch.randn(1024, 1024))
    assert set(parts(wide)[0].plan.compute.values()) == {"bfloat16"}


def test_tables_are_looked_up_in_float32() -> None:
    """A 16-bit sum of many rows' gradients stops growing: 512 ones stay 256 in bfloat16."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(3, 8), nn.Linear(8, 2, bias=False))
    reference = copy.deepcopy(model)
    prepared(model, torch.bfloat16)
    ids = torch.zeros(4096, dtype=torch.long)
    for net in (model, reference):
        net(ids).sum().backward()
    tables = [{"": net[0].weight.grad} for net in (model, reference)]
    assert distance(*tables) < 0.01
    (part,) = parts(model)
    (name,) = (n.name for n in part.graph.nodes if n.op == "aten::embedding")
    assert part.plan.compute[name] == "float32"
    assert "adds up every row" in part.plan.decisions[name].reason
    assert "bfloat16" in part.plan.compute.values()
