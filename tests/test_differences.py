"""How far results inside a converted model are from float32: both front ends, layers, streaming."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ampconvert import pipeline, pipeline_onnx
from ampconvert.differences import DifferenceSums
from ampconvert.frontends import fx_differences, onnx_differences
from ampconvert.frontends.onnx_load import from_proto
from tests.graphs import graph as core_graph

TEXT = """<ir_version: 9, opset_import: ["" : 18]>
g (float[8,64] x) => (float[8,4] y, float[8,64] t)
<float big = {1000}> {
    a = MatMul(x, w)
    b = Tanh(a)
    u = Add(b, big)
    d = Sub(u, big)
    t = Relu(d)
    y = MatMul(t, v)
}"""


def onnx_model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (64, 64)), ("v", (64, 4))):
        data = rng.normal(size=shape).astype(np.float32) / 8
        proto.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    return proto


def feeds(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(8, 64)).astype(np.float32)} for _ in range(count)]


def test_an_onnx_models_last_result_differs_as_parity_says() -> None:
    data = feeds(3)
    done = pipeline_onnx.convert(onnx_model(), data)
    assert done.onnx is not None and done.verification is not None
    found = onnx_differences.layer_differences(
        from_proto(onnx_model()), done.onnx, done.analysis.graph, data
    )
    assert found.batches == 3 and found.missing == ()
    by_value = {d.value: d for d in found.values}
    assert list(by_value) == ["a", "b", "u", "d", "t", "y"]
    for parity in done.verification.parities:
        assert by_value[parity.output].rel_l2 == pytest.approx(parity.rel_l2, rel=1e-3)
        assert by_value[parity.output].max_abs == pytest.approx(parity.max_abs, rel=1e-3)
    assert by_value["u"].absmax == pytest.approx(1000, rel=1e-2)
    assert by_value["b"].before == by_value["a"].rel_l2


def test_the_difference_that_cancels_is_where_the_error_grows() -> None:
    data = feeds(2)
    done = pipeline_onnx.convert(onnx_model(), data, tolerance=10.0)
    assert done.onnx is not None
    found = onnx_differences.layer_differences(
        from_proto(onnx_model()), done.onnx, done.analysis.graph, data
    )
    worst = max(found.values, key=lambda d: d.grown)
    assert worst.value == "d" and worst.grown > 0.1


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(32, 32), nn.GELU())
        self.norm = nn.LayerNorm(32)
        self.last = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        left, right = self.norm(self.first(x)).chunk(2, -1)
        return self.last(torch.cat((right, left), -1)), left


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_pytorch_models_results_are_found_in_its_onnx_file(dtype: str) -> None:
    torch.manual_seed(0)
    batches: list[Any] = [((torch.randn(4, 32),), {}) for _ in range(3)]
    done = pipeline.convert(Network().eval(), batches[0][0], dtype=dtype, data=batches)
    assert done.onnx is not None and done.verification is not None
    assert done.analysis.program is not None
    found = fx_differences.layer_differences(
        done.analysis.program, done.onnx, done.analysis.graph, batches
    )
    names = {d.value for d in found.values}
    assert {"linear", "gelu", "layer_norm", "linear_1"} <= names
    assert names.isdisjoint(found.missing)
    last = next(d for d in found.values if d.value == "linear_1")
    assert last.rel_l2 == pytest.approx(done.verification.parities[0].rel_l2, rel=0.05)
    assert last.scope == "last" and last.where.startswith("test_differences.py:")
    assert {"first.0", "norm", "last"} <= {layer.scope for layer in found.layers}
    assert all(0 <= d.rel_l2 < 0.1 for d in found.values)


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1))
def test_batches_add_up_to_all_data_at_once(rows: list[list[float]]) -> None:
    data = np.array(rows, np.float32)
    changed = data.astype(np.float16).astype(np.float32)
    graph = core_graph("y = relu(x)", outputs="y")
    sums = DifferenceSums()
    for got, want in zip(changed, data, strict=True):
        assert sums.add("y", got, want)
    (found,) = sums.finish(graph, len(rows)).values
    lost, size = np.linalg.norm(changed.astype(float) - data), np.linalg.norm(data.astype(float))
    assert found.rel_l2 == pytest.approx(lost / size if size else 0.0, rel=1e-6)
    assert found.max_abs == pytest.approx(np.abs(changed - data).max())
    assert found.absmax == np.abs(data).max()


def test_infinities_of_both_are_equal_and_of_one_endless() -> None:
    graph = core_graph("a = relu(x)", "b = relu(a)", outputs="b")
    sums = DifferenceSums()
    mask = np.array([1.0, -np.inf], np.float32)
    sums.add("a", mask, mask)
    sums.add("b", np.array([1.0, np.inf], np.float32), np.ones(2, np.float32))
    found = sums.finish(graph, 1)
    assert [d.rel_l2 for d in found.values] == [0.0, math.inf]
    assert found.values[1].grown == math.inf


def test_other_shapes_are_not_compared() -> None:
    graph = core_graph("a = relu(x)", outputs="a")
    sums = DifferenceSums()
    assert not sums.add("a", np.ones((2, 3)), np.ones((3, 2)))
    assert sums.finish(graph, 1).missing == ("a",)
