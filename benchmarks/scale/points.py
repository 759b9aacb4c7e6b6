"""What is measured: models by kind and size, tools, and how each result is kept on disk."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.child import ROOT, module_command, run_child
from benchmarks.scale import models
from benchmarks.scale.watch import run_watched

NODES = (250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
SIZES: dict[str, tuple[int, ...]] = {
    "plain": NODES,
    "mixed": NODES,
    "fan-out": (1_000, 3_000, 10_000),
    "weights": (100, 500, 1_000, 3_000, 6_000),  # in 10**6 bytes
}
OURS, VERIFIED = "ampconvert", "ampconvert, verified"
PEERS = (
    "onnxconverter-common",
    "onnxruntime float16",
    "onnxruntime OnnxModel",
    "modelopt convert_to_f16",
    "modelopt autocast",
)
TOOLS = (OURS, VERIFIED, *PEERS)
ROUNDS = 3
REPEAT_BELOW_S = 10.0  # a longer run is measured once
LOADED_UP_TO = 2_000  # nodes or megabytes: ONNX Runtime takes minutes for the longest chains
BIG_MB = 1_900  # protobuf's 2 GiB, names and everything else included


@dataclass(frozen=True)
class Run:
    """What one call of the program asked for."""

    work: Path
    peers: Path | None
    tools: tuple[str, ...]
    limit_s: float
    limit_mb: float
    fresh: bool


@dataclass(frozen=True)
class Point:
    """One tool on one model: what each round gave, and the verdict on the file it wrote."""

    kind: str
    size: int
    tool: str
    rounds: tuple[dict[str, Any], ...]
    checked: dict[str, Any]

    @property
    def error(self) -> str:
        """Why there is no figure; empty where there is one."""
        return str(next((r["error"] for r in self.rounds if r.get("error")), ""))

    @property
    def valid(self) -> bool:
        """Whether the checker took the file, and ONNX Runtime where it was asked."""
        return bool(self.checked.get("valid")) and self.checked.get("loads") is not False

    def figure(self, name: str) -> float | None:
        """The median over the rounds of "seconds", "cpu_seconds", "peak_mb" or "anonymous_mb"."""
        found = [r[name] for r in self.rounds if r.get(name) is not None]
        return median(found) if found and not self.error else None


def measure(
    run: Run, kinds: dict[str, tuple[int, ...]], tell: Callable[[str], None]
) -> list[Point]:
    """Every point of `kinds`, small sizes first; what is kept on disk is not measured again."""
    points: list[Point] = []
    for kind, sizes in kinds.items():
        given_up: dict[str, str] = {}  # tools that passed a limit get no larger model of that kind
        for size in sizes:
            for point in _measure_model(run, kind, size, given_up, tell):
                points.append(point)
                if any(r.get("stopped") for r in point.rounds):
                    given_up.setdefault(point.tool, f"{point.error} at {size:,}")
    return points


def _measure_model(
    run: Run, kind: str, size: int, given_up: dict[str, str], tell: Callable[[str], None]
) -> Iterator[Point]:
    """All tools on one model, taking turns, so that none has a quieter machine than another."""
    folder = run.work / f"{kind}-{size}"
    rounds: dict[str, list[dict[str, Any]]] = {}
    checks: dict[str, dict[str, Any]] = {}
    try:
        for number in range(ROUNDS):
            for tool in TOOLS:
                earlier = rounds.setdefault(tool, [])
                if len(earlier) < number or any(_is_last(r) for r in earlier):
                    continue
                kept = run.work / "results" / f"{kind}-{size}-{_slug(tool)}-{number}.json"
                found = _kept(run, tool, kept)
                if found is None and tool in given_up:
                    found = {"error": f"not run: {given_up[tool]}"}
                elif found is None and _available(run, tool):
                    tell(f"{kind} {size:,}: {tool}")
                    found = _convert(run, kind, size, tool, folder, number == 0)
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_text(json.dumps(found))
                if found is not None:
                    checks[tool] = found.pop("checked", None) or checks.get(tool, {})
                    earlier.append(found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for tool, results in rounds.items():
        if results:
            yield Point(kind, size, tool, tuple(results), checks.get(tool, {}))


def _is_last(result: dict[str, Any]) -> bool:
    return bool(result.get("error")) or result["seconds"] > REPEAT_BELOW_S


def _slug(tool: str) -> str:
    return tool.replace(",", "").replace(" ", "_")


def _kept(run: Run, tool: str, path: Path) -> dict[str, Any] | None:
    if not path.exists() or (run.fresh and tool in run.tools):
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _available(run: Run, tool: str) -> bool:
    return tool in run.tools and (tool in (OURS, VERIFIED) or run.peers is not None)


def _convert(
    run: Run, kind: str, size: int, tool: str, folder: Path, check: bool
) -> dict[str, Any]:
    source, target = folder / "model.onnx", folder / "converted" / "model.onnx"
    if not source.exists():
        models.write(kind, size, source)
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    load = os.getloadavg()[0]
    found = run_watched(_command(run, kind, size, tool, source, target), run.limit_s, run.limit_mb)
    found["load"] = load
    if check and target.exists() and "error" not in found:
        arguments = [str(target), *(["--load"] if size <= LOADED_UP_TO else [])]
        found["checked"] = run_child(module_command("benchmarks.scale.check", *arguments), 300)
    return found


def _command(run: Run, kind: str, size: int, tool: str, source: Path, target: Path) -> list[str]:
    if tool in (OURS, VERIFIED):
        verify = ["--verify"] if tool == VERIFIED else []
        return module_command("benchmarks.scale.ours", str(source), str(target), *verify)
    big = ["--big"] if kind == "weights" and size > BIG_MB else []
    keep = ["--keep", *models.KEPT] if kind in ("mixed", "fan-out") else []
    return [
        str(run.peers), "-m", "benchmarks.scale.peers", tool, str(source), str(target), *big, *keep,
    ]  # fmt: skip


def work_folder() -> Path:
    """Where results are kept and models are written by default."""
    return ROOT / "out" / "scale"
