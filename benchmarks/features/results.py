"""What the other benchmarks' result files hold: the newest of each kind, and cells made of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.child import ROOT
from benchmarks.zoo.registry import entries
from benchmarks.zoo.report import Row

FOLDER = ROOT / "benchmarks" / "results"
OVER_2_GB = 3000  # MB of float32 weights in the scale benchmark
SCALE_NAMES = {
    "onnxconverter-common": "onnxconverter-common",
    "onnxruntime": "onnxruntime OnnxModel",
    "modelopt": "modelopt autocast",
}


@dataclass(frozen=True)
class Result:
    """A result file: its data, where it lies in the repository, and the day of its run."""

    data: Any
    path: str
    date: str

    @property
    def page(self) -> str:
        """The Markdown file of the same run."""
        return str(Path(self.path).with_suffix(".md"))


def latest(kind: str, folder: Path = FOLDER) -> Result:
    """The newest <date>-<kind>.json in `folder`; FileNotFoundError where there is none."""
    found = sorted(p for p in folder.glob(f"*-{kind}.json") if p.stem[11:] == kind)
    if not found:
        raise FileNotFoundError(f"no result file of {kind!r} in {folder}")
    path = found[-1]
    shown = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return Result(json.loads(path.read_text(encoding="utf-8")), shown, path.name[:10])


def large_weights(peer: str) -> tuple[str, str, str]:
    """Whether the peer wrote a valid file of a model beyond 2 GB, in the scale benchmark."""
    result = latest("scale")
    points = {
        point["size"]: point
        for point in result.data["points"]
        if point["kind"] == "weights" and point["tool"] == SCALE_NAMES[peer]
    }
    sizes = sorted(size for size in points if size >= OVER_2_GB)
    done = [size for size in sizes if points[size]["file"].get("valid")]
    failed = [f"{s:,} MB: {points[s]['rounds'][0]['error']}" for s in sizes if s not in done]
    said = [f"valid at {', '.join(f'{s:,}' for s in done)} MB"] if done else []
    verdict = "yes" if done and not failed else "part" if done else "no"
    return verdict, "; ".join(said + failed), result.page


def conversion_seconds(tool: str) -> tuple[str, str, str]:
    """The median of the zoo's conversions in float16, over the models inside the tolerance."""
    result = latest("zoo-float16")
    key = "ours" if tool == "ampconvert" else tool
    held = [row for row in rows_of(result) if row.inside(key, "float16")]
    seconds = [sum(row.result(key, "float16")["seconds"].values()) for row in held]
    what = "capture, export and parity in it" if key == "ours" else "from an FP32 ONNX file"
    said = f"median of {len(seconds)} models, {what}"
    return f"{median(seconds):.2f} s", said, result.page


def lint_seconds(tool: str) -> tuple[str, str, str]:
    """CPU seconds of a linter on all files of the package that the lint benchmark reads."""
    result = latest("lint-speed")
    name, timings = next((n, t) for n, t in result.data["results"].items() if n.startswith("all"))
    names = {"ampconvert": "ampconvert lint", "TorchFix": "TorchFix", "ruff": "ruff"}
    found = next((t for t in timings if t["tool"] == names[tool]), None)
    if found is None:
        return "not run", f"not run on {name}", result.page
    return f"{found['cpu_s']:,.1f} s", f"CPU seconds on {name}, its own default rules", result.page


def rows_of(result: Result) -> list[Row]:
    """The zoo's models as rows of its report."""
    about, described = result.data["about"], {"name", "domain", "trained", "baseline"}
    known = entries()
    return [
        Row(
            known[model["name"]],
            model["baseline"],
            {f"{tool} {about['dtype']}": r for tool, r in model.items() if tool not in described},
        )
        for model in result.data["models"]
    ]


def section(page: str, heading: str) -> list[str]:
    """The lines of a result's page from the heading that begins so to the next of its depth.

    Raises ValueError where there is no such heading.
    """
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(heading)), None)
    if start is None:
        raise ValueError(f"{page} has no heading {heading!r}")
    depth = heading.split()[0] + " "
    after = range(start + 1, len(lines))
    end = next((i for i in after if lines[i].startswith(depth)), len(lines))
    return lines[start:end]


def table_after(lines: list[str], head: str) -> list[list[str]]:
    """The first Markdown table whose head begins so, as rows of cells; ValueError without one."""
    start = next((i for i, line in enumerate(lines) if line.startswith(head)), None)
    if start is None:
        raise ValueError(f"no table begins with {head!r}")
    table = list(takewhile(lambda line: line.startswith("|"), lines[start:]))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [rows[0], *rows[2:]]


def line_with(lines: list[str], words: str) -> str:
    """The first line that has these words; ValueError without one."""
    found = next((line for line in lines if words in line), None)
    if found is None:
        raise ValueError(f"no line says {words!r}")
    return found
