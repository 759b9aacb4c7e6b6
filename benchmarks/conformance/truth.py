"""What a case's FP32 model answers: the truth that conversions of it are held against."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from .case import Case, fetch, nodes
from .run import Flat, answers, flatten, loads

# Their results change from run to run: the suite checks shapes and types alone, and so do we.
RANDOM = {
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
    "Bernoulli",
}  # fmt: skip


def measure(folder: Path) -> dict[str, Any]:
    """Run the case in `folder` in FP32, keep its truth there, and say what was found.

    valid, loads, runs (on ONNX Runtime), suite (agrees with the suite's answers, None without any),
    engine ("onnxruntime", or "reference" where only ONNX's evaluator runs it, or "" for neither),
    random, and `why` of the first step that failed.
    """
    case = fetch(folder)
    found: dict[str, Any] = {"random": is_random(case.model), "engine": "", "suite": None}
    found["why"] = ""
    steps: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("valid", lambda: onnx.checker.check_model(case.model, full_check=True)),
        ("loads", lambda: loads(case.model)),
        ("runs", lambda: answers(case.model, case.feeds)),
    )
    outputs = None
    for name, step in steps:
        try:
            outputs, found[name] = step(), True
        except Exception as error:  # the reason is the finding
            outputs, found[name] = None, False
            found["why"] = found["why"] or f"{name}: {first_line(error)}"
    if outputs is not None:
        found["engine"] = "onnxruntime"
    else:
        try:
            outputs = answers(case.model, case.feeds, reference=True)
            found["engine"] = "reference"
        except Exception:  # nothing here can run it: only its form is judged
            outputs = None
    expected = _expected(case)
    if outputs is not None and expected is not None:
        found["suite"] = _agrees(case, expected, outputs)
    kept = expected if found["suite"] else outputs
    (folder / "truth.pkl").write_bytes(pickle.dumps(kept))
    return found


def truth(folder: Path) -> list[Flat] | None:
    """The answers kept in `folder`: the suite's where FP32 agrees with them, else FP32's own."""
    found: list[Flat] | None = pickle.loads((folder / "truth.pkl").read_bytes())
    return found


def is_random(model: onnx.ModelProto) -> bool:
    """Whether the model draws random numbers: a random operator, or Dropout that may train."""
    return any(
        node.op_type in RANDOM
        or (node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] != "")
        for node in nodes(model)
    )


def first_line(error: BaseException) -> str:
    """An exception as one line of at most 300 characters."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}"


def _expected(case: Case) -> list[Flat] | None:
    if case.expected is None:
        return None
    names = [value.name for value in case.model.graph.output]
    return [flatten(names, outputs) for outputs in case.expected]


def _agrees(case: Case, expected: list[Flat], outputs: list[Flat]) -> bool:
    """By the suite's own comparison, with its tolerance of this case."""
    from onnx.backend.test.runner import Runner

    try:
        for wanted, found in zip(expected, outputs, strict=True):
            assert wanted.keys() == found.keys()
            Runner.assert_similar_outputs(
                list(wanted.values()), list(found.values()), case.rtol, case.atol
            )
    except (AssertionError, TypeError, ValueError):
        return False
    return True
