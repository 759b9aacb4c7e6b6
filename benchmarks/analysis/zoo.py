"""Proofs for every model of the zoo, from the FP32 files that the zoo's benchmark has left.

Inputs have the range of the zoo's four batches, a hundredth wider, and ids any value that their
table has a row for. No attack here: that is what `proof` does, on trained models.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from ampconvert.conversion import Proving, Request
from ampconvert.errors import UserError
from ampconvert.pipeline_evidence import with_evidence
from ampconvert.pipeline_onnx_analysis import analyse
from ampconvert.pipeline_onnx_start import start_from
from ampconvert.pipeline_steps import Clock
from benchmarks.child import ROOT
from benchmarks.zoo.registry import entries

FILES = ROOT / "out" / "zoo"
Feed = dict[str, np.ndarray[Any, Any]]


def measure() -> dict[str, Any]:
    """Ops on floats and ops proved under the default plan, by model; why, where there is none."""
    found: dict[str, Any] = {}
    for name, entry in entries().items():
        if (FILES / name / "fp32.onnx").exists():
            try:
                found[name] = {"trained": entry.trained, **_proved(FILES / name)}
            except UserError as error:
                found[name] = {"trained": entry.trained, "why": str(error)[:200]}
    return {"models": found}


def _proved(folder: Path) -> dict[str, Any]:
    feeds = [dict(np.load(path)) for path in sorted((folder / "inputs").glob("*.npz"))]
    clock = Clock(None)
    start = start_from(clock, folder / "fp32.onnx", feeds, "float16", (), {}, True)
    request = Request("float16", proving=Proving(_ranges(feeds)))
    before = time.perf_counter()
    analysis = with_evidence(clock, analyse(clock, start, request))
    levels = [one.level for one in analysis.safety.values()]
    slack = sorted(s.slack for s in analysis.safety.values() if s.level == "PROVED" and s.slack)
    assert analysis.proof is not None
    return {
        "ops": len(levels),
        **{level: levels.count(level) for level in ("PROVED", "CALIBRATED", "AT RISK")},
        "slack": slack[len(slack) // 2] if slack and math.isfinite(slack[-1]) else None,
        "seconds": analysis.proof.seconds,
        "seconds_in_all": time.perf_counter() - before,
    }


def _ranges(feeds: list[Feed]) -> dict[str, tuple[float, float]]:
    """Least and largest of each input, a hundredth wider; none for ids, which may be any."""
    found: dict[str, tuple[float, float]] = {}
    for name in feeds[0]:
        column = [feed[name] for feed in feeds if feed[name].size]
        if not column or column[0].dtype.kind not in "fiub":
            continue
        low, high = min(float(a.min()) for a in column), max(float(a.max()) for a in column)
        if column[0].dtype.kind == "f":
            room = 0.01 * (high - low)
            found[name] = (low - room, high + room)
        elif high <= 1:  # a mask
            found[name] = (0.0, 1.0)
    return found
