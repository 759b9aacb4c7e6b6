"""`ampconvert analyze`: the verdicts, with nothing written."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import TYPE_CHECKING

from ampconvert.commands.loading import is_onnx, load_all
from ampconvert.commands.outcome import DONE, Outcome
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
                read.model, read.feeds, **read.arguments(options), progress=progress
            )
    loaded = load_all(options, progress)
    from ampconvert import pipeline

    return loaded.subject, pipeline.analyze(
        loaded.entry.model,
        loaded.inputs.args,
        loaded.inputs.kwargs,
        **loaded.arguments(options),
        progress=progress,
    )
