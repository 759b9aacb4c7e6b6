"""`ampconvert analyze`: the verdicts, with nothing written."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from ampconvert.commands.loading import is_onnx, load_all, proof_arguments
from ampconvert.commands.outcome import DONE, Outcome
from ampconvert.errors import UserError
from ampconvert.report.progress import StageLine
from ampconvert.report.subject import Subject

if TYPE_CHECKING:
    from ampconvert.conversion import Analysis


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Classify and plan `options.target`."""
    start = time.perf_counter()
    subject, found = analysed(options, progress)

    from ampconvert.report import jsonable, terminal

    seconds = time.perf_counter() - start
    return Outcome(
        DONE,
        lambda: terminal.analysis_page(subject, found, seconds),
        lambda: jsonable.analysis(subject, found),
    )


def analysed(options: Namespace, progress: StageLine) -> tuple[Subject, Analysis]:
    """The analysis of `options.target`, PyTorch or ONNX, and what the report says of it."""
    if is_onnx(options.target):
        from ampconvert.commands.loading_onnx import explained, load_onnx

        read = load_onnx(options, progress)
        from ampconvert import pipeline_onnx

        with explained(options.target):
            return read.subject, pipeline_onnx.analyze(
                read.model, read.feeds, **read.arguments(options), **_evidence(options, onnx=True),
                progress=progress,
            )  # fmt: skip
    loaded = load_all(options, progress)
    from ampconvert import pipeline

    return loaded.subject, pipeline.analyze(
        loaded.entry.model,
        loaded.inputs.args,
        loaded.inputs.kwargs,
        **loaded.arguments(options),
        **_evidence(options),
        progress=progress,
    )


def _evidence(options: Namespace, onnx: bool = False) -> dict[str, Any]:
    """What `analyze` is asked to find out beside the verdicts; `explain` asks for nothing."""
    if options.command != "analyze":
        return {}
    found = {**proof_arguments(options), "measure": options.measure}
    if not onnx:
        return {**found, "loss_scale": options.loss_scale}
    if options.loss_scale:
        raise UserError(
            f"{options.target}: --loss-scale is for PyTorch models; an ONNX model has no gradients"
        )
    if options.measure and options.no_verify:
        raise UserError("--measure runs the model, and --no-verify runs nothing; leave out one")
    return found
