"""Very deep models as files: an ONNX chain, and a PyTorch module with as many layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

_OPS = ("MatMul", "Relu", "Softmax", "Add")
_TORCH = """import torch

class Deep(torch.nn.Module):
    def __init__(self):
        super().__init__()
        layers = []
        for _ in range({layers}):
            layers += [torch.nn.Linear(4, 4), torch.nn.Tanh()]
        self.layers = torch.nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)

def example_inputs():
    return (torch.ones(2, 4),)
"""


def write_onnx(path: Path, nodes: int) -> None:
    """A chain of `nodes` operators, of four kinds in turn."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    made, value = [], "x"
    for number in range(nodes):
        op = _OPS[number % len(_OPS)]
        inputs = [value, "w"] if op in ("MatMul", "Add") else [value]
        value = f"v{number}"
        made.append(helper.make_node(op, inputs, [value], name=f"n{number}"))
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 4])],
        [helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, [4, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path.write_bytes(model.SerializeToString())


def write_torch(path: Path, nodes: int) -> None:
    """A module of `nodes` operators: linear layers and tanh in turn."""
    path.write_text(_TORCH.format(layers=nodes // 2), encoding="utf-8")
