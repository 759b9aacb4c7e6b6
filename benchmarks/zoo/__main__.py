"""Runs the zoo: every model converted by ampconvert, and by the peers where their Python is given.

python -m benchmarks.zoo --list
python -m benchmarks.zoo --dtype both --peers .venv-peers/bin/python
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.child import ROOT, module_command, run_child
from benchmarks.zoo.registry import Entry, entries, pick
from benchmarks.zoo.report import Row, overview, show, write

PEERS = {
    "onnxconverter-common": ("float16",),
    "onnxruntime": ("float16",),
    "modelopt": ("float16", "bfloat16"),
}


@dataclass(frozen=True)
class Run:
    """What one call of the program asked for."""

    dtypes: tuple[str, ...]
    work: Path
    peers: Path | None
    fresh: str  # "", "ours" or "all"
    limit_s: float
    keep: bool
    threads: int
    tools: tuple[str, ...]  # what may be measured now; the rest comes from the cache


def main() -> int:
    """Measure, print the tables, write the results; 1 when a model fails or is wrong."""
    options = _parse()
    console = Console(width=max(Console().width, 150))
    if options.list:
        _list(console)
        return 0
    try:
        chosen = pick(options.only.split(",") if options.only else [])
    except KeyError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    dtypes = ("float16", "bfloat16") if options.dtype == "both" else (options.dtype,)
    run = Run(
        dtypes, options.work.resolve(), options.peers.absolute() if options.peers else None,
        options.fresh or "", options.limit, options.keep, max(1, 2 // options.jobs),
        tuple(options.tools.split(",")) if options.tools else ("ours", *PEERS),
    )  # fmt: skip
    rows = list(_measure_all(run, chosen, options.jobs, console))
    failed = False
    for dtype in dtypes:
        show(console, rows, dtype)
        console.print(overview(rows, dtype))
        failed |= any(not row.passed(dtype) for row in rows)
        if not options.only:
            for path in write(rows, dtype, ROOT / "benchmarks" / "results"):
                console.print(f"wrote {path.relative_to(ROOT)}")
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the entries and stop")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "both"), default="float16")
    parser.add_argument(
        "--only", metavar="NAMES", help="entries, separated by commas; no results file"
    )
    parser.add_argument("--jobs", type=int, default=1, help="models measured at the same time")
    parser.add_argument(
        "--peers", type=Path, metavar="PYTHON", help="Python of the peers' environment"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "zoo", help="where runs resume from"
    )
    parser.add_argument(
        "--fresh", nargs="?", const="ours", choices=("ours", "all"),
        help="measure again: what ampconvert did, or everything",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one conversion")
    parser.add_argument(
        "--tools", metavar="NAMES", help='of "ours" and the peers; the rest is cached'
    )
    parser.add_argument("--keep", action="store_true", help="keep the converted files")
    return parser.parse_args()


def _list(console: Console) -> None:
    table = Table("model", "domain", "weights", "output", title="the zoo", title_justify="left")
    for entry in entries().values():
        table.add_row(
            entry.name, entry.domain, "trained" if entry.trained else "seeded",
            f"classes along axis {entry.axis}" if entry.logits else "values",
        )  # fmt: skip
    console.print(table)
    console.print(f"{table.row_count} models, {sum(e.trained for e in entries().values())} trained")


def _measure_all(run: Run, chosen: list[Entry], jobs: int, console: Console) -> Iterator[Row]:
    with Progress(console=console, transient=True) as progress, ThreadPoolExecutor(jobs) as pool:
        task = progress.add_task("measuring", total=len(chosen))
        for row in pool.map(lambda entry: _measure(run, entry), chosen):
            progress.update(task, advance=1, description=row.entry.name)
            yield row


def _measure(run: Run, entry: Entry) -> Row:
    """Every measurement of one model; what is cached under `run.work` is not taken again."""
    folder = run.work / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder / "baseline.json"
    if run.fresh == "all" or not cache.exists():
        command = module_command("benchmarks.baseline", entry.name, "--work", str(run.work))
        cache.write_text(json.dumps(run_child(command, run.limit_s, run.threads)))
    base = json.loads(cache.read_text())
    results = {}
    for dtype in run.dtypes:
        for tool, found in _conversions(run, entry, folder, dtype, "error" not in base).items():
            results[f"{tool} {dtype}"] = found
    return Row(entry, base, results)


def _conversions(
    run: Run, entry: Entry, folder: Path, dtype: str, has_onnx: bool
) -> dict[str, dict[str, Any]]:
    """What each tool came to in `dtype`: from the cache, or converted now and judged together."""
    results: dict[str, dict[str, Any]] = {}
    files: dict[str, Path] = {}
    tools = ["ours", *(p for p, types in PEERS.items() if has_onnx and dtype in types)]
    for tool in tools:
        cache = folder / f"{tool}-{dtype}.json"
        wanted = tool in run.tools
        again = wanted and (run.fresh == "all" or (run.fresh == "ours" and tool == "ours"))
        if cache.exists() and not again:
            results[tool] = json.loads(cache.read_text())
        elif not wanted:
            continue
        elif tool == "ours":
            arguments = (entry.name, "--dtype", dtype, "--work", str(run.work))
            command = module_command("benchmarks.zoo.ours", *arguments)
            results[tool] = run_child(command, run.limit_s, run.threads)
            if results[tool].get("onnx") and (folder / "outputs").exists():
                files[tool] = Path(results[tool]["onnx"])
        elif run.peers is not None:
            target = folder / f"{tool}-{dtype}.onnx"
            results[tool] = run_child(
                _peer_command(run.peers, tool, folder, target, dtype), run.limit_s, run.threads
            )
            if target.exists():
                files[tool] = target
    if files:
        verdicts = _judge(run, entry, folder, list(files.values()), dtype)
        for tool, path in files.items():
            results[tool]["judged"] = verdicts.get(
                str(path), {"why": verdicts.get("error", "no verdict")}
            )
    for tool, found in results.items():
        (folder / f"{tool}-{dtype}.json").write_text(json.dumps(found))
    if not run.keep:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        for path in files.values():
            path.unlink(missing_ok=True)
    return results


def _peer_command(python: Path, peer: str, folder: Path, target: Path, dtype: str) -> list[str]:
    script, source = ROOT / "benchmarks" / "peers.py", folder / "fp32.onnx"
    return [
        str(python), str(script), peer, str(source), str(target), "--dtype", dtype,
        "--inputs", str(folder / "inputs"),
    ]  # fmt: skip


def _judge(run: Run, entry: Entry, folder: Path, models: list[Path], dtype: str) -> dict[str, Any]:
    arguments = [*map(str, models), "--work", str(folder), "--dtype", dtype]
    if entry.logits:
        arguments.append(f"--axis={entry.axis}")
    return run_child(module_command("benchmarks.judge", *arguments), run.limit_s, run.threads)


if __name__ == "__main__":
    sys.exit(main())
