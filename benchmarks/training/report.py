"""Tables for the terminal, and a dated JSON and Markdown file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.analysis.report import _markdown
from benchmarks.training.results import Results
from benchmarks.training.tables import tables
from benchmarks.zoo.report import _portable as portable
from benchmarks.zoo.report import machine


def show(console: Console, results: Results) -> None:
    """Print every table, and what failed."""
    for table in tables(results):
        shown = RichTable(*table.columns, title=table.title, title_justify="left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in table.notes:
            console.print(note, highlight=False)
    for line in results.failures():
        console.print(f"failed: {line}", markup=False, highlight=False)


def write(results: Results, folder: Path) -> list[Path]:
    """Write <date>-training.json and .md into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    about = {"date": now.strftime("%Y-%m-%d %H:%M UTC"), **machine()}
    stem = folder / f"{now:%Y-%m-%d}-training"
    paths = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    data = {"about": about, "results": results.found}
    paths[0].write_text(json.dumps(portable(data), indent=1) + "\n", encoding="utf-8")
    lines = ["# Training in mixed precision", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    for table in tables(results):
        lines += ["", f"## {table.title}", "", *_markdown(table), *(f"\n{n}" for n in table.notes)]
    if failed := results.failures():
        lines += ["", "## What failed", "", *(f"- {line}" for line in failed)]
    paths[1].write_text(str(portable("\n".join(lines))) + "\n", encoding="utf-8")
    return paths
