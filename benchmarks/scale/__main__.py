"""Measures time and memory of conversions against the model's size, ampconvert's and the peers'.

python -m benchmarks.scale --peers .venv-peers/bin/python
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.child import ROOT
from benchmarks.scale.points import OURS, SIZES, TOOLS, Run, measure, work_folder
from benchmarks.scale.report import sections, write


def main() -> int:
    """Measure, print the tables, write the results; 1 when a conversion of ours failed."""
    options = _parse()
    console = Console(width=max(Console().width, 150))
    kinds = options.only.split(",") if options.only else list(SIZES)
    tools = tuple(options.tools.split(";")) if options.tools else TOOLS
    for given, known in ((kinds, SIZES), (tools, TOOLS)):
        if unknown := set(given) - set(known):
            print(f"unknown: {', '.join(unknown)}; there are {'; '.join(known)}", file=sys.stderr)
            return 2
    run = Run(
        options.work.resolve(), options.peers.absolute() if options.peers else None, tools,
        options.limit, options.memory * 1024, options.fresh,
    )  # fmt: skip
    wanted = {kind: tuple(s for s in SIZES[kind] if s <= options.up_to) for kind in kinds}
    with console.status("measuring") as status:
        points = measure(run, wanted, status.update)
    console.print(sections(points), markup=False, highlight=False)
    if not options.only and options.up_to >= max(map(max, SIZES.values())):
        for path in write(points, ROOT / "benchmarks" / "results", run.work):
            console.print(f"wrote {path.relative_to(ROOT)}")
    return int(any(p.tool == OURS and (p.error or not p.valid) for p in points))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--peers", type=Path, metavar="PYTHON", help="Python of the peers' environment"
    )
    parser.add_argument(
        "--only", metavar="KINDS", help=f"of {', '.join(SIZES)}, by commas; no results file"
    )
    parser.add_argument(
        "--tools", metavar="NAMES", help=f"of {'; '.join(TOOLS)}, by semicolons; others: as kept"
    )
    parser.add_argument(
        "--up-to", type=int, default=10**9, metavar="SIZE", help="no larger one; no results file"
    )
    parser.add_argument(
        "--limit", type=float, default=300.0, help="seconds of processor time for one process"
    )
    parser.add_argument("--memory", type=float, default=16.0, help="GiB for one process")
    parser.add_argument("--fresh", action="store_true", help="measure again what is kept")
    parser.add_argument("--work", type=Path, default=work_folder(), help="where results are kept")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
