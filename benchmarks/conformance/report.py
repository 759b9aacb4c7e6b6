"""What a run came to: tables for the terminal, a dated JSON and Markdown file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ampconvert.verify.metrics import default_tolerance
from benchmarks.zoo.report import _portable, machine

CATEGORIES = ("node", "simple", "light", "pytorch-converted", "pytorch-operator", "trained")
PLANS = ("rules", "pinned", "forced")
JUDGED = ("rules", "pinned")  # the plans that the exit code speaks of
# The steps of a verdict (judge.py), in their order, and what it is called when one fails.
WORDS = {
    "valid": "not valid", "io": "inputs or outputs changed", "loads": "does not load",
    "ort": "wrong in ONNX Runtime", "emulated": "wrong when emulated",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One model: what its FP32 side came to, and each tool's verdict ("ours rules", "modelopt")."""

    category: str
    name: str
    base: dict[str, Any]
    results: dict[str, dict[str, Any]]

    @property
    def label(self) -> str:
        """The model's name with its category."""
        return f"{self.category}/{self.name}"

    @property
    def runs(self) -> bool:
        """Whether ONNX Runtime runs the model in FP32."""
        return self.base.get("engine") == "onnxruntime"

    def failure(self, tool: str) -> str:
        """The first thing that is wrong with `tool`'s result; empty for nothing."""
        found = self.results[tool]
        if "error" in found:
            return f"error: {found['error']}"
        for step in WORDS:
            if found.get(step) is False and not (step == "valid" and not self.base.get("valid")):
                return found.get("why") or WORDS[step]
        if tool.startswith("ours ") and found.get("again") != "same":
            return f"once more: {found.get('again')}"
        return ""

    def refused(self, tool: str) -> str:
        """Why nothing of a sound result is in the low type; empty where something is."""
        found = self.results[tool]
        if self.failure(tool) or found.get("converted"):
            return ""
        return str(found.get("refused") or "nothing is in the low type")

    def declined(self, tool: str) -> str:
        """Why ampconvert converts the model with `--no-verify` alone, its first words; else ""."""
        return re.split("[:,;]", str(self.results[tool].get("declined", "")))[0]

    def status(self, tool: str) -> str:
        """What failed, else "refused: why", else "ok" with the emulated relative error."""
        error = self.results[tool].get("rel_l2")
        good = "ok" if error is None else f"ok {error:.1e}"
        refused = self.refused(tool)
        return self.failure(tool) or (f"refused: {refused}" if refused else good)


def failed(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """Models and tools of ours that miss the target: all valid, all that runs loads and agrees."""
    tools = [f"ours {plan}" for plan in JUDGED]
    return [(r, t) for r in rows for t in tools if t in r.results and r.failure(t)]


def show(console: Console, rows: Sequence[Row], dtype: str) -> None:
    """Print all tables of `dtype`, and every model of ours that failed with its reason."""
    for title, table in tables(rows, dtype):
        found = Table(*table[0], title=title, title_justify="left")
        for line in table[1:]:
            found.add_row(*line)
        console.print(found)
    for reason in _failures(rows, JUDGED):
        console.print(reason, markup=False, highlight=False)


def tables(rows: Sequence[Row], dtype: str) -> list[tuple[str, list[list[str]]]]:
    """Titled tables as rows of text, the first of which is the head."""
    runs = sum(row.runs for row in rows)
    head = f"{dtype}: {len(rows)} models with float32 tensors, {runs} of which ONNX Runtime runs"
    return [
        (head, _summary(rows)),
        (f"{dtype}: models without a failure, by category", _by_category(rows)),
        (f"{dtype}: why nothing is in the low type", _reasons(rows, Row.refused)),
        (f"{dtype}: why it converts with --no-verify alone", _reasons(rows, Row.declined)),
    ]


def _tools(rows: Sequence[Row]) -> list[str]:
    """The tools with results for every row, ours first."""
    found = Counter(tool for row in rows for tool in row.results)
    return [tool for tool, count in found.items() if count == len(rows)]


def _summary(rows: Sequence[Row]) -> list[list[str]]:
    columns: list[tuple[str, Callable[[Row, str], bool], Callable[[Row], bool]]] = [
        ("converted", lambda r, t: bool(r.results[t].get("converted")), lambda r: True),
        ("refused", lambda r, t: bool(r.refused(t)), lambda r: True),
        ("valid", lambda r, t: r.results[t].get("valid") is True, lambda r: r.base["valid"]),
        ("io kept", lambda r, t: r.results[t].get("io") is True, lambda r: True),
        ("loads", lambda r, t: _held(r, t, "loads"), lambda r: r.runs),
        ("agrees in ORT", lambda r, t: _held(r, t, "ort"), lambda r: r.runs),
        ("agrees emulated", lambda r, t: _held(r, t, "emulated"), lambda r: r.base["engine"] != ""),
        ("idempotent", lambda r, t: r.results[t].get("again") == "same", lambda r: True),
        ("no failure", lambda r, t: not r.failure(t), lambda r: True),
    ]
    ort = [name for name, _, _ in columns].index("agrees in ORT")
    lines = [["tool", *(name for name, _, _ in columns)]]
    for tool in _tools(rows):
        cells = []
        for _, test, counts in columns:
            chosen = [row for row in rows if counts(row)]
            cells.append(f"{sum(test(row, tool) for row in chosen)} of {len(chosen)}")
        if all(row.results[tool].get("ort") is None for row in rows):
            cells[ort] = "-"  # no bfloat16 kernels there
        lines.append([tool, *cells])
    return lines


def _held(row: Row, tool: str, step: str) -> bool:
    """Whether a step succeeded, or does not apply to a result that there is."""
    found = row.results[tool]
    return step in found and found[step] is not False


def _by_category(rows: Sequence[Row]) -> list[list[str]]:
    tools = _tools(rows)
    lines = [["category", "models", "ORT runs", *tools]]
    for category in CATEGORIES:
        chosen = [row for row in rows if row.category == category]
        if chosen:
            good = [str(sum(not row.failure(tool) for row in chosen)) for tool in tools]
            lines.append([category, str(len(chosen)), str(sum(r.runs for r in chosen)), *good])
    return lines


def _reasons(rows: Sequence[Row], reason_of: Callable[[Row, str], str]) -> list[list[str]]:
    """Each reason with the number of models it was given for; a model may have several."""
    tools = [tool for tool in _tools(rows) if tool.startswith("ours ")]
    counts = {
        tool: Counter(part for row in rows for part in reason_of(row, tool).split(", "))
        for tool in tools
    }
    reasons = Counter[str]()
    for found in counts.values():
        reasons |= found
    lines = [["reason", *tools]]
    for reason, _ in reasons.most_common():
        if reason:
            lines.append([reason, *(str(counts[tool][reason]) for tool in tools)])
    return lines


def _failures(rows: Sequence[Row], plans: Iterable[str]) -> list[str]:
    """One line for each model of ours that failed; equal reasons of several plans together."""
    lines = []
    for row in rows:
        reasons: dict[str, list[str]] = {}
        for plan in plans:
            tool = f"ours {plan}"
            if tool in row.results and (why := row.failure(tool)):
                reasons.setdefault(why, []).append(plan)
        lines += [f"{row.label} ({', '.join(p)}): {why}" for why, p in reasons.items()]
    return lines


def write(rows: Sequence[Row], dtype: str, folder: Path, about: dict[str, Any]) -> list[Path]:
    """Write <date>-conformance-<dtype>.json and .md into `folder`; an earlier one of that day goes.

    The JSON has a line per model: engine that runs it in FP32, and each tool's status.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    about = {
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        **machine(),
        **about,
        "tolerance": default_tolerance("bfloat16" if dtype == "bfloat16" else "float16"),
    }
    stem = folder / f"{now:%Y-%m-%d}-conformance-{dtype}"
    json_path, md_path = stem.with_suffix(".json"), stem.with_suffix(".md")
    head = json.dumps({"about": about, "dtype": dtype}, indent=1)[:-2]
    models = ",\n".join("  " + json.dumps(_portable(_line(row))) for row in rows)
    json_path.write_text(f'{head},\n "models": [\n{models}\n ]\n}}\n', encoding="utf-8")
    md_path.write_text(_markdown(rows, dtype, about), encoding="utf-8")
    return [json_path, md_path]


def _line(row: Row) -> dict[str, Any]:
    return {
        "name": row.label,
        "fp32": row.base.get("engine") or "does not run",
        **{tool: row.status(tool)[:160] for tool in row.results},
    }


def _markdown(rows: Sequence[Row], dtype: str, about: dict[str, Any]) -> str:
    lines = [
        f"# Conformance in {dtype}",
        "",
        *(f"- {key}: {value}" for key, value in about.items()),
    ]
    for title, table in tables(rows, dtype):
        lines += ["", f"## {title}", "", "| " + " | ".join(table[0]) + " |"]
        lines += ["|" + " --- |" * len(table[0])]
        lines += ["| " + " | ".join(line) + " |" for line in table[1:]]
    for title, plans in (("What failed", JUDGED), ("What failed when forced", ("forced",))):
        found = _failures(rows, plans)
        lines += ["", f"## {title}", "", *([f"- {line}" for line in found] or ["Nothing."])]
    lines += ["", "## What failed with the peers", ""]
    for tool in _tools(rows):
        if not tool.startswith("ours "):
            steps = Counter(_step(why) for row in rows if (why := row.failure(tool)))
            shown = ", ".join(f"{count} {step}" for step, count in steps.most_common())
            lines.append(f"- {tool}: {shown or 'nothing'}")
    return str(_portable("\n".join(lines))) + "\n"


def _step(why: str) -> str:
    """The step of a failure in words."""
    step = why.partition(":")[0]
    return WORDS.get(step, "could not convert" if step == "error" else step)
