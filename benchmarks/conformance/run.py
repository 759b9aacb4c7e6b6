"""Runs a model as it stands: tensors, sequences, maps and optional values in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import onnx
import onnx.reference

from ampconvert.verify.runtimes import session

Flat = dict[str, np.ndarray[Any, Any]]


def answers(
    model: onnx.ModelProto, feeds: Sequence[Mapping[str, Any]], *, reference: bool = False
) -> list[Flat]:
    """The outputs of `model` for each batch, flattened; any exception is the runtime's own.

    On ONNX Runtime's CPU provider with one thread, or with `reference` on ONNX's own evaluator.
    """
    names = [value.name for value in model.graph.output]
    # ONNX Runtime's BatchNormalization writes its running mean into the array that was fed.
    feeds = deepcopy(feeds)
    if reference:
        evaluator = onnx.reference.ReferenceEvaluator(model)
        with np.errstate(all="ignore"):
            return [flatten(names, [*evaluator.run(None, dict(feed))]) for feed in feeds]
    arrays = all(isinstance(value, np.ndarray) for feed in feeds for value in feed.values())
    if arrays and all(value.type.HasField("tensor_type") for value in model.graph.output):
        with session(model, threads=1) as opened:
            runs = [opened.run(feed) for feed in feeds]
        return [flatten(names, [run[name] for name in names]) for run in runs]
    return _structured(model, names, feeds)


def loads(model: onnx.ModelProto) -> None:
    """Make a session of `model` on ONNX Runtime's CPU provider, or raise why there is none."""
    with session(model, threads=1):
        pass


def flatten(names: Sequence[str], values: Sequence[Any]) -> Flat:
    """Outputs by name; an item of a sequence is `y[0]`, of a map `y[key]`, an absent one nothing.

    Each value may be an array, a number, a list, a dict or None, nested in any way.
    """
    found: Flat = {}
    for name, value in zip(names, values, strict=False):
        if isinstance(value, list | tuple):
            found |= flatten([f"{name}[{i}]" for i in range(len(value))], value)
        elif isinstance(value, dict):
            found |= flatten([f"{name}[{key}]" for key in value], list(value.values()))
        elif value is not None:
            found[name] = np.asarray(value)
    return found


def _structured(
    model: onnx.ModelProto, names: Sequence[str], feeds: Sequence[Mapping[str, Any]]
) -> list[Flat]:
    """By ONNX Runtime's plain call, which takes lists for sequences and None for an optional."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    opened = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"],
        disabled_optimizers=["MatmulTransposeFusion"],  # it ends the process: see judge.py
    )  # fmt: skip
    return [flatten(names, opened.run(None, dict(feed))) for feed in feeds]
