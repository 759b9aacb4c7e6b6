"""Size of a report's page and the time until it answers.

    python -m benchmarks.report

Needs playwright and a Chromium. Times are those of a browser without a window on this machine's
processor: the median of five runs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ampconvert.report.html import page
from benchmarks.dated import Table, show, write
from benchmarks.report.browser import browser, missing
from benchmarks.report.made import report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZES = (200, 1_600, 10_000)
RUNS = 5
RESULTS = Path(__file__).parent.parent / "results"

# What is timed, in the page itself: until the next frame has been painted.
PAINTED = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
ACTIONS = {
    "open all modules": "document.querySelector('.controls button').click()",
    "search": (
        "document.getElementById('search').value = 'layer_norm output',"
        "document.getElementById('search').dispatchEvent(new Event('input'))"
    ),
    "list by error": (
        "document.getElementById('view').value = 'error',"
        "document.getElementById('view').dispatchEvent(new Event('change'))"
    ),
    "scroll to the end": "document.getElementById('tree').scrollTop = 1e9",
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--no-write", action="store_true", help="print alone")
    options = arguments.parse_args()
    if lacking := missing():
        raise SystemExit(lacking)
    with browser() as started:
        found = {f"{size}": measured(started, size) for size in SIZES}
        version = started.version
    tables = [_table(found, version)]
    show(Console(), tables, ())
    if not options.no_write:
        for path in write(RESULTS, "report", "The report's page", found, tables, ()):
            print(path)


def measured(started: Browser, operators: int) -> dict[str, float]:
    """Size in bytes, and seconds of each step, of the page on so many operators."""
    data = report(operators)
    start = time.perf_counter()
    text = page(data)
    found = {"bytes": float(len(text.encode())), "made": time.perf_counter() - start}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(text, encoding="utf-8")
        runs = [timed(started, path) for _ in range(RUNS)]
    return {**found, **{step: median(run[step] for run in runs) for step in runs[0]}}


def timed(started: Browser, path: Path) -> dict[str, float]:
    """Seconds of each step in a fresh window."""
    opened = started.new_page(viewport={"width": 1440, "height": 900})
    try:
        start = time.perf_counter()
        opened.goto(path.as_uri())
        opened.wait_for_selector("#tree .rows .row")
        seconds = {"first tree": time.perf_counter() - start}
        for name, action in ACTIONS.items():
            seconds[name] = _until_painted(opened, action, name == "search")
        return seconds
    finally:
        opened.close()


def _until_painted(opened: Page, action: str, waits: bool) -> float:
    """Seconds from `action` until the page shows what it did; a search waits for typing to end."""
    until = (
        "new Promise(done => new MutationObserver((_, me) => { me.disconnect(); done(); })"
        ".observe(document.querySelector('.total'), {childList: true}))"
    )
    wait = f"const changed = {until};" if waits else "const changed = null;"
    script = (
        f"async () => {{ {wait} const start = performance.now(); {action}; await changed;"
        f" await {PAINTED}; return performance.now() - start; }}"
    )
    spent: Any = opened.evaluate(script)
    return float(spent) / 1000


def _table(found: dict[str, dict[str, float]], version: str) -> Table:
    steps = ["made", "first tree", *ACTIONS]
    milliseconds: Callable[[float], str] = lambda seconds: f"{seconds * 1000:.0f}"  # noqa: E731
    rows = [
        (f"{int(size):,}", f"{one['bytes'] / 1e3:,.0f}", *(milliseconds(one[s]) for s in steps))
        for size, one in found.items()
    ]
    return Table(
        "A report's page by the number of operators, milliseconds",
        ("operators", "kB", *steps),
        rows,
        (
            f"Chromium {version} without a window and without a GPU, the median of {RUNS} runs. "
            "'made' is what `ampconvert.report.html.page` takes; 'first tree' is from opening the "
            "file until the tree has rows, driver included; the others are until the next frame "
            "is painted. A search waits for 120 ms without typing from 3,000 operators on.",
            "The data come from a generator (benchmarks/report/made.py), not from a model.",
        ),
    )


if __name__ == "__main__":
    main()
