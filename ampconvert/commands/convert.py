"""`ampconvert convert`: write the FP16 or BF16 model and measure parity."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from pathlib import Path

from ampconvert.commands.loading import load_all, output_name, refuse_onnx
from ampconvert.commands.outcome import DONE, FAILED, Outcome
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.report.progress import StageLine


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Convert `options.target`; code 1 when parity failed or was not measured."""
    from ampconvert.files import read_plan, refuse_overwrite, suffixed

    start = time.perf_counter()
    refuse_onnx(options.target)
    name = output_name(options.target, options.name)
    plan = read_plan(options.plan) if options.plan else None
    low: Low = options.dtype
    # The same checks stand at the end of the work; here they cost nothing.
    refuse_overwrite(
        [suffixed(options.out, name, low, kind) for kind in ("onnx", "pt2", "plan")], options.force
    )
    _refuse_unwritable(options.out)
    loaded = load_all(options, progress)

    from ampconvert import pipeline
    from ampconvert.report import jsonable, terminal

    try:
        done = pipeline.convert(
            loaded.entry.model,
            loaded.inputs.args,
            loaded.inputs.kwargs,
            **loaded.arguments(options),
            plan=plan,
            out=options.out,
            name=name,
            tolerance=options.tolerance,
            overwrite=options.force,
            progress=progress,
        )
    except OSError as error:
        # A failed write knows what went wrong and not where.
        place = error.filename if error.filename is not None else options.out
        raise UserError(f"{place}: {error.strerror or error}") from error
    seconds = time.perf_counter() - start
    return Outcome(
        DONE if done.ok else FAILED,
        lambda: terminal.conversion_page(loaded.subject, done, seconds),
        lambda: jsonable.conversion(loaded.subject, done, seconds),
    )


def _refuse_unwritable(folder: Path) -> None:
    """Raise UserError where nothing can be written, before minutes are spent."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{place}: this is a file, and -o needs a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{place}: this folder is read-only; name another one with -o")
