"""Proofs of PyTorch networks: bounds against random plans, gradient ascent and other inputs."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from ampconvert.dtypes import Low
from ampconvert.frontends import fx
from ampconvert.graph import Graph, Node
from ampconvert.plan import touches_float32
from ampconvert.ranges.prove import Proof, prove
from tests.low_plans import TorchRun, fitting, outside
from tests.proof_models import NAMES, Case, case


@cache
def program_of(name: str) -> tuple[Case, torch.export.ExportedProgram, Graph]:
    one = case(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recurrent layers flatten their weights while they run
        program = torch.export.export(one.model, one.args).run_decompositions({})
    return one, program, fx.read(program)


@cache
def proof_of(name: str, low: Low) -> Proof:
    one, _, graph = program_of(name)
    return prove(graph, one.declared, low)


def floats(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if touches_float32(graph, node)]


def drawn(one: Case, random: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Other inputs: any ids, numbers within their range and at its ends."""
    (example,) = one.args
    if not example.is_floating_point():
        return (torch.from_numpy(random.integers(0, 60, tuple(example.shape))),)
    lo, hi = one.declared["x"]
    inside = random.uniform(lo, hi, tuple(example.shape))
    ends = random.choice([lo, hi], tuple(example.shape))
    chosen = random.choice([0.0, 0.5, 1.0])
    return (torch.from_numpy(np.where(random.random(inside.shape) < chosen, ends, inside)).float(),)


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_no_sample_leaves_its_bound(name: str, low: Low) -> None:
    one, program, graph = program_of(name)
    proof = proof_of(name, low)
    assert not [note for note in proof.notes if "could not" in note], proof.notes
    run = TorchRun(program, low, fitting(graph, proof))
    random = np.random.default_rng(1)
    for _ in range(8):
        values = run(drawn(one, random), random)
        assert outside(proof, values) == []


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["convolutions", "recurrent", "attention"])
def test_no_ascent_leaves_a_bound(name: str, low: Low) -> None:
    """Inputs that climb one output's or one inner value's largest element."""
    one, program, graph = program_of(name)
    proof = proof_of(name, low)
    run = TorchRun(program, low, fitting(graph, proof))
    random = np.random.default_rng(2)
    lo, hi = one.declared["x"]
    made = [v for v in graph.values.values() if v.kind == "computed" and v.is_float32]
    for goal in random.choice([v.name for v in made], 4):
        (x,) = drawn(one, random)
        for _ in range(8):
            x = x.detach().requires_grad_()
            values = run((x,), random)
            assert outside(proof, values) == []
            if goal not in values or not values[goal].requires_grad:
                break
            values[goal].abs().max().backward()
            grad = x.grad if x.grad is not None else torch.zeros_like(x)
            x = (x + 0.3 * (hi - lo) * grad.sign()).clamp(lo, hi)


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_an_encoder_is_proved_for_any_ids(low: Low) -> None:
    _, _, graph = program_of("encoder")
    proof = proof_of("encoder", low)
    assert [proof.obstacle(graph, node) for node in floats(graph)] == [""] * len(floats(graph))


def test_most_of_a_decoder_is_proved() -> None:
    _, _, graph = program_of("decoder")
    proof = proof_of("decoder", "float16")
    proved = [proof.proved(graph, node) for node in floats(graph)]
    assert sum(proved) >= 0.85 * len(proved), [
        (node.name, proof.obstacle(graph, node))
        for node in floats(graph)
        if not proof.proved(graph, node)
    ]


def test_bounds_of_an_encoder_are_close() -> None:
    """The median bound lies within 20 times of the largest magnitude seen."""
    one, program, _ = program_of("encoder")
    proof = proof_of("encoder", "float16")
    random = np.random.default_rng(3)
    seen: dict[str, float] = {}
    run = TorchRun(program, "float16", set())
    for _ in range(10):
        for name, data in run(drawn(one, random), random).items():
            if data.is_floating_point():
                seen[name] = max(seen.get(name, 0.0), float(data.detach().abs().max()))
    slack = [proof.bounds[n].magnitude / s for n, s in seen.items() if s and n in proof.bounds]
    assert np.median(slack) < 20


def test_dynamic_sizes() -> None:
    """A bound for a dynamic length holds for other lengths."""
    one, _, _ = program_of("encoder")
    length: Any = torch.export.Dim("length", min=2, max=30)
    program = torch.export.export(
        one.model, one.args, dynamic_shapes=({1: length},)
    ).run_decompositions({})
    graph = fx.read(program)
    proof = prove(graph, {}, "float16")
    assert all(proof.proved(graph, node) for node in floats(graph))
    run = TorchRun(program, "float16", fitting(graph, proof))
    random = np.random.default_rng(4)
    for size in (3, 17):
        ids = torch.from_numpy(random.integers(0, 60, (2, size)))
        assert outside(proof, run((ids,), random)) == []
