"""The same network through PyTorch's graph and through ONNX: are the verdicts the same?

    python -m benchmarks.verdicts [MODEL ...] [--dtype float16] [--write]

Each zoo model is captured and judged as a PyTorch program; the same program is exported to float32
ONNX, read back, calibrated on the same batches and judged again. An operator that the exporter
writes as one ONNX operator must get the same verdict: FP16-safe, FP32-required or neutral. What it
writes as several (attention, views, statistics) has no partner; those are counted. Batch norms are
folded into convolutions on the way, as in every export of ours.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ampconvert.classify import (
    Verdicts,
    classify,
    harmless_error,
    vanishing,
    weight_ranges,
)
from ampconvert.frontends import fx, fx_apply, fx_export, fx_run, onnx, onnx_run
from ampconvert.frontends.capture import capture
from ampconvert.frontends.onnx_errors import rounding_errors
from ampconvert.graph import Graph, Node
from ampconvert.plan import FLOAT32, Plan
from ampconvert.rules import RuleBook, load
from benchmarks.child import quiet
from benchmarks.zoo.registry import Sample, pick
from benchmarks.zoo.report import machine

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Difference:
    """One operator that is judged in two ways."""

    model: str
    torch: str  # operator, class, rule
    onnx: str


@dataclass(frozen=True)
class Compared:
    """One model: operators with one partner, those among them that differ, and those without."""

    model: str
    pairs: int
    differences: tuple[Difference, ...]
    split: int


def compare(name: str, sample: Sample, low: Any) -> Compared:
    """Judge `sample` by both ways; ranges are taken from all of its batches in both."""
    args, kwargs = sample.batches[0]
    sample.module.eval()
    program = capture(sample.module, args, kwargs, dynamic_batch=True).program
    graph = fx.read(program)
    ranges = fx_run.calibrate(program, sample.batches, low=low)
    ranges |= weight_ranges(graph, ranges, low)
    small = vanishing(graph, ranges, low)
    errors = fx_run.rounding_error(program, sample.batches[0], low) if small else None
    verdicts = classify(graph, RuleBook(load()), low, ranges, errors)

    # Every node is told which of the program's it comes from; all types stay.
    full = Plan(low, dict.fromkeys(verdicts.decisions, FLOAT32), (), {}, verdicts.decisions)
    exported = fx_export.to_onnx(fx_apply.apply(program, full), program, full)
    model = exported.model
    names = [value.name or "" for value in model.graph.inputs]
    feeds = [
        dict(zip(names, fx_run.input_arrays(program, batch), strict=True))
        for batch in sample.batches
    ]
    seen, sizes = onnx_run.calibrate(model, feeds, lambda done: None, low=low)
    other = onnx.read(model, low, sizes)
    seen |= weight_ranges(other, seen, low)
    small = vanishing(other, seen, low)
    measured = rounding_errors(model, small, feeds[0], low, harmless_error(low)) if small else {}
    again = classify(other, RuleBook(load()), low, seen, measured)
    pairs = list(_pairs(graph, other, exported.origin))
    found = [
        Difference(name, _said(a, verdicts), _said(b, again))
        for a, b in pairs
        if _verdict(a, verdicts) != _verdict(b, again)
    ]
    floats = sum(_touches(graph, node) for node in graph.nodes)
    return Compared(name, len(pairs), tuple(found), floats - len(pairs))


def _pairs(graph: Graph, other: Graph, origin: Any) -> Iterator[tuple[Node, Node]]:
    """Operators on floats that are one operator on floats in both."""
    written: dict[str, list[Node]] = defaultdict(list)
    for node in other.nodes:
        if _touches(other, node):
            written[origin.get(node.name, "")].append(node)
    for node in graph.nodes:
        if _touches(graph, node) and len(written[node.name]) == 1:
            yield node, written[node.name][0]


def _touches(graph: Graph, node: Node) -> bool:
    values = [v for v in (*graph.input_values(node), *graph.output_values(node)) if v is not None]
    return any(v.is_float32 and v.kind != "weight" for v in values)


def _verdict(node: Node, verdicts: Verdicts) -> str:
    """As reports give it: FP16-safe, FP32-required or neutral."""
    cls = verdicts.decisions[node.name].cls
    return "neutral" if cls in ("infer", "clear") else cls


def _said(node: Node, verdicts: Verdicts) -> str:
    decision = verdicts.decisions[node.name]
    return f"{node.op} {decision.cls} ({decision.rule}, {decision.evidence})"


def main() -> int:
    """Print one line per model and write the table; 1 where any model differs or failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--write", action="store_true", help="write the table for some models too")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    options = parser.parse_args()
    quiet()
    rows: list[Compared | str] = []
    for entry in pick(options.models):
        try:
            found = compare(entry.name, entry.sample(), options.dtype)
        except Exception as error:  # one model that can't be built costs one row
            rows.append(f"{entry.name}: {type(error).__name__}: {str(error)[:200]}")
            print(rows[-1], flush=True)
            continue
        rows.append(found)
        print(f"{entry.name}: {found.pairs} pairs, {len(found.differences)} differ, "
              f"{found.split} written otherwise", flush=True)  # fmt: skip
        for difference in found.differences:
            print(f"    {difference.torch} | {difference.onnx}", flush=True)
    if options.write or not options.models:
        print(f"wrote {write(rows, options.dtype)}")
    return int(any(isinstance(row, str) or row.differences for row in rows))


def write(rows: list[Compared | str], dtype: str) -> Path:
    """The dated table of all models under results/."""
    done = [row for row in rows if isinstance(row, Compared)]
    about = machine()
    pairs, differ = sum(r.pairs for r in done), sum(len(r.differences) for r in done)
    lines = [
        f"# Verdicts through PyTorch and through ONNX, {dtype}, {date.today()}",
        "",
        f"{len(done)} models: of {pairs} operators that are one operator in both, {differ} are "
        "judged in two ways. " + "; ".join(f"{k} {v}" for k, v in about.items()),
        "",
        "| model | pairs | differ | written otherwise |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {r.model} | {r.pairs} | {len(r.differences)} | {r.split} |" for r in done),
        "",
        *(f"- {row}" for row in rows if isinstance(row, str)),
        *(f"- {r.model}: {d.torch} and {d.onnx}" for r in done for d in r.differences),
    ]
    path = RESULTS / f"{date.today()}-verdicts-{dtype}.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
