"""Seconds and memory over size, on logarithmic axes, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale.points import TOOLS, Point

PANELS = (
    ("plain", "plain chain, nodes"),
    ("mixed", "mixed chain, nodes"),
    ("weights", "weights, MB"),
)
ROWS = (("cpu_seconds", "processor time, s"), ("peak_mb", "peak memory over start, MiB"))
CAPTION = "a hollow mark: the file is not valid; a line that ends early: over a limit from there"
COLOURS = ("#c62828", "#ef9a9a", "#1565c0", "#6a1b9a", "#00838f", "#9e9d24", "#6d4c41")
MARKS = "oosD^v<"


def draw(points: Sequence[Point], paths: Sequence[Path]) -> None:
    """Write the picture to each of `paths`, in the format of its suffix."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "scale"  # the same picture for the same figures
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: a smaller file, found by search
    figure, axes = pyplot.subplots(2, len(PANELS), figsize=(13, 8), layout="constrained")
    for row, (name, label) in enumerate(ROWS):
        for column, (kind, title) in enumerate(PANELS):
            _panel(axes[row][column], [p for p in points if p.kind == kind], name)
            axes[row][column].set_xlabel(title)
        axes[row][0].set_ylabel(label)
    lines = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
    named = [tool for tool in TOOLS if tool in lines]
    figure.legend(
        [lines[t] for t in named], named, loc="outside lower center", ncols=4, title=CAPTION
    )
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _panel(ax: Any, points: Sequence[Point], name: str) -> None:
    """One line per tool; a hollow mark where the file that it wrote is not valid."""
    for tool, colour, mark in zip(TOOLS, COLOURS, MARKS, strict=True):
        found = [
            (p.size, value, p.valid)
            for p in points
            if p.tool == tool and (value := p.figure(name)) is not None and value > 0
        ]
        if not found:
            continue
        sizes, values, valid = zip(*found, strict=True)
        ax.plot(sizes, values, color=colour, label=tool, marker=mark, markersize=5)
        broken = [(s, v) for s, v, good in zip(sizes, values, valid, strict=True) if not good]
        if broken:
            ax.plot(*zip(*broken, strict=True), mark, color=colour, markerfacecolor="white")
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda number, _: f"{number:,g}")
    ax.grid(which="major", alpha=0.4)
