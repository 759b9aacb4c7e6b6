"""Runs ONNX models on ONNX Runtime, and counts what really ran in a low type there."""

from __future__ import annotations

import ctypes
import functools
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from ampconvert.element_types import LowCount, count_low, infer_types
from ampconvert.errors import UserError

Array = np.ndarray[Any, Any]
Provider = Literal["cpu", "cuda"]
Source = ir.Model | onnx.ModelProto | Path | str

_PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider"]}
_IN_MEMORY = 1 << 30  # bytes of weights; protobuf itself ends at 2 GiB, counting everything
_TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bfloat16)": ml_dtypes.bfloat16,
    "tensor(bool)": np.bool_,
    **{
        f"tensor({s}int{bits})": np.dtype(f"{s}int{bits}")
        for s in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
_BFLOAT16 = 16  # TensorProto.BFLOAT16


def run_onnx(
    model: Source,
    feeds: Sequence[Mapping[str, Array]],
    *,
    provider: Provider = "cpu",
    threads: int | None = None,
) -> list[dict[str, Array]]:
    """The outputs of `model` by name, for each batch of `feeds` (inputs by name).

    Floating-point feeds are cast to the type that the model declares, and small integers widened;
    bfloat16 comes and goes as ml_dtypes' type. Models over protobuf's limit, or with weights in
    files of their own, pass through a temporary file. `threads` limits the threads of one operator.

    Raises:
        UserError: ONNX Runtime is not installed or has no such provider; the model does not load or
            fails when it runs (ONNX Runtime's message, which names the node, is kept); or a feed
            does not fit the inputs.
    """
    with session(model, provider=provider, threads=threads) as opened:
        return [opened.run(feed) for feed in feeds]


def available_provider() -> Provider:
    """The provider that shows most: "cuda" where ONNX Runtime can use a GPU, else "cpu"."""
    runtime = _onnxruntime()
    if "CUDAExecutionProvider" not in runtime.get_available_providers():
        return "cpu"
    # A GPU build is "available" on machines without a GPU too: only a session tells.
    tiny = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float x) => (float y) {y = Abs(x)}'
    )
    try:
        with session(tiny, provider="cuda"):
            return "cuda"
    except UserError:
        return "cpu"


def low_nodes_run(model: Source, *, provider: Provider = "cpu") -> LowCount:
    """How many nodes run in a low type once ONNX Runtime has optimised `model` for the provider.

    Where it has no kernel of the low type it computes in float32, between casts that it inserts.

    Raises:
        UserError: as `run_onnx`, when the model does not load.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        with session(model, provider=provider, optimised=path):
            pass
        # The weights stay in a file of their own: only types and nodes are looked at.
        found = ir.from_proto(onnx.load(path, load_external_data=False))
    infer_types(found)
    return count_low(found)


@contextmanager
def session(
    model: Source,
    *,
    provider: Provider = "cpu",
    threads: int | None = None,
    optimised: Path | None = None,
) -> Iterator[Session]:
    """A loaded model; `optimised` is where ONNX Runtime writes what it made of it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Session(_loadable(model, Path(folder)), provider, threads, optimised)


class Session:
    """One model on one provider of ONNX Runtime."""

    def __init__(
        self, model: bytes | str, provider: Provider, threads: int | None, optimised: Path | None
    ) -> None:
        self._runtime = _onnxruntime()
        names = _PROVIDERS[provider]
        if names[0] not in self._runtime.get_available_providers():
            raise UserError(
                f"this ONNX Runtime has no {names[0]}: "
                "install onnxruntime-gpu, or measure on the CPU"
            )
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4  # errors are raised as well; the log would say them twice
        if threads is not None:
            options.intra_op_num_threads = threads
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
            weights = "session.optimized_model_external_initializers_file_name"
            options.add_session_config_entry(weights, f"{optimised.name}.data")
        with _explained("load", provider):
            self._session = self._runtime.InferenceSession(
                model,
                options,
                providers=names,
                # ONNX Runtime 1.32 ends the process in this pass on a CPU, for an FP16 Transpose
                # before a MatMul with a stored weight.
                disabled_optimizers=["MatmulTransposeFusion"] if provider == "cpu" else None,
            )
        if names[0] not in self._session.get_providers():
            # It falls back with no more than a log line.
            raise UserError(
                f"ONNX Runtime could not start {names[0]}: is there a GPU with its driver?"
            )
        self._provider = provider
        self._inputs = {value.name: value.type for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """One batch: outputs by name. Raises UserError as `run_onnx`."""
        self._check_names(feed)
        arrays = {name: _fitted(name, feed[name], kind) for name, kind in self._inputs.items()}
        with _explained("run", self._provider):
            values = {name: self._value(array) for name, array in arrays.items()}
            results = self._session.run_with_ort_values(self._outputs, values)
        return {name: _array(value) for name, value in zip(self._outputs, results, strict=True)}

    def _check_names(self, feed: Mapping[str, Array]) -> None:
        missing, unknown = self._inputs.keys() - feed.keys(), feed.keys() - self._inputs.keys()
        if missing or unknown:
            wrong = [f"{sorted(missing)} missing"] * bool(missing)
            wrong += [f"{sorted(unknown)} unknown"] * bool(unknown)
            raise UserError(f"inputs {', '.join(wrong)}: the model takes {sorted(self._inputs)}")

    def _value(self, array: Array) -> Any:
        make = self._runtime.OrtValue
        if array.dtype == ml_dtypes.bfloat16:  # numpy has no such type: hand over the bits
            bits = array.view(np.uint16)
            return make.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
        return make.ortvalue_from_numpy(array)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise UserError(
            "parity of an ONNX model needs ONNX Runtime: pip install 'ampconvert[ort]'"
        ) from None
    return onnxruntime


def _loadable(model: Source, folder: Path) -> bytes | str:
    """What a session takes: bytes, or the path of a file with its weights beside it."""
    if isinstance(model, Path | str):
        if not Path(model).is_file():
            raise UserError(f"{model}: no such file")
        return str(model)
    if isinstance(model, onnx.ModelProto):
        model = ir.from_proto(model)
    tensors = [t for t in _tensors(model) if t is not None]
    outside = any(isinstance(t, ir.ExternalTensor) for t in tensors)
    if not outside and sum(t.nbytes for t in tensors) < _IN_MEMORY:
        return bytes(ir.to_proto(model).SerializeToString())
    path = folder / "model.onnx"
    ir.save(model, path, external_data="model.onnx.data")
    return str(path)


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol | None]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from (value.const_value for value in graph.initializers.values())


def _fitted(name: str, array: Array, kind: str) -> Array:
    """`array` in the element type that the input declares, where that is a matter of precision."""
    array = np.asarray(array)
    wanted = _TYPES.get(kind)
    if wanted is None or array.dtype == wanted:
        return np.ascontiguousarray(array).reshape(array.shape)
    target = np.dtype(wanted)
    if not (_floating(array.dtype) and _floating(target)) and not np.can_cast(array.dtype, target):
        raise UserError(f"input {name!r} is {array.dtype}, the model takes {kind}")
    with np.errstate(
        over="ignore"
    ):  # an input outside the type's range is infinite, as on a device
        return np.ascontiguousarray(array.astype(target)).reshape(array.shape)


def _floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


def _array(value: Any) -> Array:
    if value.is_tensor() and value.element_type() == _BFLOAT16:
        # OrtValue.numpy() knows no bfloat16: copy the bits out of its (CPU) buffer.
        shape = tuple(value.shape())
        size = int(np.prod(shape, dtype=np.int64))
        bits = (ctypes.c_uint16 * size).from_address(value.data_ptr()) if size else ()
        array: Array = np.array(bits, np.uint16).view(ml_dtypes.bfloat16)
        return array.reshape(shape)
    return np.asarray(value.numpy())


@contextmanager
def _explained(verb: str, provider: Provider) -> Iterator[None]:
    """ONNX Runtime's exceptions as UserError; they share no base class."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        message = _WHERE.sub("", lines[0])
        raise UserError(
            f"ONNX Runtime ({provider.upper()}) could not {verb} the model: {message}"
        ) from error


# What stands before its messages: its own status, and the C++ file, line and function.
_WHERE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : |/\S+\.(?:cc|h):\d+ [^:]*(?:::[^:() ]+)*\([^)]*\)(?: const)? "
)


@functools.cache
def gpu_name() -> str:
    """The first GPU's name by its driver, "GPU 0" where the driver's tool is not installed."""
    import subprocess

    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "GPU 0"
    return found.stdout.splitlines()[0].strip() if found.stdout.strip() else "GPU 0"
