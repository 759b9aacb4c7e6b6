"""`ampconvert convert`: write the FP16 or BF16 model and measure parity."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ampconvert.commands.loading import (
    is_onnx,
    load_all,
    output_name,
    proof_arguments,
)
from ampconvert.commands.outcome import DONE, FAILED, Outcome
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.report.progress import StageLine
from ampconvert.report.subject import Subject

if TYPE_CHECKING:
    from ampconvert.conversion import Conversion
    from ampconvert.plan import Plan


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Convert `options.target`; code 1 when parity failed, or was asked for and not measured."""
    from ampconvert.report import jsonable, terminal

    start = time.perf_counter()
    _refuse_together(options)
    if options.pareto:
        return _pareto(options, progress, start)
    subject, done = (_onnx if is_onnx(options.target) else _torch)(options, progress)
    seconds = time.perf_counter() - start
    outcome = Outcome(
        DONE if done.ok or done.unchecked else FAILED,
        lambda: terminal.conversion_page(subject, done, seconds),
        lambda: jsonable.conversion(subject, done, seconds),
    )
    if options.check_build:
        from ampconvert.commands.build_check import with_build_check

        return with_build_check(outcome, done, subject)
    return outcome


def _pareto(options: Namespace, progress: StageLine, start: float) -> Outcome:
    """The front of time against error; nothing is written."""
    from ampconvert.report import front

    if is_onnx(options.target):
        from ampconvert.commands.loading_onnx import explained, load_onnx

        read = load_onnx(options, progress)
        from ampconvert import pipeline_onnx

        arguments = {k: v for k, v in read.arguments(options).items() if k != "verify"}
        with explained(options.target):
            found = pipeline_onnx.pareto(read.model, read.feeds, **arguments, progress=progress)
        subject = read.subject
    else:
        from ampconvert import pipeline

        loaded = load_all(options, progress)
        found = pipeline.pareto(
            loaded.entry.model,
            loaded.inputs.args,
            loaded.inputs.kwargs,
            **loaded.arguments(options),
            progress=progress,
        )
        subject = loaded.subject
    seconds = time.perf_counter() - start
    return Outcome(
        DONE,
        lambda: front.front_page(subject, found, seconds),
        lambda: front.front_data(subject, found, seconds),
    )


def _refuse_together(options: Namespace) -> None:
    """Raise UserError for options that contradict each other."""
    chosen = "--pareto" if options.pareto else "--point" if options.point is not None else ""
    others = {
        "--plan": options.plan,
        "--tolerance": options.tolerance if options.pareto else None,
        "--no-verify": options.no_verify,
        "--repair": options.repair,
        "--check-build": options.check_build if options.pareto else None,
    }
    for option, given in others.items():
        if chosen and given:
            raise UserError(f"{option} has no use with {chosen}; leave out one or the other")
    if options.repair and (options.plan or options.no_verify):
        other = "--plan" if options.plan else "--no-verify"
        raise UserError(f"--repair has no use with {other}; leave out one or the other")
    if options.assume and not options.prove:
        raise UserError("--assume is a contract for a proof: give --prove too")


def _torch(options: Namespace, progress: StageLine) -> tuple[Subject, Conversion]:
    from ampconvert.files import refuse_overwrite, suffixed

    if options.out.suffix == ".onnx" and not options.out.is_dir():
        raise UserError(
            f"-o {options.out}: a PyTorch model gives several files; name a folder, and with "
            "--name what the files' names begin with"
        )
    name = output_name(options.target, options.name)
    plan = _plan(options)
    low: Low = options.dtype
    # The same checks stand at the end of the work; here they cost nothing.
    refuse_overwrite(
        [suffixed(options.out, name, low, kind) for kind in ("onnx", "pt2", "plan")], options.force
    )
    _refuse_unwritable(options.out)
    loaded = load_all(options, progress)

    from ampconvert import pipeline

    return loaded.subject, _written(
        options.out,
        lambda: pipeline.convert(
            loaded.entry.model,
            loaded.inputs.args,
            loaded.inputs.kwargs,
            **loaded.arguments(options),
            plan=plan,
            out=options.out,
            name=name,
            **proof_arguments(options),
            tolerance=options.tolerance,
            point=options.point,
            repair=options.repair or False,
            overwrite=options.force,
            progress=progress,
            about=loaded.subject,
        ),
    )


def _onnx(options: Namespace, progress: StageLine) -> tuple[Subject, Conversion]:
    from ampconvert.commands.loading_onnx import explained, load_onnx, refuse_input_files
    from ampconvert.files import refuse_overwrite

    plan = _plan(options)
    out = _onnx_file(options)
    written = [out, out.with_name(f"{out.name}.data"), out.with_name(f"{out.stem}.plan.json")]
    refuse_input_files(Path(options.target), written)
    refuse_overwrite(written, options.force)
    _refuse_unwritable(out.parent)
    loaded = load_onnx(options, progress)
    refuse_input_files(Path(options.target), written, loaded.model)

    from ampconvert import pipeline_onnx

    with explained(options.target):
        done = _written(
            out,
            lambda: pipeline_onnx.convert(
                loaded.model,
                loaded.feeds,
                **loaded.arguments(options),
                plan=plan,
                out=out,
                name=output_name(options.target, options.name),
                **proof_arguments(options),
                tolerance=options.tolerance,
                point=options.point,
                repair=options.repair or False,
                overwrite=options.force,
                progress=progress,
                about=loaded.subject,
                detailed=bool(options.report),
            ),
        )
    return loaded.subject, done


def _onnx_file(options: Namespace) -> Path:
    """The file to write: `-o` itself where it names one, else NAME.fp16.onnx in that folder."""
    from ampconvert.files import suffixed

    out: Path = options.out
    if out.suffix.lower() != ".onnx":
        return suffixed(out, output_name(options.target, options.name), options.dtype, "onnx")
    if options.name is not None:
        raise UserError(f"-o {out} names the file: leave out --name, or give -o a folder")
    if out.is_dir():
        raise UserError(f"{out}: this is a folder, and -o needs a file where it ends in .onnx")
    return out


def _plan(options: Namespace) -> Plan | None:
    from ampconvert.files import read_plan

    return read_plan(options.plan) if options.plan else None


def _written(place: Path, convert: Callable[[], Conversion]) -> Conversion:
    try:
        return convert()
    except OSError as error:
        # A failed write knows what went wrong and not where.
        where = error.filename if error.filename is not None else place
        raise UserError(f"{where}: {error.strerror or error}") from error


def _refuse_unwritable(folder: Path) -> None:
    """Raise UserError where nothing can be written, before minutes are spent."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{place}: this is a file, and -o needs a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{place}: this folder is read-only; name another one with -o")
