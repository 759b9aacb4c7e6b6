"""What a run of the zoo came to: a table for the terminal, a dated JSON and Markdown file."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.child import ROOT

from .registry import Entry

PEERS = ("onnxconverter-common", "onnxruntime", "modelopt")
PACKAGES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
NONE = "-"


@dataclass(frozen=True)
class Row:
    """One model's measurements: the baseline, and per "<tool> <dtype>" what the child printed."""

    entry: Entry
    base: dict[str, Any]
    results: dict[str, dict[str, Any]]

    def result(self, tool: str, dtype: str) -> dict[str, Any]:
        """What `tool` did; empty where it was not run."""
        return self.results.get(f"{tool} {dtype}", {})

    def judged(self, tool: str, dtype: str) -> dict[str, Any]:
        """The verdict on the file that `tool` wrote; empty where there is none."""
        found: dict[str, Any] = self.result(tool, dtype).get("judged", {})
        return found

    def error(self, tool: str, dtype: str) -> float | None:
        """The emulated relative L2 error of a file that is valid, loads, and is finite."""
        judged = self.judged(tool, dtype)
        good = _sound(judged) and judged.get("finite") and judged.get("exact", True)
        return judged.get("rel_l2") if good else None

    def inside(self, tool: str, dtype: str) -> bool:
        """Whether `tool`'s file holds ampconvert's default tolerance."""
        error = self.error(tool, dtype)
        return error is not None and error <= tolerance(dtype)

    def passed(self, dtype: str) -> bool:
        """Whether ampconvert's own file holds."""
        return self.inside("ours", dtype)


def tolerance(dtype: str) -> float:
    """ampconvert's default tolerance for `dtype`."""
    from ampconvert.verify.metrics import default_tolerance

    return default_tolerance("bfloat16" if dtype == "bfloat16" else "float16")


def show(console: Console, rows: list[Row], dtype: str) -> None:
    """Print the table of `dtype`: ours in full, the peers' error and casts beside it."""
    table = Table(
        title=f"{dtype}, tolerance {tolerance(dtype):g}, * trained",
        title_justify="left",
        pad_edge=False,
    )
    columns = _columns(dtype, full=False)
    for name, _ in columns:
        left = name in ("model", "state", *PEERS)
        table.add_column(name, justify="left" if left else "right", no_wrap=name == "model")
    for row in rows:
        table.add_row(*(cell(row) for _, cell in columns))
    console.print(table)
    for row in rows:
        if reason := _why(row, dtype):
            console.print(f"{row.entry.name}: {reason}", markup=False, highlight=False)


def _columns(dtype: str, full: bool) -> list[tuple[str, Callable[[Row], str]]]:
    """Column titles and cells; not `full`: the five yes-or-no columns as one, for a terminal."""

    def judged(key: str, form: str) -> Callable[[Row], str]:
        return lambda row: _number(row.judged("ours", dtype).get(key), form)

    steps = _steps(dtype)
    states = [(name, partial(_step_cell, step)) for name, step in steps.items()]
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("model", lambda row: row.entry.name + (" *" if row.entry.trained else "")),
        *(states if full else [("state", partial(_state, steps))]),
        ("error", judged("rel_l2", ".1e")),
        ("top-1", judged("top1", ".1%")),
        ("casts", judged("casts", "d")),
        ("in low", judged("low_share", ".0%")),
        ("s", lambda row: _number(_seconds(row, "ours", dtype), ".1f")),
        ("MB", lambda row: _number(_memory(row, "ours", dtype), ".0f")),
    ]
    return columns + [(peer, partial(_peer_cell, peer=peer, dtype=dtype)) for peer in PEERS]


Step = Callable[[Row], bool | None]


def _steps(dtype: str) -> dict[str, Step]:
    """What ampconvert's conversion has to get through, in order; None where it can't be told."""

    def judged(key: str) -> Step:
        def step(row: Row) -> bool | None:
            found: bool | None = row.judged("ours", dtype).get(key, False)
            return found

        return step

    return {
        "captured": lambda row: "capture" in row.base.get("seconds", {}),
        "exported": lambda row: bool(row.result("ours", dtype).get("onnx")),
        **{key: judged(key) for key in ("valid", "loads", "finite")},
    }


def _step_cell(step: Step, row: Row) -> str:
    """None: ONNX Runtime's CPU provider has no kernel for it, which says nothing of the file."""
    good = step(row)
    return "no kernel" if good is None else "yes" if good else "NO"


def _state(steps: dict[str, Step], row: Row) -> str:
    failed = [name for name, step in steps.items() if step(row) is False]
    return f"not {failed[0]}" if failed else "ok"


def _peer_cell(row: Row, peer: str, dtype: str) -> str:
    """Error, casts and share in low, or the first thing that is wrong with the peer's file."""
    result, judged = row.result(peer, dtype), row.judged(peer, dtype)
    if not result:
        return NONE
    if "error" in result:
        return "fails"
    for key, word in (("valid", "invalid"), ("loads", "does not load"), ("finite", "not finite")):
        if judged.get(key, False) is False:
            return word
    share = _number(judged.get("low_share"), ".0%")
    return f"{_number(judged.get('rel_l2'), '.1e')}, {judged.get('casts', NONE)}, {share}"


def _why(row: Row, dtype: str) -> str:
    """What went wrong with ampconvert's conversion; empty when nothing did."""
    result, judged = row.result("ours", dtype), row.judged("ours", dtype)
    found = row.base.get("error") or result.get("error") or judged.get("error") or judged.get("why")
    if found or row.passed(dtype):
        return str(found or "")
    if not judged.get("finite"):
        return "an output is not finite"
    return f"error {_number(judged.get('rel_l2'), '.1e')} is outside the tolerance"


def overview(rows: list[Row], dtype: str) -> str:
    """The summary: a line per tool, then how ours compares with the best peer, model by model."""
    tools = ["ours", *(p for p in PEERS if any(row.result(p, dtype) for row in rows))]
    head = (
        "tool",
        "valid",
        "finite",
        "within tolerance",
        "casts",
        "in low",
        "seconds",
        "MB over start",
    )
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(_tool_line(rows, tool, dtype)) + " |" for tool in tools]
    lines += ["", "casts, in low, seconds and MB are medians over the models within tolerance"]
    trained = [row for row in rows if row.entry.trained]
    if trained:
        held = sum(row.passed(dtype) for row in trained)
        lines.append(f"trained models within tolerance: {held} of {len(trained)}")
    return "\n".join([*lines, *_stages(rows, dtype), *_against(rows, dtype)])


def _stages(rows: list[Row], dtype: str) -> list[str]:
    """What read, classify, plan and apply take beside torch.onnx.export, in the same process."""
    shares: dict[str, float] = {}
    for row in rows:
        seconds = row.result("ours", dtype).get("seconds", {})
        if seconds.get("export"):
            own = sum(seconds.get(name, 0.0) for name in ("read", "classify", "plan", "apply"))
            shares[row.entry.name] = own / seconds["export"]
    if not shares:
        return []
    bert = f", {shares['bert_base']:.0%} on bert_base" if "bert_base" in shares else ""
    middle = f"{median(shares.values()):.0%}"
    return [
        f"own stages (read, classify, plan, apply) over export's seconds: median {middle}{bert}"
    ]


def _tool_line(rows: list[Row], tool: str, dtype: str) -> list[str]:
    held = [row for row in rows if row.inside(tool, dtype)]
    judged = [row.judged(tool, dtype) for row in rows]
    cells = [
        "ampconvert" if tool == "ours" else tool,
        f"{sum(_sound(j) for j in judged)} of {len(rows)}",
        str(sum(_sound(j) and bool(j.get("finite")) for j in judged)),
        str(len(held)),
    ]
    middle: list[tuple[Callable[[Row], float | None], str]] = [
        (lambda row: row.judged(tool, dtype).get("casts"), ".0f"),
        (lambda row: row.judged(tool, dtype).get("low_share"), ".0%"),
        (lambda row: _seconds(row, tool, dtype), ".2f"),
        (lambda row: _memory(row, tool, dtype), ".0f"),
    ]
    for get, form in middle:
        values = [v for row in held if (v := get(row)) is not None]
        cells.append(_number(median(values), form) if values else NONE)
    return cells


def _sound(judged: dict[str, Any]) -> bool:
    return bool(judged.get("valid")) and judged.get("loads", False) is not False


def _against(rows: list[Row], dtype: str) -> list[str]:
    """Ours beside the peer with the smallest error, over the models where both hold."""
    ratios, casts, alone, lost = [], [], [], []
    for row in rows:
        held = [p for p in PEERS if row.inside(p, dtype)]
        if row.passed(dtype) and not held and any(row.result(p, dtype) for p in PEERS):
            alone.append(row.entry.name)
        if held and not row.passed(dtype):
            lost.append(row.entry.name)
        if held and row.passed(dtype):
            best = min(row.error(p, dtype) or 0.0 for p in held)
            ratios.append(((row.error("ours", dtype) or 0.0) / max(best, 1e-12), row.entry.name))
            fewest = min(row.judged(p, dtype).get("casts", 0) for p in held)
            casts.append((row.judged("ours", dtype).get("casts", 0), fewest))
    lines = []
    if ratios:
        worst, name = max(ratios)
        lines += [
            f"error over the best peer's: median {median(r for r, _ in ratios):.2f}, "
            f"worst {worst:.2f} ({name})",
            f"casts: median {median(a for a, _ in casts):.0f}, "
            f"best peer's {median(b for _, b in casts):.0f}; no more than the best peer's "
            f"on {sum(a <= b for a, b in casts)} of {len(casts)}",
        ]
    if alone:
        lines.append(f"within tolerance here and with no peer: {len(alone)} ({', '.join(alone)})")
    if lost:
        lines.append(f"within tolerance with a peer and not here: {len(lost)} ({', '.join(lost)})")
    return lines


def write(rows: list[Row], dtype: str, folder: Path) -> list[Path]:
    """Write <date>-zoo-<dtype>.json and .md into `folder`; an earlier one of that day goes."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    about = {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "dtype": dtype,
        **machine(),
        "peers": _peers(rows),
    }
    data = {
        "about": about,
        "tolerance": tolerance(dtype),
        "models": [
            {
                "name": row.entry.name, "domain": row.entry.domain, "trained": row.entry.trained,
                "baseline": {k: v for k, v in row.base.items() if k != "ops"},
                **{key.split()[0]: r for key, r in row.results.items() if key.split()[1] == dtype},
            }
            for row in rows
        ],
    }  # fmt: skip
    stem = folder / f"{now:%Y-%m-%d}-zoo-{dtype}"
    json_path, md_path = stem.with_suffix(".json"), stem.with_suffix(".md")
    json_path.write_text(json.dumps(_portable(data), indent=1) + "\n", encoding="utf-8")
    md_path.write_text(_markdown(rows, dtype, about), encoding="utf-8")
    return [json_path, md_path]


def _markdown(rows: list[Row], dtype: str, about: dict[str, Any]) -> str:
    columns = _columns(dtype, full=True)
    lines = [f"# The zoo in {dtype}", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += [
        f"- tolerance on the emulated relative L2 error: {tolerance(dtype):g}",
        "",
        overview(rows, dtype),
    ]
    lines += [
        "",
        "* trained. A peer's cell: error, casts, share of multiply-adds in the low type.",
        "",
    ]
    lines += ["| " + " | ".join(name for name, _ in columns) + " |", "| --- " * len(columns) + "|"]
    lines += ["| " + " | ".join(cell(row) for _, cell in columns) + " |" for row in rows]
    reasons = [f"- {row.entry.name}: {why}" for row in rows if (why := _why(row, dtype))]
    if reasons:
        lines += ["", "## What failed here", "", *reasons]
    failed = [
        f"- {row.entry.name}, {peer}: {reason}"
        for row in rows
        for peer in PEERS
        if (reason := row.result(peer, dtype).get("error") or row.judged(peer, dtype).get("why"))
    ]
    if failed:
        lines += ["", "## What failed with the peers", "", *failed]
    return str(_portable("\n".join(lines))) + "\n"


def _portable(data: Any) -> Any:
    """The same without this machine's paths, and without numbers that JSON can't hold."""
    if isinstance(data, dict):
        return {k: _portable(v) for k, v in data.items() if k != "onnx"}
    if isinstance(data, list):
        return [_portable(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, str):
        return data.replace(f"{ROOT}{os.sep}", "").replace(str(Path.home()), "~")
    return data


def machine() -> dict[str, Any]:
    """What a result file says of where it was made."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(
            (ln.split(":", 1)[1].strip() for ln in lines if ln.startswith("model name")), cpu
        )
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "commit": done.stdout.strip() or "none yet",
        "versions": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    }


def _peers(rows: list[Row]) -> str:
    found: dict[str, str] = {
        key.split()[0]: result["version"]
        for row in rows
        for key, result in row.results.items()
        if "version" in result
    }
    return ", ".join(f"{name} {number}" for name, number in found.items()) or "not run"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _seconds(row: Row, tool: str, dtype: str) -> float | None:
    seconds = row.result(tool, dtype).get("seconds")
    return sum(seconds.values()) if seconds else None


def _memory(row: Row, tool: str, dtype: str) -> float | None:
    """Peak memory in MB above what the process held before: imports, and for ours the module."""
    memory = row.result(tool, dtype).get("memory_mb")
    return memory["peak"] - memory["before"] if memory else None


def _number(value: Any, form: str) -> str:
    return NONE if value is None else format(value, form)
