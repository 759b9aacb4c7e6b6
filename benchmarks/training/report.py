"""Tables for the terminal, and a dated JSON and Markdown file."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from benchmarks import dated
from benchmarks.training.results import Results
from benchmarks.training.tables import tables


def show(console: Console, results: Results) -> None:
    """Print every table, and what failed."""
    dated.show(console, tables(results), results.failures())


def write(results: Results, folder: Path) -> list[Path]:
    """Write <date>-training.json and .md into `folder`."""
    heading = "Training in mixed precision"
    return dated.write(
        folder, "training", heading, results.found, tables(results), results.failures()
    )
