"""The linter against TorchFix and ruff: speed, start-up, recall on real bugs, true findings.

python -m benchmarks.lint --peers .venv-lint/bin
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ampconvert.lint.catalogue import all_rules
from benchmarks.child import ROOT
from benchmarks.dated import Table, show, write
from benchmarks.lint import precision, recall, speed
from benchmarks.lint.packages import sampled, unpacked

PACKAGE = "transformers==5.23.0"
# What the linter promises, in CPU seconds.
OF_TORCHFIX, OF_RUFF, START_UP_S = 0.01, 8.0, 0.3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables and write the result files; 1 if a promise doesn't hold."""
    options = _options(arguments)
    console = Console(width=110)
    failures = []
    if options.part in ("speed", "both"):
        failures += _speed(options, console)
    if options.part in ("findings", "both"):
        found = {
            "default": recall.measure(everything=False),
            "all rules": recall.measure(everything=True),
        }
        results = {
            "recall": {name: asdict(one) for name, one in found.items()},
            "precision": precision.shares(),
        }
        _report(options, console, "lint-findings", results, [_recalled(found), _true()], [])
    return 1 if failures else 0


def _speed(options: argparse.Namespace, console: Console) -> list[str]:
    """Time every tool, and say which promises don't hold."""
    package = unpacked(options.package)
    results: dict[str, Any] = {}
    tables: list[Table] = []
    for name, folder, torchfix in (
        (
            f"{options.sample} files of {options.package} that mention torch",
            sampled(package, options.sample),
            True,
        ),
        (f"all files of {options.package}", package, options.whole),
    ):
        console.print(f"timing on {name} ...")
        timings = speed.compare(
            folder, speed.tools(options.peers, torchfix=torchfix, runs=options.runs)
        )
        results[name] = speed.plain(timings)
        tables.append(_timed(f"CPU seconds on {name}", timings))
        show(console, tables[-1:], [])
    started = speed.start_up(options.peers, options.start_runs)
    results["start-up"] = speed.plain(started)
    tables.append(_timed("One file, as in a pre-commit hook", started))
    failures = list(_broken(results))
    _report(options, console, "lint-speed", results, tables, failures)
    return failures


def _report(
    options: argparse.Namespace,
    console: Console,
    name: str,
    results: dict[str, Any],
    tables: Sequence[Table],
    failures: Sequence[str],
) -> None:
    show(console, tables, failures)
    if not options.quick:
        folder = ROOT / "benchmarks" / "results"
        for path in write(folder, name, "ampconvert lint", results, tables, failures):
            console.print(f"wrote {path.relative_to(ROOT)}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lint", description=__doc__)
    parser.add_argument(
        "--peers", type=Path, default=Path(".venv-lint/bin"), metavar="FOLDER",
        help="programs of an environment made as benchmarks/requirements-lint.txt says",
    )  # fmt: skip
    parser.add_argument("--part", choices=("speed", "findings", "both"), default="both")
    parser.add_argument("--package", default=PACKAGE, help=f"what to lint (default: {PACKAGE})")
    parser.add_argument("--sample", type=int, default=60, help="files that TorchFix gets too")
    parser.add_argument(
        "--whole", action="store_true", help="TorchFix gets all files too: most of an hour"
    )
    parser.add_argument("--runs", type=int, default=5, help="calls of each fast tool")
    parser.add_argument("--start-runs", type=int, default=20, help="calls on the one file")
    parser.add_argument("--quick", action="store_true", help="write no result files")
    return parser.parse_args(arguments)


def _timed(title: str, timings: Sequence[speed.Timing]) -> Table:
    base = timings[0] if timings[0].tool.startswith("ampconvert") else timings[1]
    rows = [
        (
            one.tool,
            f"{one.cpu_s:.3g}",
            f"{one.wall_s:.3g}",
            f"{one.cpu_s / base.cpu_s:.3g}",
            str(one.runs),
        )
        for one in timings
    ]
    columns = ("tool", "CPU s", "wall s", f"times {base.tool}", "runs")
    return Table(title, columns, rows, ("Medians; every tool with one process.",))


def _recalled(found: dict[str, recall.Recall]) -> Table:
    rows = [
        (name, str(one.snippets), str(one.found), str(len(one.missed)), f"{one.share:.0%}",
         str(len(one.false)))
        for name, one in found.items()
    ]  # fmt: skip
    notes = [f"missed: {line}" for line in found["default"].missed]
    notes += [f"reported, though right: {line}" for line in found["default"].false]
    return Table(
        "Mistakes from real threads",
        ("rules", "snippets", "found", "missed", "recall", "false"),
        rows,
        tuple(notes),
    )


def _true() -> Table:
    rows = []
    shares = precision.shares()
    for rule in all_rules():
        true, read = shares.get(rule.CODE, (0, 0))
        share = f"{true / read:.0%}" if read else "-"
        on = "on" if rule.DEFAULT else "off"
        rows.append((rule.CODE, rule.NAME, on, str(read), str(true), share))
    on = [(t, r) for code, (t, r) in shares.items() if _is_on(code)]
    total = f"Rules that are on: {sum(t for t, _ in on)} of {sum(r for _, r in on)} findings true."
    columns = ("code", "rule", "by default", "read", "true", "share")
    return Table("Findings in published code, judged by hand", columns, rows, (total,))


def _is_on(code: str) -> bool:
    return any(code == rule.CODE and rule.DEFAULT for rule in all_rules())


def _broken(results: dict[str, Any]) -> Iterator[str]:
    """The promises that these results break."""
    for name, timings in results.items():
        if not name.startswith("all"):
            continue  # start-up weighs more in the sample than the promises are about
        cpu = {one["tool"]: one["cpu_s"] for one in timings}
        lint = cpu["ampconvert lint"]
        if lint > OF_RUFF * cpu["ruff"]:
            yield f"{name}: {lint / cpu['ruff']:.1f} times ruff, more than {OF_RUFF:g}"
        if "TorchFix" in cpu and lint > OF_TORCHFIX * cpu["TorchFix"]:
            yield f"{name}: {lint / cpu['TorchFix']:.3f} of TorchFix, more than {OF_TORCHFIX:g}"
        if cpu["ampconvert lint, cache unchanged"] > cpu["ruff"]:
            yield f"{name}: with an unchanged cache slower than ruff"
    start = next(one for one in results["start-up"] if one["tool"] == "ampconvert lint")
    if start["cpu_s"] > START_UP_S:
        yield f"start-up takes {start['cpu_s']:.2f} s, more than {START_UP_S:g}"


if __name__ == "__main__":
    sys.exit(main())
