"""Runs ONNX models on ONNX Runtime, and counts what really ran in a low type there."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
    **{
        f"tensor({s}int{bits})": np.dtype(f"{s}int{bits}")
        for s in ("", "u")
        for bits in (8, 16, 32, 64)
    },
}
# Types that numpy has not, with ONNX's code: only their bits pass between numpy and the runtime.
_BITS: dict[Any, int] = {
    np.dtype(ml_dtypes.bfloat16): ir.DataType.BFLOAT16,
    np.dtype(ml_dtypes.float8_e4m3fn): ir.DataType.FLOAT8E4M3FN,
    np.dtype(ml_dtypes.float8_e4m3fnuz): ir.DataType.FLOAT8E4M3FNUZ,
    np.dtype(ml_dtypes.float8_e5m2): ir.DataType.FLOAT8E5M2,
    np.dtype(ml_dtypes.float8_e5m2fnuz): ir.DataType.FLOAT8E5M2FNUZ,
}
_TYPES |= {f"tensor({ir.DataType(code).name.lower()})": dtype for dtype, code in _BITS.items()}
_OF_BITS = {code: dtype for dtype, code in _BITS.items()}


def run_onnx(
    model: Source,
    feeds: Sequence[Mapping[str, Any]],
    *,
    provider: Provider = "cpu",
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """The outputs of `model` by name, for each batch of `feeds` (inputs by name).

    Floating-point feeds are cast to the type that the model declares, and small integers widened;
    bfloat16 and float8 come and go as ml_dtypes' types, a sequence as a list of arrays, an optional
    without a value as None. Models over protobuf's limit, or with weights in files of their own,
    pass through a temporary file. `threads` limits the threads of one operator.

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
        threads = threads or _own_threads()
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
        defaults = self._session.get_overridable_initializers()
        self._defaults = {value.name: value.type for value in defaults}
        self._outputs = {value.name: value.type for value in self._session.get_outputs()}

    def run(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """One batch: outputs by name. Raises UserError as `run_onnx`."""
        self._check_names(feed)
        return dict(self.results({name: self.value(name, given) for name, given in feed.items()}))

    def value(self, name: str, given: Any) -> Any:
        """What `results` takes for input `name`: `given` in the type that the model declares.

        Nothing is copied where type and memory layout fit already: `given` must not change then.

        Raises:
            UserError: it does not fit.
        """
        fitted = _fitted(name, given, self._inputs.get(name) or self._defaults[name])
        if not isinstance(fitted, np.ndarray) or fitted.dtype == np.object_:
            return fitted  # a sequence, an empty optional, text: only whole runs take these
        make = self._runtime.OrtValue
        with _explained("run", self._provider):
            if fitted.dtype in _BITS:
                bits = fitted.view(f"u{fitted.dtype.itemsize}")
                return make.ortvalue_from_numpy_with_onnx_type(bits, _BITS[fitted.dtype])
            return make.ortvalue_from_numpy(fitted)

    def results(self, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """One run, on what `value` made: outputs by name, one at a time in the model's order.

        An output that the caller drops is freed before the next one comes. Raises UserError.
        """
        with _explained("run", self._provider):
            found = self._fetched(values)
        found.reverse()
        for name in self._outputs:
            with _explained("hand over the results of", self._provider):
                array = _array(found.pop())
            yield name, array
            del array

    def _fetched(self, values: Mapping[str, Any]) -> list[Any]:
        tensors = all(isinstance(value, self._runtime.OrtValue) for value in values.values())
        if tensors and all(kind.startswith("tensor(") for kind in self._outputs.values()):
            return list(self._session.run_with_ort_values(list(self._outputs), values))
        return list(self._session.run(list(self._outputs), values))

    def _check_names(self, feed: Mapping[str, Any]) -> None:
        missing = self._inputs.keys() - feed.keys()
        unknown = feed.keys() - self._inputs.keys() - self._defaults.keys()
        if missing or unknown:
            raise UserError(wrong_names(missing, unknown, self._inputs))


def wrong_names(missing: Collection[str], unknown: Collection[str], known: Collection[str]) -> str:
    """What to tell whose feed does not name a model's inputs."""
    wrong = [f"{sorted(missing)} missing"] * bool(missing)
    wrong += [f"{sorted(unknown)} unknown"] * bool(unknown)
    return f"inputs {', '.join(wrong)}: the model takes {sorted(known)}"


def numbers(tensor: ir.TensorProtocol) -> Array:
    """A tensor's data. One in a file of its own is copied from there, and the file closed.

    `ir.ExternalTensor.numpy` maps the file into memory and keeps it there, page by page: a pass
    over all weights would end with all of them resident.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return np.asarray(tensor.numpy())
    mapped = ir.ExternalTensor(
        tensor.location, tensor.offset, tensor.length, tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()), name=tensor.name, base_dir=tensor.base_dir,
    )  # fmt: skip
    return np.array(mapped.numpy())


def _own_threads() -> int | None:
    """This process's share of the processor where torchrun started several on the machine; None,
    which leaves it to the runtime, where there are no others.
    """
    workers = os.environ.get("LOCAL_WORLD_SIZE", "")
    if not workers.isdecimal() or int(workers) < 2:
        return None
    return max(1, (os.cpu_count() or 1) // int(workers))


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


def _fitted(name: str, given: Any, kind: str) -> Any:
    """`given` in the element type that the input declares, where that is a matter of precision."""
    wrapper, _, inner = kind.removesuffix(")").partition("(")
    if wrapper == "optional":
        return None if given is None else _fitted(name, given, inner)
    if wrapper == "seq":
        if not isinstance(given, list | tuple):
            raise UserError(f"input {name!r} is a {type(given).__name__}, the model takes {kind}")
        return [_fitted(name, element, inner) for element in given]
    array = np.asarray(given)
    if kind not in _TYPES:
        raise UserError(f"input {name!r}: ONNX Runtime takes no {kind} from outside a model")
    target = np.dtype(_TYPES[kind])
    if array.dtype == target:
        return np.ascontiguousarray(array).reshape(array.shape)
    if not (_floating(array.dtype) and _floating(target)) and not _widens(array.dtype, target):
        raise UserError(f"input {name!r} is {array.dtype}, the model takes {kind}")
    with np.errstate(
        over="ignore"
    ):  # an input outside the type's range is infinite, as on a device
        return np.ascontiguousarray(array.astype(target)).reshape(array.shape)


def _floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype in _BITS


def _widens(dtype: np.dtype[Any], target: np.dtype[Any]) -> bool:
    if target == np.object_:
        return dtype.kind in "US"
    return np.can_cast(dtype, target)


def _array(value: Any) -> Any:
    if not hasattr(value, "is_tensor"):
        return value  # from a run with sequences or optionals: numpy's already
    if value.is_tensor() and value.element_type() in _OF_BITS:
        # OrtValue.numpy() does not know these types: copy the bits out of its (CPU) buffer.
        array = np.empty(tuple(value.shape()), _OF_BITS[value.element_type()])
        ctypes.memmove(array.ctypes.data, value.data_ptr(), array.nbytes)
        return array
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
