"""Reading captured programs: operand numbers, names, kinds, places in the source, and fixed
types.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ampconvert.frontends import fx
from ampconvert.frontends.capture import capture
from ampconvert.graph import Graph, Node
from tests.models import CASES, Case, Fn, build, captured


def read(found: Case, **options: Any) -> Graph:
    return fx.read(captured(found, **options))


def only(graph: Graph, op: str) -> Node:
    (node,) = [n for n in graph.nodes if n.op == f"aten::{op}"]
    return node


@pytest.mark.parametrize("name", CASES)
def test_every_model_reads_to_a_sound_graph(name: str) -> None:
    found = build(name)
    program = captured(found)
    graph = fx.read(program)
    graph.check()
    for value in graph.values.values():
        assert value.shape is not None and value.hint is not None
        assert (value.kind == "weight") == (value.const is not None)
        if value.const is not None:
            data = value.const()
            assert data.shape == value.hint
    for node in graph.nodes:
        assert len(node.operands) == len(node.inputs)
    assert len(graph.outputs) == len(fx.output_names(program))


def test_operands_are_numbered_by_argument_lists_flattened() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * x, x], 1) @ m.w + torch.clamp(x, max=x)

    graph = read(Case(Fn(forward, w=nn.Parameter(torch.randn(8, 4))), (torch.randn(3, 4),)))
    square = only(graph, "mul")
    assert square.inputs == ("args_0", "args_0") and square.operands == ("self", "other")
    joined = only(graph, "cat")
    assert joined.inputs == (square.name, "args_0")
    assert joined.operands == ("tensors", "tensors") and joined.attrs["dim"] == 1
    assert only(graph, "matmul").operand("other") == [1]
    assert only(graph, "clamp").operands == ("self", "max")


def test_weights_inputs_and_state_are_told_apart() -> None:
    graph = read(build("counter"))
    kinds = {v.label: v.kind for v in graph.values.values() if v.kind != "computed"}
    assert kinds["a.weight"] == kinds["a.bias"] == "weight"
    assert kinds["mean"] == kinds["calls"] == kinds["x"] == "input"  # state is its owner's
    assert graph.outputs[0] != graph.outputs[-1]


def test_names_scope_and_source_line() -> None:
    graph = read(build("transformer"))
    linear = next(n for n in graph.nodes if n.op == "aten::linear" and "linear1" in n.scope)
    assert linear.scope == "layers.0.linear1"
    assert graph.values[linear.inputs[1] or ""].label == "layers.0.linear1.weight"
    rotary = read(build("rotary"))
    assert next(n for n in rotary.nodes if n.op == "aten::linear").where.startswith(
        "models_forms.py:"
    )
    assert not any(n.where.startswith("<") for n in rotary.nodes)


def test_arguments_that_are_no_tensors_keep_their_schema_names() -> None:
    graph = read(build("images"))
    conv = only(graph, "conv2d")
    assert conv.attrs["padding"] == [1, 1] and conv.attrs["groups"] == 1  # a default shows too
    total = only(
        read(Case(Fn(lambda m, x: x.sum(1, dtype=torch.float32)), (torch.randn(2, 3),))), "sum"
    )
    assert total.attrs["dtype"] == "float32" and total.overload == "dim_IntList"


def test_results_that_nobody_takes_have_names_too() -> None:
    graph = read(Case(Fn(lambda m, x: x.topk(2)[1]), (torch.randn(3, 4),)))
    topk = only(graph, "topk")
    assert len(topk.outputs) == 2
    assert [graph.values[name].dtype for name in topk.outputs] == ["float32", "int64"]
    assert graph.outputs == (topk.outputs[1],)


def test_dynamic_dimensions_are_names_with_the_examples_size() -> None:
    graph = fx.read(capture(build("mlp").module, (torch.randn(6, 16),)).program)
    value = graph.values[graph.inputs[0]]
    assert value.shape is not None and isinstance(value.shape[0], str) and value.shape[1] == 16
    assert value.hint == (6, 16)


def test_float32_made_of_integers_is_bound_where_no_type_can_be_named() -> None:
    def forward(m: Any, i: torch.Tensor) -> Any:
        return i / 3, i.to(torch.float32), torch.arange(3, dtype=torch.float32) + i, i.sqrt()

    graph = read(Case(Fn(forward), (torch.arange(6).view(2, 3),)))
    assert only(graph, "div").bound and only(graph, "sqrt").bound
    assert not any(
        n.bound for n in graph.nodes if n.op in ("aten::arange", "aten::_to_copy", "aten::to")
    )


def test_control_flow_is_bound() -> None:
    graph = read(build("cond"))
    (branch,) = [n for n in graph.nodes if n.op == "higher_order::cond"]
    assert "bodies" in branch.bound


def test_a_tied_weight_is_one_value_for_its_readers() -> None:
    graph = read(build("tied"))
    read_weights = {n.inputs[n.operand("weight")[0]] for n in graph.nodes if n.operand("weight")}
    assert len(read_weights) == 1


def test_regions_without_gradient_and_autocast_are_taken_apart() -> None:
    graph = read(build("rotary"))
    assert not [n.op for n in graph.nodes if n.op.startswith("higher_order")]
    assert {"aten::cos", "aten::sin"} <= {n.op for n in graph.nodes}
