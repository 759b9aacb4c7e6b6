"""`--check-build`: whether TensorRT builds the file that a conversion wrote."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ampconvert.commands.outcome import FAILED, Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ampconvert.conversion import Conversion
    from ampconvert.integrations.tensorrt import BuildCheck
    from ampconvert.report.subject import Subject


def with_build_check(outcome: Outcome, done: Conversion, subject: Subject) -> Outcome:
    """`outcome`, with the build of the file that `done` wrote told of; code 1 where TensorRT was
    there and refused it.
    """
    from ampconvert.integrations.tensorrt import check

    found = check(done.files["onnx"], shapes=_shapes(done, subject))
    refused = not found.ok and not found.skipped
    return replace(
        outcome,
        code=FAILED if refused else outcome.code,
        page=lambda: _page(outcome, found),
        data=lambda: {**outcome.data(), "tensorrt": _data(found)},
    )


def _shapes(done: Conversion, subject: Subject) -> dict[str, tuple[int, ...]]:
    """The inputs' sizes in the example, which dynamic dimensions are built for."""
    names = [value.name or "" for value in done.onnx.graph.inputs] if done.onnx else []
    if len(names) != len(subject.tensors):
        return {}
    return {
        name: tuple(d for d in tensor.shape if isinstance(d, int))
        for name, tensor in zip(names, subject.tensors, strict=True)
        if all(isinstance(d, int) for d in tensor.shape)
    }


def _page(outcome: Outcome, found: BuildCheck) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from ampconvert.report.layout import BAD, BLANK, GOOD, WARN

    style = GOOD if found.ok else WARN if found.skipped else BAD
    return Group(outcome.page(), BLANK, *(Text(line, style=style) for line in found.lines()))


def _data(found: BuildCheck) -> dict[str, Any]:
    return {**asdict(found), "path": str(found.path), "ok": found.ok, "types": found.types}
