"""What the measurement came to: tables, growth exponents, a dated JSON, Markdown and SVG file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.scale.plot import draw
from benchmarks.scale.points import OURS, PEERS, SIZES, TOOLS, Point
from benchmarks.zoo.report import _portable, machine

TITLES = {
    "plain": "Chains of MatMul, Add, Relu, Mul",
    "mixed": "Chains with operators that stay in float32",
    "fan-out": "One value with many readers of both types",
    "weights": "Weights in a file of their own",
}
UNITS = {"plain": "nodes", "mixed": "nodes", "fan-out": "readers", "weights": "MB"}
TIME = "Seconds by the clock, and in brackets processor time:"
MEMORY = (
    "Peak memory in MiB over what was held before the call, "
    "and in brackets what of it is anonymous (no file behind it):"
)
GROWS_FROM = 1_000  # nodes: below, fixed costs hide the growth
COMPARED = ("mixed", 2_000)
NONE = "-"


def sections(points: Sequence[Point]) -> str:
    """The tables of all kinds, the growth exponents and the comparison, as Markdown."""
    parts = [growth(points)]
    if line := against(points):
        parts.append(line)
    for kind in SIZES:
        mine = [p for p in points if p.kind == kind]
        if mine:
            parts += [f"## {TITLES[kind]}", TIME, _table(mine, _seconds), MEMORY]
            parts.append(_table(mine, _held))
    return "\n\n".join([*parts, *_failures(points)])


def growth(points: Sequence[Point]) -> str:
    """The slope of log(time) over log(nodes), by tool and chain: 1 is linear, 2 quadratic."""
    lines = ["| time grows as nodes to the power of | plain | mixed |", "| --- | ---: | ---: |"]
    for tool in TOOLS:
        cells = [_exponent(points, kind, tool) for kind in ("plain", "mixed")]
        if any(cell != NONE for cell in cells):
            lines.append(f"| {tool} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _exponent(points: Sequence[Point], kind: str, tool: str) -> str:
    """The slope, and the sizes it is taken over: peers end where they pass the limit."""
    found = [
        (p.size, seconds)
        for p in points
        if (p.kind, p.tool) == (kind, tool) and p.size >= GROWS_FROM
        if (seconds := p.figure("cpu_seconds")) is not None
    ]
    if len(found) < 3:
        return NONE
    sizes, seconds = np.log(np.array(found)).T
    return f"{np.polyfit(sizes, seconds, 1)[0]:.2f} (to {found[-1][0]:,})"


def against(points: Sequence[Point]) -> str:
    """How many times faster than the fastest peer whose file is valid, at one size; by processor
    time, which what else the machine does leaves alone. Others that finished are named as well.
    """
    here = {
        p.tool: (p.figure("cpu_seconds") or 0.0, p.valid)
        for p in points
        if (p.kind, p.size) == COMPARED and p.figure("cpu_seconds") is not None
    }
    peers = {tool: here[tool][0] for tool in PEERS if tool in here and here[tool][1]}
    if OURS not in here or not peers:
        return ""
    ours = here[OURS][0]
    fastest = min(peers, key=lambda tool: peers[tool])
    told = (
        f"At {COMPARED[1]:,} nodes of the {COMPARED[0]} chain: {ours:.3f} s of processor time, "
        f"the fastest peer with a valid file ({fastest}) {peers[fastest]:.2f} s, "
        f"{peers[fastest] / ours:.1f} times as long."
    )
    refused = [f"{t} {here[t][0]:.2f} s" for t in PEERS if t in here and not here[t][1]]
    return told + (f" Not valid: {', '.join(refused)}." if refused else "")


def _table(points: Sequence[Point], cell: Any) -> str:
    """One line per size, one column per tool."""
    tools = [tool for tool in TOOLS if any(p.tool == tool for p in points)]
    by_place = {(p.size, p.tool): p for p in points}
    lines = [
        f"| {UNITS[points[0].kind]} | {' | '.join(tools)} |",
        "| ---: " * (len(tools) + 1) + "|",
    ]
    for size in sorted({p.size for p in points}):
        cells = [cell(by_place[size, t]) if (size, t) in by_place else NONE for t in tools]
        lines.append(f"| {size:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _seconds(point: Point) -> str:
    """Seconds and processor time; in words where a limit was passed or the file is not valid."""
    seconds, processor = point.figure("seconds"), point.figure("cpu_seconds")
    if seconds is None or processor is None:
        return _brief(point.error)
    return f"{_digits(seconds)} ({_digits(processor)})" + ("" if point.valid else " invalid")


def _digits(seconds: float) -> str:
    return f"{seconds:.{3 if seconds < 1 else 2 if seconds < 10 else 1}f}"


def _brief(error: str) -> str:
    return error if error.startswith("over ") else NONE if error.startswith("not run") else "fails"


def _held(point: Point) -> str:
    peak, anonymous = point.figure("peak_mb"), point.figure("anonymous_mb")
    if peak is None:
        return NONE
    return f"{peak:,.0f}" + ("" if anonymous is None else f" ({anonymous:,.0f})")


def _failures(points: Sequence[Point]) -> list[str]:
    """What failed and why: the same reason of one tool on one kind of model is told once."""
    reasons: dict[tuple[str, str, str], list[int]] = {}
    for p in points:
        why = p.checked.get("why") or p.checked.get("error") or ("" if p.valid else p.error)
        if why and not str(why).startswith(("over ", "not run")):
            reasons.setdefault((p.tool, p.kind, str(why)), []).append(p.size)
    if not reasons:
        return []
    lines = [
        f"- {tool}, {kind} ({', '.join(f'{s:,}' for s in sizes)}): {why}"
        for (tool, kind, why), sizes in reasons.items()
    ]
    return ["## What failed", "\n".join(lines)]


def write(points: Sequence[Point], folder: Path, scratch: Path) -> list[Path]:
    """Write <date>-scale.json, .md and .svg into `folder`, and the picture as PNG to `scratch`."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    about = {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        **machine(),
        "peers": ", ".join(sorted({v for p in points if p.tool in PEERS for v in _versions(p)})),
        "load average before a run": _load(points),
    }
    stem = folder / f"{now:%Y-%m-%d}-scale"
    paths = [stem.with_suffix(suffix) for suffix in (".json", ".md", ".svg")]
    data = {
        "about": about,
        "points": [
            {"kind": p.kind, "size": p.size, "tool": p.tool, "rounds": p.rounds, "file": p.checked}
            for p in points
        ],
    }
    paths[0].write_text(json.dumps(_portable(data), indent=1) + "\n", encoding="utf-8")
    lines = ["# Time and memory against size, float16", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += ["", f"![seconds and memory]({paths[2].name})", "", sections(points)]
    paths[1].write_text(str(_portable("\n".join(lines))) + "\n", encoding="utf-8")
    draw(points, [paths[2], scratch / "scale.png"])
    return paths


def _versions(point: Point) -> list[str]:
    return [r["version"] for r in point.rounds if "version" in r]


def _load(points: Sequence[Point]) -> str:
    """What else the machine did: its load average (runnable processes) over all measurements."""
    loads = [r["load"] for p in points for r in p.rounds if "load" in r]
    return f"median {median(loads):.1f}, most {max(loads):.1f}" if loads else "unknown"
