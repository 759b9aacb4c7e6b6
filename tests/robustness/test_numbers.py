"""Bad weather of numbers and shapes: the right result, or a message that says what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ampconvert.frontends.onnx_load import load
from tests.robustness.command import ended

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
F16, BF16, F64, C64 = (
    TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.COMPLEX64,
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def op(
    kind: str, dtype: int, shape: Sequence[int] | None, weight: object = None, **attributes: object
) -> onnx.ModelProto:
    """One operator on `x`, and on a weight where one is given."""
    inputs = ["x"] + ["w"] * (weight is not None)
    return model(
        [helper.make_node(kind, inputs, ["y"], **attributes)],
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [] if weight is None else [numpy_helper.from_array(np.asarray(weight), "w")],
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


ONES = numpy_helper.from_array(np.ones(4, np.float32), "w")
X = helper.make_tensor_value_info("x", FLOAT, [4])
Y = helper.make_tensor_value_info("y", FLOAT, [4])
NAN = "gives NaN"
# What each command says, "" where it ends well.
MODELS: dict[str, tuple[onnx.ModelProto, dict[str, str]]] = {
    "NaN weights": (
        op("Add", FLOAT, [2, 4], f32(1, np.nan, 2, 3)), {"convert": NAN, "verify": NAN},
    ),
    "infinite weights": (op("Mul", FLOAT, [2, 4], f32(1, np.inf, 2, 3)), {}),
    "subnormal weights": (op("Mul", FLOAT, [2, 4], np.full(4, 1e-40, np.float32)), {}),
    "largest weights": (op("Mul", FLOAT, [2, 4], np.full(4, 3e38, np.float32)), {}),
    "no elements": (op("Relu", FLOAT, [0, 4]), {}),
    "a maximum of nothing": (op("ReduceMax", FLOAT, [0, 4]), {}),
    "an empty weight": (op("Concat", FLOAT, [2, 4], np.zeros((0, 4), np.float32), axis=0), {}),
    "a scalar": (op("Exp", FLOAT, []), {}),
    "integers": (op("Neg", INT, [4]), {}),
    "booleans": (op("Not", BOOL, [4]), {}),
    "float64": (op("Exp", F64, [4]), {}),
    "float16 already": (op("Exp", F16, [4]), {}),
    "bfloat16 already": (op("Neg", BF16, [4]), {}),
    "text": (op("Identity", TensorProto.STRING, [4]), {}),
    "complex": (
        op("Identity", C64, [4]),
        dict.fromkeys(("analyze", "explain", "convert", "verify"), "COMPLEX64"),
    ),
    "larger than memory": (
        op("Relu", FLOAT, [2**62, 2**62]),
        dict.fromkeys(("analyze", "explain", "convert", "verify"), "there is no memory"),
    ),
    "no shape": (
        op("Relu", FLOAT, None),
        dict.fromkeys(("analyze", "explain", "convert", "verify"), "declares no shape"),
    ),
    "no inputs": (model([helper.make_node("Relu", ["w"], ["y"])], [], [Y], [ONES]), {}),
    "an input that is the output": (model([], [X], [X]), {}),
    "an output that is a weight": (
        model([helper.make_node("Relu", ["x"], ["y"])], [X],
              [Y, helper.make_tensor_value_info("w", FLOAT, [4])], [ONES]), {},
    ),
    "an input that nobody reads": (
        model([helper.make_node("Relu", ["x"], ["y"])],
              [X, helper.make_tensor_value_info("z", FLOAT, [3])], [Y]), {},
    ),
    "no output": (
        model([helper.make_node("Relu", ["x"], ["y"])], [X], []),
        dict.fromkeys(("analyze", "explain", "convert", "verify"), "has no output"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", ["analyze", "explain", "convert", "verify"])
@pytest.mark.parametrize("name", MODELS)
def test_onnx_models(name: str, command: str) -> None:
    made, expected = MODELS[name]
    Path("m.onnx").write_bytes(made.SerializeToString())
    second = ["m.onnx"] if command == "verify" else []
    done = ended(
        [command, "m.onnx", *second, *(["-o", "out.onnx"] if command == "convert" else [])]
    )
    if command in expected:
        assert done.code == 2 and expected[command] in done.message
        assert not Path("out.onnx").exists()
    else:
        assert done.code == 0, done
        if command == "convert":
            load(Path("out.onnx"))  # which asks onnx's checker


TORCH = {
    "NaN in data": ("return x.exp()", "(torch.full((2, 2), float('nan')),)", "holds 4 NaN"),
    "infinite data": ("return x - x", "(torch.full((2, 2), float('inf')),)", NAN),
    "no batch": ("return x.exp()", "(torch.zeros(0, 2),)", ""),
    "a scalar": ("return x.exp()", "(torch.tensor(1.0),)", ""),
    "integers": ("return x + 1", "(torch.ones(2, dtype=torch.int64),)", ""),
    "float64": ("return x.exp()", "(torch.ones(2, dtype=torch.float64),)", ""),
    "float16": ("return x.exp()", "(torch.ones(2, dtype=torch.float16),)", ""),
    "bfloat16": ("return x.exp()", "(torch.ones(2, dtype=torch.bfloat16),)", ""),
    "a conjugate view": ("return x.abs()", "(torch.ones(2, dtype=torch.complex64).conj(),)",
                         "the input x is complex"),
    "a complex output": ("return torch.fft.rfft(x)", "(torch.ones(2, 8),)",
                         "the output fft_rfft is complex"),
    "complex inside": ("return torch.fft.rfft(x).abs()", "(torch.ones(2, 8),)", ""),
    "a sparse input": ("return x.to_dense()", "(torch.eye(3).to_sparse(),)", "a sparse tensor"),
    "no tensor returned": ("x.exp(); return None", "(torch.ones(2),)", "returns no tensor"),
    "an error with escapes": ("raise ValueError('\\x1b[31m')", "(torch.ones(2),)", "\u241b[31m"),
    "an input handed on": ("return x", "(torch.ones(2, 2),)", ""),
}  # fmt: skip


FAST = ("bfloat16", "complex inside", "no batch")  # of those that are converted to the end


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if said or name in FAST else [pytest.mark.slow])
        for name, (_, _, said) in TORCH.items()
    ],
)
def test_pytorch_models(name: str) -> None:
    body, inputs, expected = TORCH[name]
    Path("m.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
        f"        {body}\ndef example_inputs():\n    return {inputs}\n"
    )
    done = ended(["convert", "m.py", "-o", "out"])
    if expected:
        assert done.code == 2 and expected in done.message
        assert not list(Path().glob("out/*"))
    else:
        assert done.code == 0, done
        assert len(list(Path("out").iterdir())) == 3
