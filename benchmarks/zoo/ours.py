"""Converts one zoo model with ampconvert, in a process of its own.

python -m benchmarks.zoo.ours resnet50 --dtype float16 --work out/zoo
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.child import peak_mb, quiet, resident_mb
from benchmarks.zoo.registry import Sample, pick


def main() -> int:
    """Convert, and print stages, figures and the path of the ONNX file as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    quiet()
    (entry,) = pick([options.name])
    sample = entry.sample()
    before = resident_mb()
    result: dict[str, Any]
    try:
        result = convert(sample, options.name, options.dtype, options.work / options.name / "ours")
    except Exception as error:  # the figure of a model that can't be converted is its reason
        text = " ".join(str(error).split())[:300]
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        result = {"error": f"{type(error).__name__} at {where}: {text}"}
    result["memory_mb"] = {"before": before, "peak": peak_mb()}
    print(json.dumps(result))
    return 0


def convert(sample: Sample, name: str, dtype: str, out: Path) -> dict[str, Any]:
    """The one place that knows ampconvert's Python API: figures of one conversion, JSON-ready."""
    from ampconvert.pipeline import convert as run

    stage = ""

    def progress(current: str, done: int, total: int) -> None:
        nonlocal stage
        stage = current

    args, kwargs = sample.batches[0]
    try:
        done = run(
            sample.module, args, kwargs, dtype=dtype, data=sample.batches, out=out, name=name,
            overwrite=True, progress=progress,
        )  # fmt: skip
    except Exception as error:
        raise RuntimeError(f"in {stage}: {type(error).__name__}: {error}") from error
    found = done.verification
    return {
        "onnx": str(done.files["onnx"]) if "onnx" in done.files else None,
        "seconds": dict(done.seconds),
        "ok": done.ok,
        "own_rel_l2": _worst([p.rel_l2 for p in found.parities]) if found else None,
        "plan_casts": len(done.plan.casts),
        "plan_low_share": done.summary.flops_low_share,
        "unknown_ops": list(done.summary.unknown_ops),
        "classes": {v.name: v.nodes for v in done.summary.verdicts},
        "notes": list(done.analysis.notes),
    }


def _worst(errors: list[float]) -> float | None:
    """The largest; None when one is no number, which JSON has no word for."""
    return max(errors, default=0.0) if all(map(math.isfinite, errors)) else None


if __name__ == "__main__":
    sys.exit(main())
