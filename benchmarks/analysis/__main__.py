"""What ampconvert says of a model before it runs, held against measurements.

python -m benchmarks.analysis --peers .venv-peers/bin/python
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.analysis.report import PARTS, Results, show, write
from benchmarks.analysis.subjects import SUBJECTS, Subject
from benchmarks.child import ROOT, module_command, run_child

TYPES = dict.fromkeys(("plan", "errors", "front"), ("float16", "bfloat16"))


@dataclass(frozen=True)
class Run:
    """What one call of the program asked for."""

    parts: tuple[str, ...]
    subjects: tuple[Subject, ...]
    work: Path
    peers: Path | None
    fresh: bool
    limit_s: float
    threads: int


def main() -> int:
    """Measure, print the tables, write the results; 1 when a bound, a cut or a run fails."""
    options = _parse()
    console = Console(width=max(Console().width, 150))
    names = options.only.split(",") if options.only else [s.name for s in SUBJECTS]
    parts = tuple(options.parts.split(",")) if options.parts else PARTS
    for given, known in ((names, [s.name for s in SUBJECTS]), (parts, PARTS)):
        if unknown := set(given) - set(known):
            print(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
            return 2
    run = Run(
        parts, tuple(s for s in SUBJECTS if s.name in names), options.work.resolve(),
        options.peers.absolute() if options.peers else None, options.fresh, options.limit,
        options.threads,
    )  # fmt: skip
    with console.status("measuring") as status:
        results = Results(dict(_measure(run, status.update)))
    show(console, results)
    if not options.only and not options.parts:
        for path in write(results, ROOT / "benchmarks" / "results"):
            console.print(f"wrote {path.relative_to(ROOT)}")
    return int(bool(results.failures()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analysis", description=__doc__)
    parser.add_argument(
        "--peers", type=Path, metavar="PYTHON", help="Python of the peers' environment"
    )
    parser.add_argument("--only", metavar="NAMES", help="models, by commas; no results file")
    parser.add_argument(
        "--parts", metavar="PARTS", help=f"of {', '.join(PARTS)}, by commas; no results file"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one process")
    parser.add_argument("--threads", type=int, default=2, help="for each process")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "analysis", help="where results are kept"
    )
    return parser.parse_args()


def _measure(run: Run, tell: Callable[[str], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every result by "part model type"; what is kept under `run.work` is not measured again."""
    if "cut" in run.parts:
        tell("cut")
        yield "cut", _kept(run, run.work / "cut.json", _child(run, "cut"))
    if "zoo" in run.parts:
        tell("zoo")
        yield "zoo", _kept(run, run.work / "zoo.json", _child(run, "zoo"))
    for part in ("proof", "plan", "errors", "front"):
        for subject in run.subjects if part in run.parts else ():
            if (part == "front" and not subject.rows) or (
                part == "errors" and not subject.measured
            ):
                continue
            for dtype in TYPES.get(part, ("float16",)):
                tell(f"{part}: {subject.name} {dtype}")
                path = run.work / subject.name / f"{part}-{dtype}.json"
                command = _child(run, part, subject.name, "--dtype", dtype)
                yield f"{part} {subject.name} {dtype}", _kept(run, path, command)
    for subject in run.subjects if "search" in run.parts else ():
        if subject.searched:
            tell(f"search: {subject.name}")
            yield f"search {subject.name} float16", _search(run, subject.name)


def _search(run: Run, name: str) -> dict[str, Any]:
    """Ours, the peer's logic with our judge, and the peer's package, on one model."""
    folder = run.work / name
    ours = _kept(run, folder / "search.json", _child(run, "search", name))
    if "error" in ours:
        return ours
    found = ours | {"bisected": _kept(run, folder / "bisected.json", _child(run, "bisected", name))}
    if run.peers is None:
        return found
    for fraction, tolerance in ours["tolerances"].items():
        command = [
            str(run.peers), "-m", "benchmarks.analysis.bisection", str(folder / "fp32.onnx"),
            str(folder / "inputs.npz"), "--tolerance", repr(tolerance),
        ]  # fmt: skip
        _kept(run, folder / f"package-{fraction}.json", command)
    return found | {"package": _kept(run, folder / "price.json", _child(run, "price", name))}


def _child(run: Run, part: str, *arguments: str) -> list[str]:
    return module_command("benchmarks.analysis.child", part, *arguments, "--work", str(run.work))


def _kept(run: Run, path: Path, command: list[str]) -> dict[str, Any]:
    """What `command` printed, from `path` where it was run before; what failed is run again."""
    if path.exists() and not run.fresh:
        found: dict[str, Any] = json.loads(path.read_text())
        if "error" not in found:
            return found
    found = run_child(command, run.limit_s, run.threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    sys.exit(main())
