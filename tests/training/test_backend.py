"""The Dynamo backend: torch.compile's own way in, inner backends, kernels and spellings."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ampconvert
from ampconvert.training.backend import backend, shared_training
from ampconvert.training.kernels import lacking
from ampconvert.training.respell import respelled
from ampconvert.training.subgraph import Subgraph
from tests.training.models import MODELS, distance, gradients, parts, prepared

COMPILER = shutil.which("g++") or shutil.which("clang++")


def subgraphs(model: nn.Module) -> list[Subgraph]:
    return [s for t in ampconvert.training.prepare.trainings_of(model) for s in t.subgraphs]


def test_torch_compile_takes_it_as_a_backend() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 3))
    options = {"dtype": torch.bfloat16, "prefer": "memory"}
    compiled = torch.compile(copy.deepcopy(model), backend=backend, options=options)
    x = torch.randn(5, 3)
    found = gradients(compiled, x)
    found = {name.removeprefix("_orig_mod."): g for name, g in found.items()}
    assert 0 < distance(found, gradients(model, x)) < 0.02
    assert len(shared_training(options).subgraphs) >= 1


def test_it_is_registered_by_name() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="torch_dynamo_backends", name="ampconvert")
    assert entry.load() is backend


def test_a_guard_finds_the_training_of_a_compiled_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 1))
    options = {"dtype": torch.float16, "adapt": False}
    compiled = torch.compile(model, backend=backend, options=options)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = ampconvert.skip_nonfinite_steps(optimizer, compiled)
    before = copy.deepcopy(model.state_dict())
    loss = compiled(torch.randn(5, 3)).square().mean() * float("inf")
    loss.backward()
    optimizer.step()
    assert guard.skipped == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    guard.remove()


def test_a_step_that_nobody_watched_is_no_observation() -> None:
    """A guard meets a compiled model's training after its first pass, which was not watched."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 1))
    options = {"dtype": torch.float16, "prefer": "memory"}
    compiled = torch.compile(model, backend=backend, options=options)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = ampconvert.skip_nonfinite_steps(optimizer, compiled)
    seen = []
    for _ in range(2):
        (compiled(torch.randn(5, 3)).square().mean() * 2.0**-12).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(ampconvert.training_metrics(compiled)["underflow"])
    assert seen[0] is None
    assert seen[1] is not None
    guard.remove()


@pytest.mark.parametrize("name", ["mlp", "tied", "custom", "graph break", "encoder"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_aot_autograd_compiles_what_was_converted(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, data = MODELS[name]
    model, x = make(), data(6)
    reference = copy.deepcopy(model)
    prepared(model, dtype, inner="aot_eager")
    assert 0 < distance(gradients(model, x), gradients(reference, x)) < 0.06


def guarded_steps(inner: str) -> Any:
    """Two forward passes before their backward passes, then an overflow in one of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 3))
    prepared(model, torch.float16, inner=inner, adapt=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    guard = ampconvert.skip_nonfinite_steps(optimizer, model)
    seen = []
    for factor in (1.0, 1.0, float("inf"), 1.0):
        x = torch.randn(4, 3)
        first, second = model(x).square().mean(), model(2 * x).square().mean()
        second.backward()
        (first * factor).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append((guard.skipped, guard.scale))
    return seen


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_passes_that_overlap_and_overflow(inner: str) -> None:
    assert guarded_steps(inner) == [(0, 65536.0)] * 2 + [(1, 32768.0)] * 2


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["mlp", "tied", "encoder"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_inductor_compiles_what_was_converted(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, data = MODELS[name]
    model, x = make(), data(6)
    reference = copy.deepcopy(model)
    prepared(model, dtype, inner="inductor")
    assert 0 < distance(gradients(model, x), gradients(reference, x)) < 0.06
    assert guarded_steps("inductor") == [(0, 65536.0)] * 2 + [(1, 32768.0)] * 2


def test_recurrent_graphs_are_converted_and_not_compiled() -> None:
    """AOTAutograd fails in them on a CPU."""
    torch.manual_seed(0)
    make, data = MODELS["lstm"]
    model, x = make(), data(6)
    reference = copy.deepcopy(model)
    prepared(model, torch.bfloat16, inner="aot_eager")
    assert 0 < distance(gradients(model, x), gradients(reference, x)) < 0.02
    assert any("lstm" in node.op for part in parts(model) for node in part.graph.nodes)


class Unsupported(nn.Module):
    """An operator that no rule would keep from float16, and that has no kernel there on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        q, _ = torch.linalg.qr(h[:4])
        return self.b(q)


def test_an_operator_without_a_kernel_stays_in_float32() -> None:
    model = Unsupported()
    rule = ampconvert.rule("linalg_qr", "allow")
    prepared(model, torch.float16, rules=[rule])
    model(torch.randn(4, 4)).sum().backward()
    (part,) = parts(model)
    name = next(n.name for n in part.graph.nodes if "linalg_qr" in n.op)
    assert part.plan.compute[name] == "float32"
    assert "kernel" in part.plan.decisions[name].reason
    assert not lacking(subgraphs(model)[0].converted, part.graph, part.plan)


def test_faster_spellings_are_the_same_calls() -> None:
    make, data = MODELS["encoder"]
    model = make()
    prepared(model, torch.bfloat16)
    x = data(3)
    model(x)
    (subgraph,) = subgraphs(model)
    fast = respelled(subgraph.converted)
    slow = [n.target for n in subgraph.converted.graph.nodes if n.op == "call_function"]
    quick = [n.target for n in fast.graph.nodes if n.op in ("call_function", "call_method")]
    assert len(slow) == len(quick)
    assert sum(isinstance(t, torch._ops.OpOverload) for t in quick) < len(quick) / 4
    given: list[Any] = []
    run = subgraph.run
    subgraph.run = lambda *args: (given.extend(args), run(*args))[1]
    model(x)
    for a, b in zip(fast.forward(*given), subgraph.converted(*given), strict=True):
        assert torch.equal(a, b)
