"""The check by TensorRT. Without TensorRT and a GPU its logic is held by a double: the part of the
Python API of TensorRT 10 and 11 that the check calls, with the real names, flags and results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ampconvert import cli
from ampconvert.commands.build_check import with_build_check
from ampconvert.commands.outcome import DONE, FAILED, Outcome
from ampconvert.errors import UserError
from ampconvert.integrations.tensorrt import check, main
from ampconvert.report.subject import Subject, Tensor


class DataType(Enum):
    FLOAT = 0
    HALF = 1


class LayerType(Enum):
    MATRIX_MULTIPLY = 0
    CAST = 1


class ErrorCode(Enum):
    UNSUPPORTED_NODE = 8


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self.started = True

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class Flags(IntEnum):
    STRONGLY_TYPED = 1


class Double(ModuleType):
    """A tensorrt of its own for each test: what it is given is kept, what it answers is set."""

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.__version__ = "11.4.0.106"
        self.ILogger = ILogger
        self.NetworkDefinitionCreationFlag = Flags
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.errors: list[Any] = []
        self.engine: Any = SimpleNamespace(nbytes=1234)
        self.shape = (-1, 8)
        self.flags: list[int] = []
        self.profiles: list[tuple[Any, ...]] = []
        self.limits: list[tuple[Any, int]] = []

    def Builder(self, logger: Any) -> Any:
        assert logger.started  # the real one needs the base class set up
        double = self

        def create_network(flags: int) -> Any:
            double.flags.append(flags)
            return double.network()

        def build(network: Any, config: Any) -> Any:
            if double.engine is None:
                logger.log(ILogger.ERROR, "no kernel for layer soft")
            logger.log(ILogger.INFO, "not kept")
            return double.engine

        return SimpleNamespace(
            create_network=create_network,
            create_builder_config=lambda: SimpleNamespace(
                set_memory_pool_limit=lambda pool, size: double.limits.append((pool, size)),
                add_optimization_profile=lambda profile: double.profiles.append("added"),
            ),
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda *given: double.profiles.append(given)
            ),
            build_serialized_network=build,
        )

    def network(self) -> Any:
        made = [("mul", LayerType.MATRIX_MULTIPLY, DataType.HALF), ("cast", LayerType.CAST,
                DataType.FLOAT)]  # fmt: skip
        layers = [
            SimpleNamespace(
                name=name, type=kind, num_outputs=1,
                get_output=lambda i, dtype=dtype: SimpleNamespace(dtype=dtype),
            )
            for name, kind, dtype in made
        ]  # fmt: skip
        return SimpleNamespace(
            num_layers=2,
            get_layer=lambda i: layers[i],
            num_inputs=1,
            get_input=lambda i: SimpleNamespace(name="x", shape=self.shape),
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return SimpleNamespace(
            parse_from_file=lambda path: Path(path).is_file() and not self.errors,
            num_errors=len(self.errors),
            get_error=lambda i: self.errors[i],
        )


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Double:
    double = Double()
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    return double


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.fp16.onnx"
    path.write_bytes(b"onnx")
    return path


def test_a_build_in_the_files_own_types(trt: Double, model: Path) -> None:
    found = check(model, shapes={"x": (4, 8)}, workspace=1 << 20)
    assert found.ok and not found.skipped
    assert trt.flags == [1 << Flags.STRONGLY_TYPED]
    assert trt.profiles == [("x", (4, 8), (4, 8), (4, 8)), "added"]
    assert trt.limits == [("workspace", 1 << 20)]
    assert found.types == {"HALF": 1, "FLOAT": 1}
    assert [layer.kind for layer in found.layers] == ["MATRIX_MULTIPLY", "CAST"]
    assert found.messages == ()
    assert found.lines() == [
        "TensorRT 11.4.0.106 built model.fp16.onnx: 2 layers, results 1 HALF, 1 FLOAT"
    ]


def test_a_fixed_input_needs_no_profile(trt: Double, model: Path) -> None:
    trt.shape = (4, 8)
    assert check(model).ok
    assert trt.profiles == []


def test_a_dynamic_dimension_without_a_size_is_one(trt: Double, model: Path) -> None:
    check(model)
    assert trt.profiles[0] == ("x", (1, 8), (1, 8), (1, 8))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [({"y": (1, 8)}, "no input 'y'"), ({"x": (1, 9)}, "does not fit"), ({"x": (1,)}, "not fit")],
)
def test_shapes_that_fit_no_input(
    trt: Double, model: Path, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(model, shapes=shapes)


def test_what_the_parser_refuses_is_named(trt: Double, model: Path) -> None:
    said = {"node_name": "soft", "node_operator": "Softmax", "desc": "no half kernel"}
    answers: dict[str, Callable[[], Any]] = {k: (lambda v=v: v) for k, v in said.items()}
    trt.errors = [SimpleNamespace(code=lambda: ErrorCode.UNSUPPORTED_NODE, **answers)]
    found = check(model)
    assert not found.ok and not found.skipped
    assert found.lines()[1] == "UNSUPPORTED_NODE at Softmax 'soft': no half kernel"
    assert main([str(model)]) == 1


def test_what_the_builder_refuses_is_said(trt: Double, model: Path) -> None:
    trt.engine = None
    found = check(model)
    assert not found.ok
    assert found.lines() == [
        "TensorRT 11.4.0.106 does not build model.fp16.onnx", "no kernel for layer soft",
    ]  # fmt: skip


def test_without_a_gpu_it_is_skipped(trt: Double, model: Path) -> None:
    def builder(logger: Any) -> Any:
        logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Builder = builder  # type: ignore[method-assign]
    found = check(model)
    assert not found.ok and "NVIDIA GPU" in found.skipped and "error: 35" in found.skipped
    assert main([str(model)]) == 0
    assert main([str(model), "--required"]) == 4


def test_an_older_tensorrt_is_skipped(trt: Double, model: Path) -> None:
    trt.__version__ = "8.6.1"
    assert "older than 10" in check(model).skipped


def test_without_tensorrt_it_is_skipped(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    found = check(model)
    assert not found.ok and found.skipped
    assert main([str(model)]) == 0
    assert capsys.readouterr().out.startswith("TensorRT has not built model.fp16.onnx: ")


@pytest.mark.parametrize("words", [["no.onnx"], ["MODEL", "--shape", "x:ax8"]])
def test_bad_usage(model: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.replace("MODEL", str(model)) for word in words]) == 2
    assert "ampconvert: error:" in capsys.readouterr().err


def test_the_exit_code_of_a_conversion(trt: Double, model: Path) -> None:
    before = Outcome(DONE, lambda: "page", lambda: {"command": "convert"})
    graph = SimpleNamespace(inputs=[SimpleNamespace(name="x")])
    done: Any = SimpleNamespace(files={"onnx": model}, onnx=SimpleNamespace(graph=graph))
    subject = Subject("model.py", "Net", "class Net", (Tensor("x", "float32", (4, 8)),))
    after = with_build_check(before, done, subject)
    assert after.code == DONE
    assert after.data()["tensorrt"]["ok"] is True
    assert trt.profiles[0] == ("x", (4, 8), (4, 8), (4, 8))
    trt.engine = None
    assert with_build_check(before, done, subject).code == FAILED
    trt.__version__ = "8.6.1"
    skipped = with_build_check(before, done, subject)
    assert skipped.code == DONE and skipped.data()["tensorrt"]["ok"] is False


def test_convert_says_that_nothing_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    source = Path(__file__).parents[2] / "examples" / "mlp.py"
    assert cli.main([str(source), "-o", str(tmp_path), "--check-build"]) == 0
    assert "TensorRT has not built mlp.fp16.onnx: " in capsys.readouterr().out


@pytest.mark.slow
def test_with_the_real_package(tmp_path: Path) -> None:
    """Every name that is called exists, also where no GPU lets the builder start."""
    trt = pytest.importorskip("tensorrt", reason="tensorrt is not installed")
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((8, 8), np.float16), "w")
    kinds = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["n", 8]) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", kinds[:1], kinds[1:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    for owner, name in [
        (trt.OnnxParser, "parse_from_file"), (trt.OnnxParser, "get_error"),
        (trt.ParserError, "node_name"), (trt.ParserError, "node_operator"),
        (trt.Builder, "build_serialized_network"), (trt.IHostMemory, "nbytes"),
        (trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
    ]:  # fmt: skip
        assert hasattr(owner, name), name
    found = check(path, shapes={"x": (4, 8)})
    if found.skipped:
        pytest.skip(found.skipped)
    assert found.ok and set(found.types) == {"HALF"}
