"""The same network through PyTorch's graph and through ONNX: are the verdicts the same?

    python -m benchmarks.verdicts [MODEL ...] [--dtype float16]

Each zoo model is captured and judged as a PyTorch program; the same program is exported to float32
ONNX, read back, calibrated on the same batches and judged again. An operator that the exporter
writes as one ONNX operator must get the same verdict: FP16-safe, FP32-required or neutral. What it
writes as several (attention, views, statistics) has no partner; those are counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ampconvert.classify import Verdicts, classify
from ampconvert.frontends import fx, fx_apply, fx_export, fx_run, onnx, onnx_run
from ampconvert.frontends.capture import capture
from ampconvert.graph import Graph, Node
from ampconvert.plan import FLOAT32, Plan
from ampconvert.rules import RuleBook, load
from benchmarks.child import quiet
from benchmarks.zoo.registry import Sample, pick


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
    ranges = fx_run.calibrate(program, sample.batches)
    verdicts = classify(graph, RuleBook(load()), low, ranges)

    full = Plan(low, dict.fromkeys(verdicts.decisions, FLOAT32), (), {}, verdicts.decisions)
    exported = fx_export.to_onnx(fx_apply.apply(program, full), program, full)
    names = [value.name or "" for value in exported.model.graph.inputs]
    feeds = [
        dict(zip(names, fx_run.input_arrays(program, batch), strict=True))
        for batch in sample.batches
    ]
    seen, sizes = onnx_run.calibrate(exported.model, feeds, lambda done: None)
    other = onnx.read(exported.model, low, sizes)
    again = classify(other, RuleBook(load()), low, seen)
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
    """Print one line per model, then every kind of difference; 1 when there is any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    quiet()
    kinds: Counter[tuple[str, str]] = Counter()
    failed = 0
    for entry in pick(options.models):
        try:
            found = compare(entry.name, entry.sample(), options.dtype)
        except Exception as error:
            print(f"{entry.name}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            failed += 1
            continue
        kinds.update((d.torch, d.onnx) for d in found.differences)
        print(f"{entry.name}: {found.pairs} pairs, {len(found.differences)} differ, "
              f"{found.split} written otherwise", flush=True)  # fmt: skip
        for d in found.differences[:6]:
            print("   ", d.torch, "|", d.onnx)
    print(json.dumps([[*k, n] for k, n in kinds.most_common()], indent=1))
    return 1 if kinds or failed else 0


if __name__ == "__main__":
    sys.exit(main())
