"""Applying plans: each model in tests/models.py keeps its meaning, and every tensor has the
planned type.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx as torch_fx
from torch import nn
from torch.export import ExportedProgram

from ampconvert.dtypes import Low
from ampconvert.frontends import fx, fx_run
from ampconvert.frontends.fx_apply import TORCH, apply
from ampconvert.frontends.fx_nodes import is_getitem, operands, results
from ampconvert.frontends.fx_run import flat_inputs
from ampconvert.graph import Graph
from ampconvert.plan import Plan
from tests.models import CASES, Case, Fn, build, captured, plan_for, tensors

TOLERANCE = {"float16": 1e-2, "bfloat16": 8e-2}
# By the rules; every neutral node low; nodes of both types at random.
VARIANTS: list[tuple[Low, int]] = [
    ("float16", 0), ("bfloat16", 0), ("float16", 1), ("float16", 2), ("bfloat16", 3),
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_types_and_values(name: str) -> None:
    found = build(name)
    program = captured(found)
    again = build(name)  # a model may write its inputs and its buffers: each run gets fresh ones
    reference = tensors(again.module(*again.args, **again.kwargs))
    for low, scatter in VARIANTS:
        graph, plan = plan_for(program, found, low, scatter=scatter)
        lowered = apply(program, plan)
        assert_planned_types(lowered, graph, plan, found)
        again = build(name)
        answers = tensors(lowered.module()(*again.args, **again.kwargs))
        assert [t.dtype for t in answers] == [t.dtype for t in reference]
        for got, want in zip(answers, reference, strict=True):
            assert_near(got.detach(), want.detach(), low)


def assert_near(got: torch.Tensor, want: torch.Tensor, low: Low) -> None:
    assert got.shape == want.shape
    if want.is_floating_point() or want.is_complex():
        error = (got - want).norm() / want.norm().clamp_min(1e-6)
        assert want.numel() == 0 or float(error) < TOLERANCE[low]
    elif low == "float16":  # a coarser type may order near ties in another way
        assert torch.equal(got, want)


def assert_planned_types(lowered: ExportedProgram, graph: Graph, plan: Plan, found: Case) -> None:
    """Run the program and look at every tensor: what a node reads, what it makes, what a weight
    is.
    """
    seen: dict[str, torch.Tensor] = {}

    class Watch(torch_fx.Interpreter):
        def run_node(self, n: torch_fx.Node) -> Any:
            seen[n.name] = result = super().run_node(n)
            return result

    with torch.no_grad():
        Watch(lowered.graph_module).run(*flat_inputs(lowered, found.args, found.kwargs))
    nodes = {n.name: n for n in lowered.graph.nodes}
    follows = {n.name for n in lowered.graph.nodes if n.op == "placeholder" and not n.users}
    for value in graph.values.values():
        if value.name in follows:
            continue  # a tied weight under the name that nobody reads
        if value.name not in seen or not isinstance(seen[value.name], torch.Tensor):
            continue  # a result that nobody takes
        producer = graph.producers.get(value.name)
        planned = value.dtype
        if value.is_float32 and producer is not None:
            planned = plan.compute[producer.name]
        elif value.kind == "weight" and plan.weights.get(value.name) == (plan.low,):
            planned = plan.low
        assert str(seen[value.name].dtype) == f"torch.{planned}", value.name
    for node in graph.nodes:
        for position, operand in enumerate(operands(nodes[node.name])):
            name = node.inputs[position]
            if name is None or not graph.values[name].is_float32:
                continue
            assert operand.node is not None
            assert seen[operand.node.name].dtype == TORCH[plan.type_at(node.name, position)], (
                node.name
            )
    for n in lowered.graph.nodes:
        if n.op == "call_function" and not is_getitem(n):
            for _, holder, fake in results(n):
                assert (
                    holder is None
                    or holder.meta["val"].dtype == fake.dtype == seen[holder.name].dtype
                )
    casts = [n for n in lowered.graph.nodes if "ampconvert_cast" in (n.meta.get("custom") or {})]
    mixed = sum(len(types) > 1 for types in plan.weights.values())
    assert len(casts) == len(plan.casts) + mixed


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter_that_they_reached(name: str) -> None:
    found = build(name)
    if not found.gradients:
        pytest.skip("nothing in it can be trained")
    program = captured(found)
    original = build(name).module
    reached = trained(original, found)
    for scatter in (0, 2):
        _, plan = plan_for(program, found, scatter=scatter)
        assert trained(apply(program, plan).module(), found) == reached


def trained(module: nn.Module, found: Case) -> set[str]:
    """The parameters that a loss over all outputs gives a gradient."""
    answers = tensors(module(*found.args, **found.kwargs))
    losses = [t.abs().float().sum() for t in answers if t.requires_grad]
    if losses:
        torch.stack(losses).sum().backward()
    named = module.named_parameters(remove_duplicate=False)
    return {n for n, p in named if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize("name", CASES)
def test_state_signature_and_structure_stay(name: str) -> None:
    found = build(name)
    program = captured(found)
    _, plan = plan_for(program, found)
    lowered = apply(program, plan)
    assert set(lowered.state_dict) == set(program.state_dict)
    assert lowered.graph_signature.user_inputs == program.graph_signature.user_inputs
    assert lowered.call_spec == program.call_spec
    keys = [key for key in found.module.state_dict() if key in program.state_dict]
    assert [k for k in lowered.module().state_dict() if k in keys] == keys
    before = torch.utils._pytree.tree_structure(program.module()(*found.args, **found.kwargs))
    after = torch.utils._pytree.tree_structure(lowered.module()(*found.args, **found.kwargs))
    assert before == after


@pytest.mark.parametrize("name", ["mlp", "counter", "key_cache", "half_weight", "tied"])
def test_the_original_is_left_untouched(name: str) -> None:
    found = build(name)
    program = captured(found)
    state = copy.deepcopy(dict(program.state_dict))
    code = program.graph_module.code
    _, plan = plan_for(program, found)
    apply(program, plan).module()(*found.args, **found.kwargs)
    assert program.graph_module.code == code
    for key, tensor in program.state_dict.items():
        assert tensor.dtype == state[key].dtype and torch.equal(tensor, state[key])


@pytest.mark.parametrize("name", ["mlp", "transformer", "lstm", "masks", "type_arguments"])
def test_converting_a_converted_program_changes_nothing(name: str) -> None:
    """All that may be low is low already: no new cast, and not a bit of the answer changes."""
    found = build(name)
    program = captured(found)
    _, plan = plan_for(program, found, scatter=1)
    once = apply(program, plan)
    graph, again = plan_for(once, found)
    twice = apply(once, again)
    assert not [c for c in again.casts if graph.values[c.value].kind != "input"]
    for a, b in zip(
        tensors(once.module()(*found.args)), tensors(twice.module()(*found.args)), strict=True
    ):
        assert torch.equal(a, b)


def test_tied_weights_stay_one_tensor() -> None:
    found = build("tied")
    program = captured(found)
    _, plan = plan_for(program, found)
    state = apply(program, plan).state_dict
    assert state["embedding.weight"].dtype == torch.float16
    assert state["embedding.weight"] is state["head.weight"]


def test_a_weight_read_in_both_types_keeps_its_float32() -> None:
    found = build("weight_twice")
    program = captured(found)
    _, plan = plan_for(program, found)
    assert plan.weights["p_w"] == ("float32", "float16")
    lowered = apply(program, plan)
    assert torch.equal(lowered.state_dict["w"], program.state_dict["w"])
    casts = [n for n in lowered.graph.nodes if "ampconvert_cast" in (n.meta.get("custom") or {})]
    assert "p_w" in [n.meta["custom"]["ampconvert_cast"] for n in casts]


def test_masks_are_limited_and_infinities_kept() -> None:
    found = build("masks")
    program = captured(found)
    _, plan = plan_for(program, found, scatter=1)
    assert plan.scalars
    numbers = {number for new in plan.scalars.values() for number in new.values()}
    assert numbers == {-32752.0}
    endless = captured(build("inf_masks"))
    _, other = plan_for(endless, build("inf_masks"), scatter=1)
    assert not other.scalars
    results = tensors(apply(endless, other).module()(*build("inf_masks").args))
    assert all(bool(t.isfinite().all()) for t in results)


def test_a_mask_handed_in_is_limited_on_its_way() -> None:
    """-3.4e38 in an input becomes -32752, so that a score added to it does not overflow to -inf."""
    mask = torch.zeros(4, 4).masked_fill(
        torch.ones(4, 4).triu(1).bool(), torch.finfo(torch.float32).min
    )
    mask[0] = torch.finfo(
        torch.float32
    ).min  # a row without any key: softmax of all -inf would be NaN

    def forward(m: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (m.a(x) @ x.transpose(0, 1) + mask).softmax(-1) @ x

    found = Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(4, 4), mask))
    program = captured(found)
    _, plan = plan_for(program, found, scatter=1)
    assert "args_1" in plan.masks
    assert any(cast.clamp for cast in plan.casts)
    (got,) = tensors(apply(program, plan).module()(*found.args))
    assert_near(got.detach(), found.module(*found.args).detach(), "float16")


def test_ranges_of_the_lowered_program_can_be_seen_too() -> None:
    found = build("mlp")
    program = captured(found)
    _, plan = plan_for(program, found)
    lowered = apply(program, plan)
    arrays = fx_run.outputs(lowered, [(found.args, {})])
    assert arrays[0][0].dtype == "float32"
    assert fx.read(lowered).check() is None
