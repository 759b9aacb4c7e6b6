"""`ampconvert rewrite`: an FP32 training script becomes one that trains in mixed precision."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from ampconvert.commands.outcome import DONE, Outcome
from ampconvert.errors import UserError
from ampconvert.lint.files import ChangedError, decoded, encoded, write
from ampconvert.lint.rewrite import rewrite
from ampconvert.report.progress import StageLine


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Show what would change, or with --write change it. UserError where it is refused."""
    from ampconvert.report import rewrite as pages

    path: Path = options.script
    data = _read(path)
    try:
        before, encoding = decoded(data)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path}: {error}; save it in UTF-8") from error
    done = rewrite(before, str(path), dtype=options.dtype, style=options.style)
    written = options.write and done.text != before
    if written:
        _write(path, data, encoded(done.text, encoding))
    return Outcome(
        DONE,
        lambda: pages.page(str(path), before, done, written=written),
        lambda: pages.as_data(str(path), before, done, written=written),
    )


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the script that holds the training loop")
    if path.suffix == ".ipynb":
        raise UserError(f"{path}: notebooks are not rewritten; export it as a script first")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _write(path: Path, old: bytes, new: bytes) -> None:
    try:
        write(str(path), old, new)
    except ChangedError as error:
        raise UserError(f"{path} was changed meanwhile, and stays as it is now") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; nothing was written") from error
