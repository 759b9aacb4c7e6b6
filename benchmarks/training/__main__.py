"""Training in mixed precision: ampconvert against float32 and torch.autocast.

python -m benchmarks.training
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.child import ROOT, module_command, run_child
from benchmarks.training.child import PARTS
from benchmarks.training.report import show, write
from benchmarks.training.results import Results, failures

SEEDS = 3
TIMED = ("speed",)  # parts whose measurements must not disturb each other


@dataclass(frozen=True)
class Measurement:
    """One child process: a part, its arguments, and whether ampconvert has a share in it."""

    part: str
    arguments: tuple[str, ...]
    ours: bool = True
    device: str = "cpu"

    @property
    def key(self) -> str:
        """Its name in the results: the part and its arguments."""
        device = () if self.device == "cpu" else (self.device,)
        return " | ".join((self.part, *self.arguments, *device))

    @property
    def file(self) -> str:
        """Its name as a file."""
        plain = "".join(c if c.isalnum() or c in "-." else "_" for c in self.key)
        return f"{plain}.json"


@dataclass(frozen=True)
class Run:
    """What one call of the program asked for."""

    work: Path
    fresh: str
    quick: bool
    limit_s: float
    threads: int
    jobs: int
    seeds: int


def main() -> int:
    """Measure, print the tables, write the results; 1 when a measurement failed."""
    options = _parse()
    console = Console(width=max(Console().width, 150))
    parts = tuple(options.only.split(",")) if options.only else PARTS
    if unknown := set(parts) - set(PARTS):
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    folder = options.work / "quick" if options.quick else options.work
    run = Run(
        folder.resolve(), options.fresh, options.quick, options.limit, options.threads,
        options.jobs, 1 if options.quick else options.seeds,
    )  # fmt: skip
    wanted = [
        m
        for part in parts
        for m in measurements(part, options.cuda)
        if not options.models or set(re.split(",(?! )", options.models)) & set(m.arguments)
    ]
    with console.status("measuring") as status:
        found = {}
        for number, (key, result) in enumerate(_measure(run, wanted), 1):
            found[key] = result
            status.update(f"{number} of {len(wanted)}: {key}")
    results = Results(found)
    show(console, results)
    if not (options.only or options.models or options.quick):
        for path in write(results, ROOT / "benchmarks" / "results"):
            console.print(f"wrote {path.relative_to(ROOT)}")
    return int(bool(results.failures()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one seed, fewer steps; no results file"
    )
    parser.add_argument(
        "--only", metavar="PARTS", help=f"of {', '.join(PARTS)}, by commas; no results file"
    )
    parser.add_argument("--models", metavar="NAMES", help="by commas; no results file")
    parser.add_argument(
        "--fresh",
        nargs="?",
        const="ours",
        default="none",
        choices=("ours", "all", "none"),
        help="measure again what is kept: what ampconvert has a share in (ours), or everything",
    )
    parser.add_argument("--cuda", action="store_true", help="time float16 on a GPU as well")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds for one process")
    parser.add_argument("--threads", type=int, default=1, help="for each process")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once; times: always one")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each accuracy")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "out" / "training", help="where results are kept"
    )
    return parser.parse_args()


def measurements(part: str, cuda: bool = False) -> Iterator[Measurement]:
    """The child processes of one part."""
    from benchmarks.training import accuracy, dynamic, micikevicius, speed, tasks

    if part == "accuracy":
        for task in tasks.trained():
            for kind in accuracy.KINDS:
                yield Measurement(part, (task.name, kind), kind.startswith("ours"))
    elif part == "speed":
        for device in ("cpu", "cuda") if cuda else ("cpu",):
            for task in tasks.TASKS:
                for mode in speed.MODES:
                    for size in task.sizes:
                        yield Measurement(part, (task.name, mode, str(size)), device=device)
    elif part == "memory":
        for task in tasks.TASKS:
            yield Measurement(part, (task.name,))
    elif part == "micikevicius":
        for name, way in micikevicius.WAYS.items():
            yield Measurement(part, (name,), way.kind == "ours")
    elif part == "dynamic":
        for name in dynamic.CASES:
            yield Measurement(part, (name,))
    else:
        yield Measurement(part, ())


def _measure(run: Run, wanted: list[Measurement]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every result by its key; what is kept under `run.work` is not measured again."""

    def kept(m: Measurement) -> tuple[str, dict[str, Any]]:
        return m.key, _kept(run, m)

    with ThreadPoolExecutor(run.jobs) as pool:
        yield from pool.map(kept, [m for m in wanted if m.part not in TIMED])
    yield from map(kept, [m for m in wanted if m.part in TIMED])


def _kept(run: Run, m: Measurement) -> dict[str, Any]:
    """What the child printed, now or before; what failed is run again."""
    path = run.work / m.part / m.file
    if m.part == "accuracy" and run.seeds != SEEDS:
        path = path.with_stem(f"{path.stem}-{run.seeds}")
    again = run.fresh == "all" or (run.fresh == "ours" and m.ours)
    if path.exists() and not again:
        found: dict[str, Any] = json.loads(path.read_text())
        if not list(failures(m.key, found)):
            return found
    command = module_command("benchmarks.training.child", "--device", m.device)
    command += ["--seeds", str(run.seeds)]
    command += ["--quick"] if run.quick else []
    found = run_child([*command, m.part, *m.arguments], run.limit_s, run.threads)
    found["measured"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    sys.exit(main())
