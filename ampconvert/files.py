"""Files of one conversion: their names, never overwriting unasked, never half-written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ampconvert.errors import UserError
from ampconvert.plan import Plan, from_dict, to_dict
from ampconvert.plan_check import checked
from ampconvert.temporary import blamed_on, part_of, sweep

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SHORT = {"float16": "fp16", "bfloat16": "bf16"}
_ENDINGS = {"onnx": "onnx", "pt2": "pt2", "plan": "plan.json"}


def suffixed(out: Path, name: str, low: str, kind: str) -> Path:
    """`out/name.fp16.onnx` and its like; `kind` is "onnx", "pt2" or "plan"."""
    return out / f"{name}.{SHORT[low]}.{_ENDINGS[kind]}"


def refuse_overwrite(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise UserError for the first of `paths` that exists, unless `overwrite`, or is a folder.
    Called before any work.
    """
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path}: this is a folder, and a file is to be written there")
        if not overwrite and (path.exists() or path.is_symlink()):  # a link may lead nowhere
            raise UserError(
                f"{path} exists already: use --force to overwrite it, or -o for another folder"
            )


def write_program(program: ExportedProgram, path: Path) -> None:
    """Save a program as .pt2."""
    import torch

    # Written by torch itself, a full disk ends the whole process instead of raising OSError.
    archive = BytesIO()
    torch.export.save(program, archive)
    _replace_after(path, lambda part: part.write_bytes(archive.getbuffer()))


def write_plan(plan: Plan, path: Path, report: Mapping[str, Any] | None = None) -> None:
    """Save a plan as JSON; `read_plan` gives it back. `report` is what a report tells of the
    conversion, in nothing but what JSON has; `ampconvert report` makes its pages of it.
    """
    lines = [*_lines(to_dict(plan))]
    if report is not None:
        lines.append('"report": {\n' + ",\n".join(_lines(report)) + "\n}")
    write_text("{\n" + ",\n".join(lines) + "\n}\n", path)


def write_text(text: str, path: Path) -> None:
    """Write a file as a whole or not at all."""
    _replace_after(path, lambda part: part.write_text(text, encoding="utf-8"))


def _lines(data: Mapping[str, Any]) -> Iterator[str]:
    """JSON with one line per node, cast and weight: what a person compares. json's own indenting
    takes ten times as long.
    """
    for key, value in data.items():
        if isinstance(value, Mapping):
            inner = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items()]
        else:
            inner = [json.dumps(entry) for entry in value] if isinstance(value, list) else []
        first, last = "{}" if isinstance(value, Mapping) else "[]"
        text = f"{first}\n" + ",\n".join(inner) + f"\n{last}" if inner else json.dumps(value)
        yield f"{json.dumps(key)}: {text}"


def read_plan(path: Path) -> Plan:
    """A plan from its file. UserError when there is none, or it is no plan."""
    try:
        return checked(from_dict(read_json(path)))
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds. UserError when there is none, or it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}") from error


def _replace_after(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name and rename; whatever goes wrong leaves neither file behind."""
    sweep(path)
    part = part_of(path)
    try:
        with blamed_on(path):
            write(part)
            os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
