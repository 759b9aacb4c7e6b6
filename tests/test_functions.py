"""The vocabulary of functions: its names exist, and a call reads operands alike in both formats."""

from __future__ import annotations

import tomllib

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ampconvert import functions
from ampconvert.frontends import fx
from ampconvert.functions import Call
from ampconvert.graph import Graph
from ampconvert.rules import data_directory
from tests.text_graphs import graph_of_text

TABLE = tomllib.loads((data_directory() / "functions" / "functions.toml").read_text("utf-8"))
OPS = [(name, kind, op) for name, entry in TABLE.items() for kind in ("onnx", "aten")
       for op in entry.get(kind, ())]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "op"), OPS, ids=lambda part: str(part))
def test_every_operator_exists(name: str, kind: str, op: str) -> None:
    if kind == "aten":
        packet, _, overload = op.partition(".")
        found = getattr(torch.ops.aten, packet)
        assert not overload or overload in found.overloads()
    elif "::" not in op:
        assert onnx.defs.has(op) or op in ("SimplifiedLayerNormalization",)
    elif op.startswith("com.microsoft::"):
        schemas = onnxruntime.capi.onnxruntime_pybind11_state.get_all_operator_schema()
        assert op.partition("::")[2] in {schema.name for schema in schemas}


def test_no_operator_stands_twice() -> None:
    names = [f"{kind}::{op}" for _, kind, op in OPS]
    assert len(names) == len(set(names))


def by_function(graph: Graph) -> dict[str, Call]:
    return {call.function: call for call in functions.calls(graph).values()}


def of_torch(module: torch.nn.Module, *args: torch.Tensor) -> Graph:
    program = torch.export.export(module, args).run_decompositions({})
    return fx.read(program)


class _Steps(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.add(x, x.pow(2).mean(-1, keepdim=True), alpha=3)
        y = torch.cat([1 - y, y], 1)
        return torch.softmax(y / 8, -1)


def test_torch_operands_and_numbers() -> None:
    found = by_function(of_torch(_Steps(), torch.randn(2, 4)))
    assert found["pow"].number(1) == 2.0
    assert found["mean"].axes() == (1,)
    assert found["add"].factor == 3.0
    assert found["sub"].number(0) == 1.0  # rsub: the number comes first
    assert found["sub"].name(1) == found["add"].result.name
    assert len(found["concat"].operands) == 2
    assert found["div"].number(1) == 8.0
    assert found["softmax"].axes() == (1,)


def test_onnx_operands_and_numbers() -> None:
    graph = graph_of_text(
        """g (float[2,4] x) => (float[2,4] y)
        <float two = {2.0}, int64[1] axes = {-1}, float[1] eight = {8.0}> {
            s = Pow(x, two)
            m = ReduceMean<keepdims = 1>(s, axes)
            d = Div(m, eight)
            a = Sub(x, d)
            y = Softmax<axis = 1>(a)
        }"""
    )
    found = by_function(graph)
    assert found["pow"].number(1) == 2.0
    assert found["mean"].axes() == (1,)
    assert found["div"].number(1) == 8.0
    assert found["softmax"].axes() == (1,)


def test_constants_behind_copies() -> None:
    graph = graph_of_text(
        """g (float[2] x) => (float[2] y) <float[1] c = {4.0}, int64[1] shape = {2}> {
            e = Expand(c, shape)
            i = Identity(e)
            y = Mul(x, i)
        }"""
    )
    (mul,) = (c for c in functions.calls(graph).values() if c.function == "mul")
    assert mul.number(1) == 4.0
    assert functions.source(graph, mul.name(1) or "") == "c"
    assert np.asarray(functions.array(graph, "c")).tolist() == [4.0]
