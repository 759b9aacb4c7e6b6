"""The models of ONNX's backend test suite, with the data that its own runner would use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .case import Case, input_names

# ONNX's word for each kind, and the category that a report has it under.
CATEGORIES = {
    "node": "node",
    "simple": "simple",
    "real": "light",
    "pytorch-converted": "pytorch-converted",
    "pytorch-operator": "pytorch-operator",
}


def suite_cases() -> Iterator[Case]:
    """Every model of the installed onnx's suite, in the suite's order.

    Node tests are made by onnx in memory, with their data. The nine "real" models come as the light
    files that ship with it: real graphs, whose large weights a ConstantOfShape fills in.
    """
    from onnx.backend.test.loader import load_model_tests

    for kind, category in CATEGORIES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the suite divides by zero on purpose
            tests = load_model_tests(kind=kind)
        for test in sorted(tests, key=lambda test: test.name):
            name = test.name.removeprefix("test_")
            if test.model is not None:
                yield _in_memory(test, name)
            elif test.model_dir is not None:
                yield _on_disk(test, name, category)
            else:
                yield _light(test, name)


def _in_memory(test: Any, name: str) -> Case:
    names = input_names(test.model)
    feeds = [_named(names, [_value(x) for x in inputs]) for inputs, _ in test.data_sets]
    expected = [[_value(x) for x in outputs] for _, outputs in test.data_sets]
    return Case(name, "node", test.model, feeds, expected, test.rtol, test.atol)


def _on_disk(test: Any, name: str, category: str) -> Case:
    folder = Path(test.model_dir)
    model = onnx.load(folder / "model.onnx")
    names = input_names(model)
    feeds, expected = [], []
    for data in sorted(folder.glob("test_data_set_*")):
        feeds.append(_named(names, _read(data, "input", list(model.graph.input))))
        expected.append(_read(data, "output", list(model.graph.output)))
    return Case(name, category, model, feeds, expected, test.rtol, test.atol)


def _light(test: Any, name: str) -> Case:
    """As the suite's runner has it: a ramp from 0 to 1 as input, one stored answer."""
    path = Path(onnx.__file__).parent.parent / test.url
    model = onnx.load(path)
    feed = {}
    for value in model.graph.input:
        if value.name in input_names(model):
            shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
            size = int(np.prod(shape))
            feed[value.name] = (np.arange(size).reshape(shape) / size).astype(np.float32)
    answers = [
        numpy_helper.to_array(onnx.load_tensor(path.with_name(f"{path.stem}_output_{i}.pb")))
        for i in range(len(model.graph.output))
    ]
    return Case(name, "light", model, [feed], [answers], test.rtol, test.atol)


def _read(folder: Path, kind: str, declared: list[onnx.ValueInfoProto]) -> list[Any]:
    """The values of `input_0.pb`, `input_1.pb` ..., by the types of the model's declaration."""
    found: list[Any] = []
    for i in range(len(list(folder.glob(f"{kind}_*.pb")))):
        data = (folder / f"{kind}_{i}.pb").read_bytes()
        form = declared[i].type.WhichOneof("value")
        if form == "sequence_type":
            found.append(_value(onnx.SequenceProto.FromString(data)))
        elif form == "optional_type":
            found.append(_value(onnx.OptionalProto.FromString(data)))
        else:
            found.append(_value(onnx.TensorProto.FromString(data)))
    return found


def _value(given: Any) -> Any:
    """One of the suite's many ways to hold a value, as an array, a list, a dict or None."""
    if isinstance(given, onnx.TensorProto):
        return numpy_helper.to_array(given)
    if isinstance(given, onnx.SequenceProto):
        return [_value(item) for item in numpy_helper.to_list(given)]
    if isinstance(given, onnx.OptionalProto):
        return _value(numpy_helper.to_optional(given))
    if isinstance(given, list | tuple):
        return [_value(item) for item in given]
    if given is None or isinstance(given, dict):
        return given
    return np.asarray(given)


def _named(names: list[str], values: list[Any]) -> dict[str, Any]:
    """Values by the names of the inputs they stand for; trailing optional inputs may be missing."""
    return dict(zip(names, values, strict=False))
