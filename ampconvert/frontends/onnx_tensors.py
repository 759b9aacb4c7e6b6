"""The tensors of an ONNX file: as much data as their shapes need, and external data where it may
stand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto

from ampconvert.errors import UserError

MOST_AXES = 64  # numpy's limit
# Each element type, and where a tensor's numbers stand when they are not in raw_data.
ELEMENT_TYPES = {
    kind: onnx.helper.tensor_dtype_to_field(kind)
    for kind in TensorProto.DataType.values()
    if kind != TensorProto.UNDEFINED and kind in {known.value for known in ir.DataType}
}


def check_tensors(proto: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """Check every tensor of the model that stands in `path`, and say where external data are.

    Locations of external data become absolute. Gives the files that hold them. Raises UserError
    naming the tensor.
    """
    files = _ExternalData(path)
    for where, tensor in _tensors(proto):
        size = _checked_size(tensor, where)
        if tensor.data_location == TensorProto.EXTERNAL:
            files.check(tensor, where, size)
    return tuple(files.sizes)


def data_file(location: str, folder: Path, where: str, *, real: Path | None = None) -> Path:
    """The file that `location` names, free of symbolic links; `real` is a second allowed folder.

    Raises UserError when it is missing, or outside the folder: a model from elsewhere must not be
    able to have other files read.
    """
    if not location or "\0" in location:
        raise UserError(f"{where} names no file for its external data: export the model again")
    windows = PureWindowsPath(location)
    if PurePosixPath(location).is_absolute() or windows.drive or windows.root:
        raise UserError(
            f"{where} has its data in {location!r}, an absolute path: move the file beside the "
            "model, and save the model again with the file's bare name"
        )
    if ".." in windows.parts:
        raise UserError(
            f"{where} has its data in {location!r}, which leads out of the model's folder: move "
            "the file beside the model, and save the model again with the file's bare name"
        )
    file = (folder / location).resolve()
    if not any(file.is_relative_to(at.resolve()) for at in (folder, real) if at is not None):
        raise UserError(
            f"{where} has its data in {location!r}, a symbolic link that leaves the model's "
            "folder: copy the file itself there"
        )
    if not file.is_file():
        raise UserError(
            f"{where} has its data in {location!r}, and there is no such file beside the model: "
            "copy it there too"
        )
    return file


def external_range(tensor: TensorProto) -> tuple[str, int, int]:
    """The file, first byte and number of bytes of a checked tensor's external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    size = _bytes(tensor)
    return entries["location"], int(entries.get("offset", 0)), size


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes."""
    for attr in node.attribute:
        if attr.type == AttributeProto.GRAPH:
            yield attr.g
        elif attr.type == AttributeProto.GRAPHS:
            yield from attr.graphs


def called(node: NodeProto) -> str:
    """How messages name a node: many have no name."""
    if node.name:
        return f"node {node.name!r} ({node.op_type})"
    made = next((name for name in node.output if name), "")
    return f"the {node.op_type or 'node'} that makes {made!r}"


class _ExternalData:
    """The files with the model's external data; each is looked up once."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent
        # Where a cache of downloads links to: model and data then stand side by side elsewhere.
        self.real = path.resolve().parent
        self.found: dict[str, Path] = {}
        self.sizes: dict[Path, int] = {}

    def check(self, tensor: TensorProto, where: str, size: int) -> None:
        """`size` bytes are needed. Makes the location absolute."""
        entries = {entry.key: entry for entry in tensor.external_data}
        location = entries["location"].value if "location" in entries else ""
        if location not in self.found:
            file = data_file(location, self.folder, where, real=self.real)
            self.found[location], self.sizes[file] = file, file.stat().st_size
        file = self.found[location]
        offset = _whole_number(entries, "offset", where) or 0
        length = _whole_number(entries, "length", where) or size
        if length != size:
            raise UserError(
                f"{where} has {length} bytes of external data, and its type and shape need {size}: "
                "export the model again"
            )
        if offset + size > self.sizes[file]:
            raise UserError(
                f"{where} needs bytes {offset} to {offset + size} of {location!r}, which has "
                f"{self.sizes[file]}: the file is cut short or another model's; copy it again"
            )
        entries["location"].value = str(file)


def _whole_number(
    entries: dict[str, onnx.StringStringEntryProto], key: str, where: str
) -> int | None:
    if key not in entries:
        return None
    text = entries[key].value
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise UserError(
            f"{where} has the {key} {text[:30]!r} for its external data, which is no number of "
            "bytes: export the model again"
        )
    return int(text)


def _tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor of the model, and how messages name it."""
    yield from _tensors_of_graph(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _tensors_of_node(node)


def _tensors_of_graph(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise UserError(f"weight {name!r} is stored sparse, which is not supported: store it dense")
    for tensor in graph.initializer:
        yield f"weight {tensor.name!r}", tensor
    for node in graph.node:
        yield from _tensors_of_node(node)


def _tensors_of_node(node: NodeProto) -> Iterator[tuple[str, TensorProto]]:
    for attr in node.attribute:
        kind = attr.type
        if kind == AttributeProto.TENSOR and not attr.ref_attr_name:
            yield f"{attr.name!r} of {called(node)}", attr.t
        elif kind == AttributeProto.TENSORS:
            for tensor in attr.tensors:
                yield f"{attr.name!r} of {called(node)}", tensor
        elif kind == AttributeProto.GRAPH:
            yield from _tensors_of_graph(attr.g)
        elif kind == AttributeProto.GRAPHS:
            for graph in attr.graphs:
                yield from _tensors_of_graph(graph)
        elif kind in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
            raise UserError(
                f"{called(node)} holds a sparse tensor, which is not supported: store it dense"
            )


def _checked_size(tensor: TensorProto, where: str) -> int:
    """The bytes that the tensor's numbers take. Raises UserError unless it has just those."""
    field = ELEMENT_TYPES.get(tensor.data_type)
    if field is None:
        raise UserError(
            f"{where} has the element type {tensor.data_type}, unknown to onnx {onnx.__version__}: "
            "upgrade onnx, or export the model again"
        )
    if len(tensor.dims) > MOST_AXES or any(size < 0 for size in tensor.dims):
        raise UserError(f"{where} has a shape that none can have: export the model again")
    count = math.prod(tensor.dims)
    outside = tensor.data_location == TensorProto.EXTERNAL
    if tensor.data_type == TensorProto.STRING:
        if outside or tensor.HasField("raw_data"):
            raise UserError(f"{where} holds strings as raw bytes: export the model again")
        found, needed, unit = len(tensor.string_data), count, "strings"
        size = 0
    else:
        size = _bytes(tensor)
        if outside:
            return size
        if tensor.HasField("raw_data"):
            found, needed, unit = len(tensor.raw_data), size, "bytes"
        else:
            found, needed, unit = len(getattr(tensor, field)), count, "numbers"
            if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
                needed = 2 * count
            elif ir.DataType(tensor.data_type).bitwidth in (2, 4):  # packed
                needed = size
    if found != needed:
        raise UserError(
            f"{where} holds {found} {unit}, and its shape {list(tensor.dims)} needs {needed}: "
            "the file is damaged; export or download it again"
        )
    return size


def _bytes(tensor: TensorProto) -> int:
    bits: int = math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
    return (bits + 7) // 8
