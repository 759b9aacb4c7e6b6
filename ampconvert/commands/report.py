"""`ampconvert report`: the pages of a conversion, later and without its model."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ampconvert.commands import reports
from ampconvert.commands.outcome import DONE, Outcome
from ampconvert.errors import UserError
from ampconvert.report import pages
from ampconvert.report.progress import StageLine

REPORTED = ("convert", "analyze", "explain", "verify", "pareto")


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Write the pages and overlays that were asked for; an HTML page where nothing was."""
    from ampconvert.files import write_text
    from ampconvert.report import jsonable

    data = read(options.source)
    files = [path for path in options.out if path is not None]
    overlays = [options.model_explorer] if options.model_explorer else []
    annotated = [options.netron[1]] if options.netron else []
    if not (options.out or overlays or annotated):
        files = [_beside(options.source)]
    reports.refuse([*files, *overlays, *annotated], options.force)
    progress("write", 0, 0)
    with _readable(options.source):
        texts = {path: pages.rendered(data, pages.format_of(path)) for path in files}
        summary = pages.rendered(data, "markdown").rstrip() if None in options.out else None
        if overlays:
            texts[options.model_explorer] = jsonable.dumps(_model_explorer(data, options)) + "\n"
        models = _annotated(data, *options.netron) if options.netron else []
    for path, text in texts.items():
        write_text(text, path)
    return Outcome(
        DONE,
        lambda: _page(files, models, overlays),
        lambda: data,
        None if summary is None else lambda: summary or "",
    )


def read(path: Path) -> Mapping[str, Any]:
    """The report that a plan's file or a JSON file of `--json` holds; UserError for others."""
    from ampconvert.files import read_json
    from ampconvert.plan import from_dict
    from ampconvert.report import jsonable

    data = read_json(path)
    if not isinstance(data, Mapping):
        raise UserError(f"{path}: this is no plan and no report of ampconvert's")
    found = data.get("report", data if data.get("command") in REPORTED else None)
    if found is None:
        try:
            return dict(jsonable.plain(jsonable.bare_plan(from_dict(data))))
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    if not isinstance(found, Mapping) or not isinstance(found.get("schema"), int):
        raise UserError(f"{path}: its report is damaged; convert the model again")
    if found["schema"] > jsonable.SCHEMA:
        raise UserError(
            f"{path}: a newer ampconvert wrote it (schema {found['schema']}, this one reads "
            f"{jsonable.SCHEMA}): update ampconvert"
        )
    return found


@contextmanager
def _readable(source: Path) -> Iterator[None]:
    """UserError where a report that somebody has changed by hand can't be read on."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{source}: its report is damaged ({type(error).__name__}: {error}); convert the model "
            "again"
        ) from error


def _beside(source: Path) -> Path:
    """model.fp16.report.html for model.fp16.plan.json."""
    name = source.name.removesuffix(".json").removesuffix(".plan")
    return source.with_name(f"{name}.report.html")


def _annotated(data: Mapping[str, Any], model: Path, out: Path) -> list[Path]:
    """The model in `model` with what the report says on its nodes, written to `out`."""
    from ampconvert.frontends.onnx_load import load
    from ampconvert.frontends.onnx_save import save
    from ampconvert.report.overlays import annotate

    loaded = load(model)
    if not annotate(loaded, data):
        raise UserError(
            f"{model}: no node of it is in the report; give the model that was converted with it"
        )
    return save(loaded, out)


def _model_explorer(data: Mapping[str, Any], options: Namespace) -> Mapping[str, Any]:
    from ampconvert.frontends.onnx_load import load
    from ampconvert.report.overlays import model_explorer

    path = options.model or _converted(options.source)
    is_onnx = path is not None and path.suffix.lower() == ".onnx"
    # The nodes of a .pt2 go by the names that the report has.
    found = model_explorer(data, load(path) if path and is_onnx else None, by=options.by)
    if not found and not model_explorer(data, None, by=options.by):
        raise UserError(
            f"{options.source}: the report has no {options.by} of any operator; convert the model "
            "again with --report"
        )
    if not found:
        raise UserError(
            f"{path or options.source}: none of its nodes is in the report; name the model "
            "that was converted with --model"
        )
    return found


def _converted(source: Path) -> Path | None:
    """The converted model beside its plan: model.fp16.onnx for model.fp16.plan.json."""
    path = source.with_name(f"{source.name.removesuffix('.json').removesuffix('.plan')}.onnx")
    return path if path.is_file() else None


def _page(written: list[Path], models: list[Path], overlays: list[Path]) -> Any:
    from rich.console import Group

    return Group(
        *reports.written_lines(written),
        *reports.written_lines(models, "for Netron"),
        *reports.written_lines(overlays, "node data for Model Explorer"),
    )
