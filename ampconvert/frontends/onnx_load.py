"""An ONNX file to a model in memory: weights stay on disk, and what is damaged is refused."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ampconvert.errors import UserError
from ampconvert.frontends.onnx_check import check
from ampconvert.frontends.onnx_names import check_text, in_order
from ampconvert.frontends.onnx_shapes import INFERRED
from ampconvert.frontends.onnx_tensors import check_tensors, data_file
from ampconvert.frontends.onnx_wire import without_weights

Array = np.ndarray[Any, Any]

SOURCES = "ampconvert.sources"  # key of Graph.meta: the files that a model was loaded from
_READ_WHOLE = 64 << 20  # bytes; the weights of larger files stay in the file
# What people rename or download by mistake, by its first bytes.
_FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer, not the model itself: run `git lfs pull`",
    b"<": "a web page or XML, not a model: download the file itself",
    b"PK\x03\x04": "a ZIP archive (or a PyTorch file), not an ONNX model: unpack or export it",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
}


def load(path: Path) -> ir.Model:
    """The model in `path`, checked: onnx's own rules, types and shapes of all operators, weights.

    Weights in external files, and the large ones of a large file, become ir.ExternalTensor: they
    are not read here, so the files must stay while the model is used. Their `path` is absolute and
    has been checked, `base_dir` is empty. `model.graph.meta[SOURCES]` lists the files. Nodes that
    stand in a wrong order are sorted. `training_info` is dropped: ir.Model has no place for it.
    Operators of domains that onnx does not know are taken as they are.

    Raises:
        UserError: there is no such file, or it is empty, cut short, damaged or no ONNX model; it
            needs a newer onnx; it breaks a rule of ONNX (the message names the node or value); its
            external data is missing, too short or outside the model's folder; or it holds what
            ir.Model can't (sparse tensors, maps).
    """
    proto = _parse(path)
    try:
        with _no_collection():
            model, files = _model(proto, path)
            model.graph.meta[SOURCES] = (path.resolve(), *files)
            return model
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # onnx_ir, onnx and protobuf raise kinds of their own on damage
        raise UserError(
            f"{path}: damaged, or written wrongly: {_root(error)}; export the model again"
        ) from error


def from_proto(proto: onnx.ModelProto) -> ir.Model:
    """The model in `proto`, checked as `load` does; external data is looked for where it runs.

    `proto` stays as it is. Raises UserError as `load`.
    """
    own = onnx.ModelProto()
    own.CopyFrom(proto)
    try:
        with _no_collection():
            return _model(own, Path("model.onnx"))[0]
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the model is damaged, or built wrongly: {_root(error)}") from error


def numbers(tensor: ir.TensorProtocol) -> Array:
    """The tensor's values in its own shape and type (numpy's or ml_dtypes').

    An ExternalTensor is read by a plain file read: no mapping of the file lasts, as it does after
    `ExternalTensor.numpy()`. Raises UserError when its file has become unreadable or too short.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor.numpy()
    file = source(tensor)
    try:
        raw = np.fromfile(file, np.uint8, tensor.nbytes, offset=tensor.offset or 0)
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}") from error
    if raw.size < tensor.nbytes:
        raise UserError(
            f"{file}: ends before tensor {tensor.name!r} does: it was changed after loading"
        )
    dtype, shape = tensor.dtype, tuple(tensor.shape.numpy())
    if dtype.bitwidth < 8:
        whole = onnx.TensorProto(data_type=dtype.value, dims=shape, raw_data=raw.tobytes())
        return ir.serde.TensorProtoTensor(whole).numpy()
    return raw.view(np.dtype(dtype.numpy()).newbyteorder("<")).reshape(shape)


def source(tensor: ir.ExternalTensor) -> Path:
    """The file that holds the tensor's numbers.

    Raises UserError when it is missing or, for a tensor that is not from `load`, not allowed.
    """
    if tensor.base_dir:
        return data_file(str(tensor.location), Path(tensor.base_dir), f"tensor {tensor.name!r}")
    return Path(tensor.path)


def _parse(path: Path) -> onnx.ModelProto:
    """The file as protobuf reads it, whose external data may be the file itself."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the .onnx file in it")
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if not path.is_file():
        raise UserError(f"{path}: is not a regular file; copy the model to one")
    try:
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path}: the file is empty: export or download the model again")
        with path.open("rb") as file:
            start = file.read(32)
        proto = onnx.ModelProto()
        proto.ParseFromString(
            path.read_bytes() if size <= _READ_WHOLE else without_weights(path, size)
        )
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    except UserError:
        raise
    except Exception as error:  # protobuf's DecodeError, which has no stable home to import
        raise UserError(f"{path}: {_foreign(start)}") from error
    if not proto.HasField("graph"):
        raise UserError(f"{path}: {_foreign(start)}")
    return proto


def _foreign(start: bytes) -> str:
    for sign, what in _FOREIGN.items():
        if start.startswith(sign):
            return what
    return "not a readable ONNX model: damaged or cut short; export or download it again"


def _model(proto: onnx.ModelProto, path: Path) -> tuple[ir.Model, tuple[Path, ...]]:
    """The checked model that stands in `path`, and the files with its external data."""
    check_text(proto)
    if not proto.graph.output:
        raise UserError("the model has no output, so nothing it computes is used: export it again")
    files = check_tensors(proto, path)
    if not in_order(proto):
        proto = ir.to_proto(_sorted(ir.from_proto(proto)))
    inferred = check(proto)
    model = ir.from_proto(proto)
    if inferred is not None:
        model.graph.meta[INFERRED] = inferred.graph
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        if "ai.onnx" in graph.opset_imports:  # the default domain; onnx_ir's nodes call it ""
            graph.opset_imports[""] = graph.opset_imports.pop("ai.onnx")
    return model, files


def _sorted(model: ir.Model) -> ir.Model:
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.sort()
    return model


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: it would go through all of a growing model time and again,
    which takes as long as all else from 20,000 nodes on, and nothing of it is garbage.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _root(error: BaseException) -> str:
    """The first line of what went wrong in the end; onnx_ir wraps errors in whole printed nodes."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "")
    return line[:200].rstrip(". ") or type(error).__name__
