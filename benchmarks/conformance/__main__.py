"""Converts every model of ONNX's test suite, and trained ones, and judges the results.

python -m benchmarks.conformance
.venv-zoo/bin/python -m benchmarks.conformance --dtype both --peers .venv-peers/bin/python
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.child import ROOT
from benchmarks.peers import PEERS

from .batches import Unit, measure
from .report import PLANS, Row, failed, show, write

# A stage's first word -> the module that measures it.
MODULES = {"fp32": "truth", "ours": "ours", "peer": "peer", "judge": "judge"}


@dataclass(frozen=True)
class Run:
    """What one call of the program asked for."""

    work: Path
    dtypes: tuple[str, ...]
    tools: tuple[str, ...]
    peers: str
    limit_s: float
    jobs: int
    console: Console


def main() -> int:
    """Measure what is missing, print the tables, write the results; 1 when ours miss the target."""
    options = _parse()
    dtypes = ("float16", "bfloat16") if options.dtype == "both" else (options.dtype,)
    tools = tuple(options.tools.split(",")) if options.tools else ("ours", *PEERS)
    unknown = set(tools) - {"ours", *PEERS}
    if unknown:
        print(f"no tool is named {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    console = Console(width=max(Console().width, 150))
    peers = str(options.peers.absolute()) if options.peers else ""
    work = options.work.resolve()
    run = Run(work, dtypes, tools, peers, options.limit, options.jobs, console)
    about = _cases(work, options.fresh == "all")
    names = [n for n in about["cases"] if not options.only or fnmatch.fnmatch(n, options.only)]
    if not names:
        print(f"no model's name fits {options.only!r}", file=sys.stderr)
        return 2
    folders = [work / name for name in names]
    if options.fresh:
        _forget(folders, options.fresh)
    _measure_all(run, folders)
    missed = 0
    for dtype in dtypes:
        rows = [_row(run, folder, dtype) for folder in folders]
        show(console, rows, dtype)
        missed += len(failed(rows))
        if not options.only:
            for path in write(rows, dtype, ROOT / "benchmarks" / "results", _about(about, rows)):
                console.print(f"wrote {path.relative_to(ROOT)}")
    return 1 if missed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance", description=__doc__)
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "both"), default="both")
    parser.add_argument(
        "--only", metavar="GLOB", help="models such as 'node/reduce_*'; writes no results file"
    )
    parser.add_argument(
        "--peers", type=Path, metavar="PYTHON", help="Python of the peers' environment"
    )
    parser.add_argument(
        "--tools", metavar="NAMES", help='of "ours" and the peers; the rest is cached'
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "conformance", help="where runs resume from"
    )
    parser.add_argument(
        "--fresh", nargs="?", const="ours", choices=("ours", "all"),
        help="measure again: what ampconvert did, or everything",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for one model")
    parser.add_argument("--jobs", type=int, default=2, help="processes at the same time")
    return parser.parse_args()


def _cases(work: Path, fresh: bool) -> dict[str, Any]:
    """Store the cases below `work` unless they lie there; their names and what was left out."""
    import onnx

    from .case import has_float32, store
    from .suite import suite_cases
    from .trained import missing, trained_cases

    listed = work / "cases.json"
    key = {"onnx": onnx.__version__, "not installed": missing()}
    if listed.exists() and not fresh:
        found: dict[str, Any] = json.loads(listed.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in key} == key:
            return found
    names, without = [], Counter[str]()
    for make in (suite_cases, trained_cases):
        for case in make():
            if has_float32(case.model):
                names.append(store(case, work).relative_to(work).as_posix())
            else:
                without[case.category] += 1
    found = {**key, "without float32": dict(without), "cases": names}
    listed.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _forget(folders: Sequence[Path], what: str) -> None:
    """Remove measurements: of ampconvert alone, or all."""
    for folder in folders:
        for path in folder.glob("ours-*.json" if what == "ours" else "*.json"):
            path.unlink()


def _measure_all(run: Run, folders: Sequence[Path]) -> None:
    with Progress(console=run.console, transient=True) as progress:
        task = progress.add_task("fp32")

        def stage(python: str, name: str, units: list[Unit]) -> None:
            waiting = sum(not unit.path.exists() for unit in units)
            progress.update(task, description=name, total=waiting, completed=0)

            def tell(count: int) -> None:
                progress.update(task, advance=count)

            task_module = f"benchmarks.conformance.{MODULES[name.split()[0]]}"
            measure(python, task_module, units, limit_s=run.limit_s, jobs=run.jobs, tell=tell)

        stage(sys.executable, "fp32", [Unit(folder, "fp32.json") for folder in folders])
        engines = {folder: _read(folder / "fp32.json").get("engine", "") for folder in folders}
        for dtype in run.dtypes:
            if "ours" in run.tools:
                stage(sys.executable, f"ours {dtype}", _ours(engines, dtype))
            for peer in run.tools:
                if run.peers and peer in PEERS and dtype in PEERS[peer][2]:
                    _peer(run, stage, engines, peer, dtype)


def _ours(engines: dict[Path, str], dtype: str) -> list[Unit]:
    return [
        Unit(folder, f"ours-{dtype}-{plan}.json", {"low": dtype, "plan": plan, "engine": engine})
        for folder, engine in engines.items()
        for plan in PLANS
    ]


def _peer(
    run: Run,
    stage: Callable[[str, str, list[Unit]], None],
    engines: dict[Path, str],
    peer: str,
    dtype: str,
) -> None:
    """Convert in the peers' environment, judge in this one."""
    file = f"{peer}-{dtype}.onnx"
    conversions = [
        Unit(folder, f"{peer}-{dtype}-conversion.json", {"peer": peer, "low": dtype, "file": file})
        for folder in engines
    ]
    verdicts = [
        Unit(folder, f"{peer}-{dtype}-verdict.json", {"low": dtype, "file": file, "engine": engine})
        for folder, engine in engines.items()
    ]
    stage(run.peers, f"peer {peer} {dtype}", conversions)
    stage(sys.executable, f"judge {peer} {dtype}", verdicts)


def _row(run: Run, folder: Path, dtype: str) -> Row:
    """Everything that was measured of one model, from the files in its folder."""
    results: dict[str, dict[str, Any]] = {}
    for plan in PLANS:
        path = folder / f"ours-{dtype}-{plan}.json"
        if path.exists():
            results[f"ours {plan}"] = _read(path)
    for peer in PEERS:
        path = folder / f"{peer}-{dtype}-conversion.json"
        if path.exists():
            verdict = _read(folder / f"{peer}-{dtype}-verdict.json")
            results[peer] = {**verdict, **_read(path)}
    base = {"valid": False, "engine": ""} | _read(folder / "fp32.json")
    return Row(folder.parent.name, folder.name, base, results)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _about(cases: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """What a reader of the results has to know beside the machine."""
    versions = {
        tool: found["version"] for row in rows for tool, found in row.results.items()
        if "version" in found
    }  # fmt: skip
    node = [row for row in rows if row.category == "node"]
    return {
        "peers": ", ".join(f"{name} {number}" for name, number in versions.items()) or "not run",
        "models without a float32 tensor, left out": sum(cases["without float32"].values()),
        "packages not installed": ", ".join(cases["not installed"]) or "none",
        "node tests that ONNX Runtime runs in FP32": f"{sum(r.runs for r in node)} of {len(node)}",
    }


if __name__ == "__main__":
    sys.exit(main())
