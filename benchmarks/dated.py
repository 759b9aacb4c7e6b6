"""Tables for the terminal, and a dated JSON and Markdown file of them: what benchmarks report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.zoo.report import _portable as portable
from benchmarks.zoo.report import machine


@dataclass(frozen=True)
class Table:
    """One table: a title, columns, rows of cells, and what is to be said below it."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    notes: tuple[str, ...] = field(default=())


def show(console: Console, tables: Iterable[Table], failures: Sequence[str]) -> None:
    """Print every table, and what failed."""
    for table in tables:
        shown = RichTable(*table.columns, title=table.title, title_justify="left")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in table.notes:
            console.print(note, highlight=False)
    for line in failures:
        console.print(f"failed: {line}", markup=False, highlight=False)


def write(
    folder: Path,
    name: str,
    heading: str,
    found: Mapping[str, Any],
    tables: Iterable[Table],
    failures: Sequence[str],
) -> list[Path]:
    """Write what was `found` as <date>-<name>.json, and its tables as .md, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    about = {"date": now.strftime("%Y-%m-%d %H:%M UTC"), **machine()}
    stem = folder / f"{now:%Y-%m-%d}-{name}"
    paths = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    data = {"about": about, "results": found}
    paths[0].write_text(json.dumps(portable(data), indent=1) + "\n", encoding="utf-8")
    lines = [f"# {heading}", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    for table in tables:
        lines += ["", f"## {table.title}", "", *_markdown(table), *(f"\n{n}" for n in table.notes)]
    if failures:
        lines += ["", "## What failed", "", *(f"- {line}" for line in failures)]
    paths[1].write_text(str(portable("\n".join(lines))) + "\n", encoding="utf-8")
    return paths


def _markdown(table: Table) -> list[str]:
    lines = [f"| {' | '.join(table.columns)} |", f"| {' | '.join('---' for _ in table.columns)} |"]
    return lines + [f"| {' | '.join(row)} |" for row in table.rows]
