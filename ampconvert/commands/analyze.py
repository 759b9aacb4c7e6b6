"""`ampconvert analyze`: the verdicts, with nothing written."""

from __future__ import annotations

import time
from argparse import Namespace

from ampconvert.commands.loading import load_all
from ampconvert.commands.outcome import DONE, Outcome
from ampconvert.report.progress import StageLine


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Classify and plan `options.target`."""
    start = time.perf_counter()
    loaded = load_all(options, progress)

    from ampconvert import pipeline
    from ampconvert.report import jsonable, terminal

    found = pipeline.analyze(
        loaded.entry.model,
        loaded.inputs.args,
        loaded.inputs.kwargs,
        **loaded.arguments(options),
        progress=progress,
    )
    seconds = time.perf_counter() - start
    return Outcome(
        DONE,
        lambda: terminal.analysis_page(loaded.subject, found, seconds),
        lambda: jsonable.analysis(loaded.subject, found),
    )
