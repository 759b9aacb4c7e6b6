"""A model to an ONNX file: one weight at a time, nothing half-written, the input never touched."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir
from onnx import TensorProto

from ampconvert.errors import UserError
from ampconvert.frontends.onnx_load import SOURCES, source
from ampconvert.frontends.onnx_wire import write_with_weights
from ampconvert.temporary import blamed_on, part_of, sweep

EXTERNAL_FROM = 1 << 30  # bytes of weights: protobuf ends at 2 GiB, and readers copy what is inline
_PROTOBUF = (1 << 31) - 1  # bytes
_SMALL = 1024  # bytes; smaller tensors always stand in the model file
_CHUNK = 16 << 20  # bytes copied at a time
# Where a tensor may begin in the data file: large ones so that they can be mapped by themselves.
_LARGE, _PAGE, _WORD = 1 << 20, 4096, 64


def save(model: ir.Model, path: Path) -> list[Path]:
    """Write `model` to `path`, and its weights to `<path>.data` where they pass `EXTERNAL_FROM`.

    Tensors are asked for their numbers one after the other and let go again, so that no more than
    one weight of a lazy model is in memory. The files get their names once they are complete.
    `model` stays as it is. Returns the files written, the model first.

    Raises:
        UserError: a file that `model` was loaded from would be overwritten, or more than 2 GiB
            stand where only the model file can hold them.
        OSError: the disk is full or the folder can't be written; nothing is left behind.
    """
    places = list(_places(model))
    data = path.with_name(path.name + ".data") if _size(places) > EXTERNAL_FROM else None
    targets = [path, *([data] if data else [])]
    _refuse_sources(model, places, targets)
    for target in targets:
        if target.is_dir():  # the second of two renames must not be the one that fails
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    for target in targets:
        sweep(target)
    parts = {target: part_of(target) for target in targets}
    try:
        with blamed_on(path):
            if data is None:
                _write_inline(model, places, parts[path])
            else:
                _write_external(model, places, parts[path], parts[data], data.name)
        if data is not None and data.exists():
            path.unlink(missing_ok=True)  # an old model must never stand beside new weights
        for target in reversed(targets):  # the model last: it is what readers look for
            with blamed_on(target):
                os.replace(parts[target], target)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return targets


@dataclass(frozen=True)
class _Place:
    """A tensor of the model, how to put another there, and how to put it back."""

    name: str
    tensor: ir.TensorProtocol
    put: Callable[[ir.TensorProtocol], None]
    restore: Callable[[], None]
    top: bool  # one of the main graph's initializers, which protobuf need not see
    movable: bool  # may stand in the data file

    @property
    def large(self) -> bool:
        return self.tensor.dtype != ir.DataType.STRING and self.tensor.nbytes > _SMALL


def _places(model: ir.Model) -> Iterator[_Place]:
    yield from _places_in(model.graph, top=True, movable=True)
    for body in model.graph.subgraphs():
        yield from _places_in(body, top=False, movable=True)
    for function in model.functions.values():
        for graph in (function.graph, *function.graph.subgraphs()):
            yield from _places_in(graph, top=False, movable=False)


def _places_in(graph: ir.Graph, *, top: bool, movable: bool) -> Iterator[_Place]:
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is not None:
            put = partial(setattr, value, "const_value")
            yield _Place(name, tensor, put, partial(put, tensor), top, movable)
    for node in graph:
        for key, attr in node.attributes.items():
            if attr.is_ref() or attr.type != ir.AttributeType.TENSOR:
                continue
            tensor = attr.as_tensor()
            put = partial(_put_attribute, node, attr)
            restore = partial(node.attributes.__setitem__, key, attr)
            constant = movable and node.op_type == "Constant"
            yield _Place(tensor.name or "", tensor, put, restore, False, constant)


def _put_attribute(node: ir.Node, attr: ir.Attr, tensor: ir.TensorProtocol) -> None:
    node.attributes[attr.name] = ir.AttrTensor(attr.name, tensor, doc_string=attr.doc_string)


def _size(places: Iterable[_Place]) -> int:
    return sum(place.tensor.nbytes for place in places)


def _refuse_sources(model: ir.Model, places: Iterable[_Place], targets: Sequence[Path]) -> None:
    sources = set(model.graph.meta.get(SOURCES, ()))
    sources |= {
        Path(place.tensor.path) for place in places if isinstance(place.tensor, ir.ExternalTensor)
    }
    for target in targets:
        if any(target.exists() and file.exists() and target.samefile(file) for file in sources):
            raise UserError(
                f"{target}: is a file of the model that is read here: write to another name"
            )


def _write_inline(model: ir.Model, places: Sequence[_Place], file: Path) -> None:
    passed_by = {place.name: place.tensor for place in places if place.top and place.large}
    tensors = [_proto(place, numbers=not (place.top and place.large)) for place in places]
    proto = _model_proto(model, places, tensors)
    with file.open("wb") as out:
        write_with_weights(out, proto, passed_by, _write)


def _write_external(
    model: ir.Model, places: Sequence[_Place], file: Path, data: Path, name: str
) -> None:
    staying = [place for place in places if not (place.movable and place.large)]
    if _size(staying) > _PROTOBUF:
        largest = max(staying, key=lambda place: place.tensor.nbytes)
        raise UserError(
            f"{_size(staying)} bytes stand in functions and attributes, and a model file ends at "
            f"2 GiB: make an initializer of {largest.name!r}"
        )
    tensors = []
    with data.open("wb") as out:
        for place in places:
            moved = place.movable and place.large
            tensor = _proto(place, numbers=not moved)
            if moved:
                step = _PAGE if place.tensor.nbytes >= _LARGE else _WORD
                offset = -(-out.tell() // step) * step
                out.seek(offset)
                _write(place.tensor, out)
                _point(tensor, name, offset, place.tensor.nbytes)
            tensors.append(tensor)
    file.write_bytes(_model_proto(model, places, tensors).SerializeToString())


def _model_proto(
    model: ir.Model, places: Sequence[_Place], tensors: Sequence[TensorProto]
) -> onnx.ModelProto:
    """The model with `tensors` at its places, for as long as it takes."""
    try:
        for place, tensor in zip(places, tensors, strict=True):
            held = ir.serde.TensorProtoTensor(tensor)
            held.metadata_props.clear()  # onnx_ir would write them a second time
            place.put(held)
        return ir.to_proto(model)
    finally:
        for place in places:
            place.restore()


def _proto(place: _Place, *, numbers: bool) -> TensorProto:
    """The tensor as ONNX writes it, with or without its numbers."""
    tensor = place.tensor
    if numbers and isinstance(tensor, ir.serde.TensorProtoTensor):
        same = TensorProto()
        same.CopyFrom(tensor.raw)
        if place.name:
            same.name = place.name
        return same
    proto = TensorProto(data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    if place.name:
        proto.name = place.name
    if tensor.doc_string:
        proto.doc_string = tensor.doc_string
    for key, text in tensor.metadata_props.items():
        proto.metadata_props.add(key=key, value=text)
    if isinstance(tensor, ir.StringTensor):
        proto.string_data.extend(tensor.string_data())
    elif numbers:
        proto.raw_data = b"".join(_chunks(tensor))
    return proto


def _point(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _write(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Raises ValueError when the tensor has other numbers than its type and shape ask for."""
    start = file.tell()
    if isinstance(tensor, ir.ExternalTensor) or not hasattr(tensor, "tofile"):
        for chunk in _chunks(tensor):
            file.write(chunk)
    else:
        try:
            tensor.tofile(file)
        except OSError as error:
            if error.errno is None:  # numpy's: how many bytes were written, and not why no more
                os.write(file.fileno(), b"\0")  # raises what the system says
            raise
    if file.tell() - start != tensor.nbytes:
        raise ValueError(
            f"tensor {tensor.name!r} gave {file.tell() - start} bytes instead of {tensor.nbytes}"
        )


def _chunks(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    """The tensor's bytes; of what stands in a file a part at a time, without mapping it."""
    if not isinstance(tensor, ir.ExternalTensor):
        yield tensor.tobytes()
        return
    left = tensor.nbytes
    with source(tensor).open("rb") as file:
        file.seek(tensor.offset or 0)
        while left and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            yield chunk
    if left:
        raise UserError(
            f"{tensor.path}: ends before tensor {tensor.name!r} does: it was changed after loading"
        )
