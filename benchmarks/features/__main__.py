"""Features of ampconvert beside other tools': every command is run, every probe is put.

python -m benchmarks.features --peers .venv-peers/bin/python --olive .venv-olive/bin/python

Exit code 1: a command of ampconvert's does not do what the table says, or a probe is not clear.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.child import ROOT, quiet
from benchmarks.dated import show, write
from benchmarks.features import report
from benchmarks.features.cells import Feature, Found, Section
from benchmarks.features.run import OURS, Places, ours, peer_cells
from benchmarks.features.table_beyond import BEYOND
from benchmarks.features.table_convert import INPUTS, MODELOPT, NUMBERS, OCC, OLIVE, ORT
from benchmarks.features.table_lint import LINT
from benchmarks.features.table_reports import EXPLAIN, STEER
from benchmarks.features.table_training import AMP, TRAINING

SECTIONS = (INPUTS, NUMBERS, EXPLAIN, STEER, TRAINING, LINT, BEYOND)
NAME, HEADING = "features", "Features, beside other tools"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all, print the tables, write the result files; 1 where something has to be looked at."""
    options = _options(arguments)
    quiet()
    console = Console(width=160)
    sections = [_chosen(section, options.only) for section in SECTIONS]
    sections = [section for section in sections if section.features]
    found = measure(sections, _places(options), console)
    bad = report.failures(sections, found)
    tables = report.tables(sections, found)
    show(console, [t for t in tables if options.evidence or not t.title.endswith("evidence")], bad)
    if not (options.only or options.quick):
        for path in write(RESULTS, NAME, HEADING, report.plain(sections, found), tables, bad):
            console.print(f"wrote {path.relative_to(ROOT)}")
    return 1 if bad else 0


RESULTS = ROOT / "benchmarks" / "results"


def measure(
    sections: Sequence[Section], places: Places, console: Console
) -> dict[str, dict[str, Found]]:
    """Every tool's answer to every feature, by the feature's name and the tool's."""
    answers: dict[str, dict[str, Found]] = {}
    features = [feature for section in sections for feature in section.features]
    for feature in features:
        found = ours(feature, places)
        answers[feature.name] = {OURS: found}
        console.print(f"{found.verdict:>7}  {feature.name}", markup=False, highlight=False)
    for peer in dict.fromkeys(peer for section in sections for peer in section.peers):
        console.print(f"asking {peer} ...", highlight=False)
        for name, found in peer_cells(features, peer, places).items():
            answers[name][peer] = found
    return answers


def _chosen(section: Section, words: Sequence[str]) -> Section:
    """The features whose names have one of the words in them; all where there are none."""

    def fits(feature: Feature) -> bool:
        return not words or any(word.lower() in feature.name.lower() for word in words)

    return Section(section.title, section.peers, tuple(filter(fits, section.features)))


def _places(options: argparse.Namespace) -> Places:
    pythons = {
        OCC: options.peers, ORT: options.peers, MODELOPT: options.peers, OLIVE: options.olive,
        AMP: Path(sys.executable),
    }  # fmt: skip
    return Places(ROOT / "out" / "features", pythons, options.linters)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-peers/bin/python", metavar="PYTHON",
        help="of an environment made as benchmarks/requirements-peers.txt says",
    )  # fmt: skip
    parser.add_argument(
        "--olive",
        type=Path,
        default=ROOT / ".venv-olive/bin/python",
        metavar="PYTHON",
        help="of one made as benchmarks/requirements-olive.txt says",
    )
    parser.add_argument(
        "--linters",
        type=Path,
        default=ROOT / ".venv-lint/bin",
        metavar="FOLDER",
        help="programs of one made as benchmarks/requirements-lint.txt says",
    )
    parser.add_argument("--only", nargs="*", default=[], help="words in features' names")
    parser.add_argument("--evidence", action="store_true", help="print what each answer rests on")
    parser.add_argument("--quick", action="store_true", help="write no result files")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
