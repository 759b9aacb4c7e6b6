"""Package sizes and start times, beside peers' imports.

make dist
python -m benchmarks.startup --peers .venv-peers/bin/python

On a machine that does nothing else: another busy process on two cores doubles the times.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.child import ROOT
from benchmarks.dated import Table, show, write
from benchmarks.startup import sizes, times

HELP_S = 0.3  # what `ampconvert --help` may take
PEERS = ("onnxconverter-common", "onnxruntime", "nvidia-modelopt", "onnx", "torch")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write the result files; 1 where `--help` takes too long."""
    options = _options(arguments)
    found = {"archives": list(sizes.archives(options.dist))}
    if options.environments is not None:
        found["environments"] = list(sizes.environments(options.environments))
    if options.peers.exists():
        found["peers"] = list(sizes.installed(options.peers, PEERS))
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        own = times.measure(times.own_calls(options.python, Path(folder)), options.runs)
    peers = []
    if options.peers.exists():
        peers = times.measure(times.peer_calls(options.peers), max(options.runs // 3, 1))
    slow = [
        f"{one.name} takes {one.wall_s:.2f} s, more than {HELP_S:g}"
        for one in own
        if one.name == "ampconvert --help" and one.wall_s > HELP_S
    ]
    results: dict[str, Any] = {
        "load average before": round(load, 2),
        "times": [asdict(one) for one in (*own, *peers)],
        "sizes": {name: [asdict(one) for one in listed] for name, listed in found.items()},
    }
    tables = [_timed(own, peers, load), *(_sized(name, listed) for name, listed in found.items())]
    console = Console(width=110)
    show(console, tables, slow)
    if not options.quick:
        folder_of_results = ROOT / "benchmarks" / "results"
        for path in write(folder_of_results, "startup", "Size and start", results, tables, slow):
            console.print(f"wrote {path.relative_to(ROOT)}")
    return 1 if slow else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=21, help="processes for each command")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder of the archives")
    parser.add_argument(
        "--python", type=Path, default=Path(sys.executable),
        help="Python of an environment where ampconvert[all] is installed (default: this one)",
    )  # fmt: skip
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-peers/bin/python",
        help="Python of an environment made as benchmarks/requirements-peers.txt says",
    )  # fmt: skip
    parser.add_argument(
        "--environments", type=Path, metavar="FOLDER",
        help="environments of each set of extras, as the tests keep them in AMPCONVERT_ENVS",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="write no result files")
    return parser.parse_args(arguments)


def _timed(own: Sequence[times.Time], peers: Sequence[times.Time], load: float) -> Table:
    rows = [
        (one.name, f"{one.wall_s:.3f}", f"{one.cpu_s:.3f}", f"{one.best_s:.3f}",
         f"{one.worst_s:.3f}", str(one.runs))
        for one in (*own, *peers)
    ]  # fmt: skip
    return Table(
        "Seconds until it is done",
        ("command", "median", "CPU", "best", "worst", "processes"),
        rows,
        (
            "New processes in turns, after one of each that is not counted: files are in the page "
            "cache, bytecode is compiled.",
            f"The load average before was {load:.1f}.",
        ),
    )


def _sized(name: str, listed: Sequence[sizes.Size]) -> Table:
    titles = {
        "archives": "Sizes of what is published",
        "environments": "Environments by extras, without pip and setuptools, on this platform",
        "peers": "Other packages as installed, without what they ask for",
    }
    rows = [
        (one.name, f"{one.bytes / 1e6:.2f}", str(one.files) if one.files else "-") for one in listed
    ]
    return Table(titles[name], ("what", "MB", "files"), rows)


if __name__ == "__main__":
    sys.exit(main())
