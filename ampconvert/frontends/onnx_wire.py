"""Protobuf's wire format, as far as it takes to pass weights by instead of through memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

LARGE = 64 << 10  # bytes of a weight that is worth passing by

# Field numbers of onnx.proto.
_GRAPH = 7  # ModelProto.graph
_INITIALIZER = 5  # GraphProto.initializer
_RAW_DATA = 9  # TensorProto.raw_data
# Wire types: an integer, 8 bytes, a length and so many bytes, 4 bytes.
_VARINT, _I64, _LEN, _I32 = 0, 1, 2, 5


def without_weights(path: Path, size: int) -> bytes:
    """The ModelProto in `path`, of `size` bytes, with the main graph's large weights left there.

    A TensorProto whose raw_data has `LARGE` bytes or more says instead, as one with external data
    does, that its numbers stand in this same file, and where. Raises ValueError on broken framing.
    """
    with path.open("rb") as file:
        return _without_weights(file, size, (_GRAPH, _INITIALIZER), path.name)


def write_with_weights(
    file: BinaryIO,
    proto: onnx.ModelProto,
    weights: Mapping[str, ir.TensorProtocol],
    write: Callable[[ir.TensorProtocol, BinaryIO], None],
) -> None:
    """Write `proto`; the main graph's initializers get the numbers in `weights`, by name.

    `write` puts the bytes of one tensor into the file: they pass one tensor at a time, where
    protobuf would hold all of them twice. Takes `proto` apart.
    """
    initializers: list[tuple[bytes, ir.TensorProtocol | None]] = []
    inner = 0
    for tensor in proto.graph.initializer:
        head, numbers = tensor.SerializeToString(), weights.get(tensor.name)
        size = 0 if numbers is None else numbers.nbytes
        if numbers is not None:
            head += _start(_RAW_DATA, size)
        head = _start(_INITIALIZER, len(head) + size) + head
        initializers.append((head, numbers))
        inner += len(head) + size
    proto.graph.ClearField("initializer")
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    # The order of fields is free, so the graph may come last and the initializers last in it.
    file.write(proto.SerializeToString())
    file.write(_start(_GRAPH, len(graph) + inner) + graph)
    for head, numbers in initializers:
        file.write(head)
        if numbers is not None:
            write(numbers, file)


def _without_weights(file: BinaryIO, end: int, way: tuple[int, ...], name: str) -> bytes:
    """The message from here to `end`; `way` are the fields that lead down to a TensorProto."""
    parts: list[bytes] = []
    while (start := file.tell()) < end:
        key = _read_varint(file)
        field, kind = key >> 3, key & 7
        if kind == _LEN:
            size = _read_varint(file)
            inside = file.tell()
            if size > end - inside:
                raise ValueError("a field is longer than the message it stands in")
            if size >= LARGE and way and field == way[0]:
                body = _without_weights(file, inside + size, way[1:], name)
                parts.append(_start(field, len(body)) + body)
                continue
            if size >= LARGE and not way and field == _RAW_DATA:
                parts.append(_elsewhere(name, inside, size))
                file.seek(size, 1)
                continue
            file.seek(size, 1)
        elif kind == _VARINT:
            _read_varint(file)
        elif kind in (_I64, _I32):
            file.seek(8 if kind == _I64 else 4, 1)
        else:
            raise ValueError(f"wire type {kind} is not in use")
        stop = file.tell()
        if stop > end:
            raise ValueError("a field is longer than the message it stands in")
        file.seek(start)
        parts.append(file.read(stop - start))
    return b"".join(parts)


def _elsewhere(name: str, offset: int, length: int) -> bytes:
    """The fields of a TensorProto that say where its numbers stand."""
    fields = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", name), ("offset", offset), ("length", length)):
        fields.external_data.add(key=key, value=str(value))
    return bytes(fields.SerializeToString())


def _start(field: int, size: int) -> bytes:
    """What stands before a field of `size` bytes: its number and wire type, and the size."""
    return _varint(field << 3 | _LEN) + _varint(size)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("ends inside a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number is longer than ten bytes")
