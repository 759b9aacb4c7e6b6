"""Our search for a tolerance against the peer's bisection: float32 ops kept, predicted time, runs.

All are judged alike: by the worst output's relative L2 error of the emulated model.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.conversion import Analysis, Conversion
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.frontends.onnx_apply import apply
from ampconvert.pipeline import convert
from ampconvert.pipeline_onnx import analyze
from ampconvert.pipeline_onnx import convert as convert_onnx
from ampconvert.pipeline_search import Search, problem_of
from ampconvert.pipeline_torch import passes_for
from ampconvert.plan import FLOAT32
from ampconvert.verify.emulate import emulate
from ampconvert.verify.runtimes import run_onnx
from benchmarks.analysis.bisection import bisect, worst_error
from benchmarks.analysis.subjects import Subject, tensors
from benchmarks.zoo.registry import Batch, Sample

LOW: Low = "float16"
TARGET = "h100"
FRACTIONS = (0.7, 0.5, 0.3)  # of the error with every op in float16
LIMIT_S = 150.0  # for one bisection

Feed = dict[str, np.ndarray[Any, Any]]


def measure(found: Subject, work: Path) -> dict[str, Any]:
    """Ours, from PyTorch and from the ONNX file, by fraction of the error of all ops in float16.

    Writes `fp32.onnx` and `inputs.npz` into the subject's folder of `work`, for the others.
    """
    sample = found.sample()
    batch = found.wide(sample)
    folder = work / found.name
    folder.mkdir(parents=True, exist_ok=True)
    feed = _export(sample, batch, folder)
    judge = _Judge(folder / "fp32.onnx", feed)
    whole = judge.error(())
    if not math.isfinite(whole):
        raise ValueError("the outputs are not finite with every op in float16")
    result: dict[str, Any] = {"whole": whole, "tolerances": {}, "ours": {}, "ours, ONNX": {}}
    for fraction in FRACTIONS:
        tolerance = fraction * whole
        result["tolerances"][str(fraction)] = tolerance
        done = convert(
            sample.module, *batch, dtype=LOW, data=[batch], target=TARGET, tolerance=tolerance
        )
        assert done.analysis.program is not None
        passes = passes_for(done.analysis.program, [batch])
        result["ours"][str(fraction)] = _figures(done, done.trials + passes)
        estimates: list[int] = [0]

        def tell(stage: str, done: int, total: int, seen: list[int] = estimates) -> None:
            if stage == "error per op" and total > 1:
                seen[0] = max(seen[0], done)

        done = convert_onnx(
            folder / "fp32.onnx", [feed], dtype=LOW, target=TARGET, tolerance=tolerance,
            progress=tell,
        )  # fmt: skip
        result["ours, ONNX"][str(fraction)] = _figures(done, done.trials + estimates[0])
    return result


def bisected(found: Subject, work: Path) -> dict[str, Any]:
    """The peer's logic with our converter and judge, on the file and tolerances of `measure`."""
    folder = work / found.name
    known = json.loads((folder / "search.json").read_text())
    judge = _Judge(folder / "fp32.onnx", dict(np.load(folder / "inputs.npz")))
    return {
        fraction: judge.bisected(tolerance) for fraction, tolerance in known["tolerances"].items()
    }


def price(found: Subject, work: Path) -> dict[str, Any]:
    """Predicted seconds and float32 ops of what the package itself found, by fraction."""
    folder = work / found.name
    judge = _Judge(folder / "fp32.onnx", dict(np.load(folder / "inputs.npz")))
    result: dict[str, Any] = {}
    for fraction in map(str, FRACTIONS):
        package = json.loads((folder / f"package-{fraction}.json").read_text())
        result[fraction] = package | (judge.priced(package["kept"]) if "kept" in package else {})
    return result


class _Judge:
    """Converts an ONNX model with given nodes kept in float32, and measures its error."""

    def __init__(self, path: Path, feed: Feed) -> None:
        self.feed = feed
        self.analysis: Analysis = analyze(path, [feed], dtype=LOW, target=TARGET)
        self.problem = problem_of(self.analysis, Search(1.0))
        assert self.analysis.model is not None
        self.model = self.analysis.model
        self.reference = self._answers(self.model)

    def error(self, kept: Sequence[str]) -> float:
        """The worst output's relative L2 error; infinite where one is not finite, or no model."""
        plan = self.problem.with_types(self._types(kept))
        try:
            return worst_error(self.reference, self._answers(emulate(apply(self.model, plan))))
        except UserError:  # a runtime refuses what the plan made
            return math.inf

    def priced(self, kept: Sequence[str]) -> dict[str, Any]:
        """Float32 ops among those on floats, and the predicted seconds."""
        types = self._types(kept)
        return {
            "full": sum(dtype == FLOAT32 for dtype in types.values()),
            "ops": len(types),
            "predicted_seconds": self.problem.seconds(self.problem.with_types(types)),
        }

    def bisected(self, tolerance: float) -> dict[str, Any]:
        """What the bisection finds, and after how many runs."""
        runs, start = 0, time.perf_counter()

        def holds(kept: Sequence[str]) -> bool:
            nonlocal runs
            if time.perf_counter() - start > LIMIT_S:
                raise TimeoutError(f"over the limit of {LIMIT_S:.0f} s after {runs} runs")
            runs += 1
            return self.error(kept) <= tolerance

        try:
            kept = bisect([node.name for node in self.analysis.graph.nodes], holds)
        except (TimeoutError, ValueError) as error:
            return {"runs": runs, "why": str(error), "seconds": time.perf_counter() - start}
        seconds = time.perf_counter() - start
        figures = {"runs": runs, "seconds": seconds, "error": self.error(kept)}
        return figures | self.priced(kept)

    def _answers(self, model: ir.Model) -> list[np.ndarray[Any, Any]]:
        (answers,) = run_onnx(model, [self.feed])
        return [answers[value.name or ""] for value in model.graph.outputs]

    def _types(self, kept: Sequence[str]) -> dict[str, str]:
        full = set(kept)
        return {name: FLOAT32 if name in full else LOW for name in self.problem.floats}


def _export(sample: Sample, batch: Batch, folder: Path) -> Feed:
    """Write the float32 model as ONNX, and its inputs, which are returned by name."""
    import torch

    args, kwargs = batch
    program = torch.export.export(sample.module, args, kwargs, strict=False)
    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None
    exported.save(str(folder / "fp32.onnx"), external_data=False)
    names = [value.name or "" for value in exported.model.graph.inputs]
    feed = {n: t.numpy() for n, t in zip(names, tensors(batch), strict=True)}
    np.savez(folder / "inputs.npz", allow_pickle=False, **feed)
    return feed


def _figures(done: Conversion, others: int) -> dict[str, Any]:
    """What a search came to. `others` are runs beside parity: backward passes or runs that estimate
    the error per op, and quick runs of candidate plans.
    """
    parities = done.verification.parities if done.verification else ()
    seconds = done.summary.predicted_seconds
    return {
        "ok": done.ok,
        "full": sum(dtype == FLOAT32 for dtype in done.plan.compute.values()),
        "ops": len(done.plan.compute),
        "predicted_seconds": seconds[1] if seconds else None,
        "error": max((p.rel_l2 for p in parities), default=None),
        "runs": done.runs,
        "passes": others,
        "seconds": sum(done.seconds.values()),
    }
