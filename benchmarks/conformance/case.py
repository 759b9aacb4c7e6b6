"""One model of the suite with the inputs it runs on, and how it is kept between processes.

A case lies in a folder of its own: `model.onnx`, its data as `case.pkl`, and `inputs/*.npz` for the
converters that want to be calibrated with files. Everything measured of it is written beside them.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Case:
    """A model, batches of inputs by name, and the answers that the suite expects, if it says.

    A value is an array, a list of values (a sequence), a dict (a map), or None (an empty optional).
    `rtol` and `atol` are the suite's own for float32.
    """

    name: str
    category: str
    model: onnx.ModelProto
    feeds: list[dict[str, Any]]
    expected: list[list[Any]] | None = None
    rtol: float = 1e-3
    atol: float = 1e-7


def store(case: Case, work: Path) -> Path:
    """Write `case` below `work`; gives its folder.

    What was measured there of another model or other data is removed.
    """
    folder = work / case.category / case.name
    data = (case.feeds, case.expected, case.rtol, case.atol)
    files = {"model.onnx": case.model.SerializeToString(), "case.pkl": pickle.dumps(data)}
    paths = {folder / name: content for name, content in files.items()}
    if all(path.exists() and path.read_bytes() == content for path, content in paths.items()):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    for path, content in paths.items():
        path.write_bytes(content)
    if all(_plain(value) for feed in case.feeds for value in feed.values()):
        (folder / "inputs").mkdir(exist_ok=True)
        for i, feed in enumerate(case.feeds):
            np.savez(folder / "inputs" / f"{i}.npz", **feed)
    return folder


def fetch(folder: Path) -> Case:
    """The case that lies in `folder`."""
    feeds, expected, rtol, atol = pickle.loads((folder / "case.pkl").read_bytes())
    model = onnx.load(folder / "model.onnx")
    return Case(folder.name, folder.parent.name, model, feeds, expected, rtol, atol)


def has_float32(model: onnx.ModelProto) -> bool:
    """Whether any tensor of `model`, declared, stored or inferred, is float32."""
    with suppress(Exception):  # where shape inference gives up, what is declared has to do
        model = onnx.shape_inference.infer_shapes(model)
    return any(_is_float32(message) for message in _messages(model))


def input_names(model: onnx.ModelProto) -> list[str]:
    """The inputs that have to be fed: those without a default."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in weights]


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, in bodies and functions too."""
    yield from (message for message in _messages(model) if isinstance(message, onnx.NodeProto))


def _plain(value: Any) -> bool:
    """What an .npz file holds and gives back: ml_dtypes' types it would write and not read."""
    own = isinstance(value, np.ndarray) and value.dtype.type.__module__ == "numpy"
    return own and value.dtype.kind in "fiubc"


def _is_float32(message: Any) -> bool:
    if isinstance(message, onnx.TensorProto):
        return bool(message.data_type == FLOAT)
    return isinstance(message, onnx.TypeProto.Tensor) and message.elem_type == FLOAT


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all that it contains."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                yield from _messages(part)
