"""The report as data: one JSON object of schema 1, strict JSON whatever the numbers are.

NaN and the infinities, which JSON lacks, are the strings "NaN", "Infinity" and "-Infinity":
Python's `float` and JavaScript's `Number` read them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampconvert.findings import Finding
from ampconvert.graph import Node
from ampconvert.report.subject import Subject
from ampconvert.report.words import verdict_name
from ampconvert.summary import VERDICTS

if TYPE_CHECKING:
    from ampconvert.conversion import Analysis, Conversion
    from ampconvert.rules import OpRule
    from ampconvert.verification import Comparison
    from ampconvert.verify.compare import Verification

SCHEMA = 1


def dumps(data: Mapping[str, Any]) -> str:
    """`data` as indented JSON that every parser takes."""
    return json.dumps(plain(data), indent=2, allow_nan=False, ensure_ascii=False)


def plain(data: Any) -> Any:
    """`data` in nothing but what JSON has; dataclasses become objects, unknown things text."""
    if data is None or isinstance(data, bool | str):
        return data
    if isinstance(data, np.generic):
        return plain(data.item())
    if isinstance(data, int):
        return data
    if isinstance(data, float):
        return data if math.isfinite(data) else _not_finite(data)
    if isinstance(data, np.ndarray):
        return plain(data.tolist())
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if is_dataclass(data) and not isinstance(data, type):
        return {f.name: plain(getattr(data, f.name)) for f in fields(data)}
    if isinstance(data, set | frozenset):
        return sorted((plain(item) for item in data), key=str)
    if isinstance(data, Iterable):
        return [plain(item) for item in data]
    return str(data)


def analysis(subject: Subject, found: Analysis) -> dict[str, Any]:
    """What `ampconvert analyze --json` prints."""
    return {
        **head("analyze", subject, found),
        "nodes": [node(found, n) for n in found.graph.nodes],
        "seconds": found.seconds,
    }


def explanation(
    subject: Subject, found: Analysis, patterns: Iterable[str], nodes: Iterable[Node]
) -> dict[str, Any]:
    """What `ampconvert explain --json` prints."""
    return {
        **head("explain", subject, found),
        "patterns": list(patterns),
        "nodes": [node(found, n) for n in nodes],
        "seconds": found.seconds,
    }


def conversion(subject: Subject, done: Conversion, seconds: float) -> dict[str, Any]:
    """What `ampconvert convert --json` prints."""
    return {
        **head("convert", subject, done.analysis),
        "ok": None if done.unchecked else done.ok,
        "casts_onnx": done.casts_onnx,
        "parity": verification(done.verification),
        "parity_runs": done.runs,
        "trial_runs": done.trials,
        "attempts": done.attempts,
        "differences": done.differences,
        "files": {kind: {"path": str(p), "bytes": _bytes(p)} for kind, p in done.files.items()},
        "seconds": done.seconds,
        "seconds_total": seconds,
    }


def comparison(found: Comparison) -> dict[str, Any]:
    """What `ampconvert verify --json` prints."""
    return {
        "schema": SCHEMA,
        "command": "verify",
        "version": _version(),
        "ok": found.verification.ok,
        "reference": found.reference,
        "candidate": found.candidate,
        "reference_ran": found.reference_ran,
        "low": found.low,
        "inputs": _inputs(found.subject),
        "parity": verification(found.verification),
        "notes": found.notes,
        "seconds_total": found.seconds,
    }


def rules(entries: Iterable[OpRule]) -> dict[str, Any]:
    """What `ampconvert rules --json` prints."""
    return {
        "schema": SCHEMA,
        "command": "rules",
        "version": _version(),
        "rules": [asdict(r) for r in entries],
    }


def verification(found: Verification | None) -> dict[str, Any] | None:
    """How far the outputs are off, how that was measured, and what went bad first."""
    if found is None:
        return None
    return {
        "ok": found.ok,
        "how": found.how,
        "provider": found.provider,
        "low_nodes": found.low_nodes,
        "total_nodes": found.total_nodes,
        "first_bad": found.first_bad,
        "outputs": found.parities,
    }


def hazards(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """`findings` in nothing but what JSON has, in their order, none left out."""
    return [
        {**plain(found), "where": {**plain(found.where), "text": str(found.where)},
         "open": found.is_open}
        for found in findings
    ]  # fmt: skip


def node(found: Analysis, one: Node) -> dict[str, Any]:
    """One node with its verdict and everything that speaks for it."""
    decision = found.plan.decisions[one.name]
    return {
        "node": one.name,
        "op": one.op,
        "overload": one.overload,
        "scope": one.scope,
        "where": one.where,
        "runs_in": found.plan.compute.get(one.name),
        "verdict": verdict_name(VERDICTS[decision.cls], found.low),
        "class": decision.cls,
        "rule": decision.rule,
        "reason": decision.reason,
        "source": decision.source,
        "evidence": decision.evidence,
        "figure": decision.figure,
        "unknown": decision.unknown,
        "keep_inputs": [one.operands[i] if one.operands else str(i) for i in decision.keep],
        "seen": {name: found.ranges[name] for name in one.outputs if name in found.ranges},
        "predicted_error": predicted_error(found, one),
        "alone": _alone(found, one),
        "safety": found.safety.get(one.name),
    }


def _alone(found: Analysis, one: Node) -> dict[str, float | None] | None:
    """The relative output error of running this node alone in the low type, where it was asked
    for.
    """
    if one.name not in found.alone:
        return None
    predicted, energy = found.alone[one.name]
    guess = math.sqrt(predicted) if predicted is not None else None
    return {"predicted": guess, "measured": math.sqrt(energy)}


def _proof(found: Analysis) -> dict[str, Any] | None:
    proof = found.proof
    if proof is None:
        return None
    return {
        "bounds": proof.bounds,
        "domains": proof.domains,
        "assumed": proof.assumed,
        "notes": proof.notes,
        "seconds": proof.seconds,
    }


def predicted_error(found: Analysis, one: Node) -> float | None:
    """The relative output error of rounding this node's results alone; None when not measured."""
    if found.errors is None:
        return None
    known = [found.errors[name] for name in one.outputs if name in found.errors]
    return math.sqrt(sum(known)) if known else None


def head(command: str, subject: Subject, found: Analysis) -> dict[str, Any]:
    """What every report on a model begins with."""
    summary = plain(found.summary)
    for verdict in summary["verdicts"]:
        verdict["name"] = verdict_name(verdict["name"], found.low)
    return {
        "schema": SCHEMA,
        "command": command,
        "version": _version(),
        "dtype": found.low,
        "model": {
            "target": subject.target,
            "name": subject.name,
            "how": subject.how,
            "format": subject.format,
        },
        "runtime": found.target,
        "inputs": _inputs(subject),
        "dynamic": None if subject.format == "onnx" else found.dynamic,
        "opset": found.dynamic.removeprefix("opset ") if subject.format == "onnx" else None,
        "summary": summary,
        "plan_fingerprint": found.plan.fingerprint,
        "hazards": hazards(found.findings),
        "lint": hazards(subject.lint),
        "proof": _proof(found),
        "repairs_offered": found.offers,
        "repairs_declined": found.declined,
        "repairs_made": found.repairs,
        "loss_scale": found.loss_scale,
        "notes": found.notes,
        "unused_rules": found.unused_rules,
    }


def _inputs(subject: Subject) -> dict[str, Any]:
    return {
        "tensors": subject.tensors,
        "source": subject.inputs_source,
        "random": subject.inputs_random,
        "data_source": subject.data_source,
        "data_random": subject.data_random,
        "batches": subject.batches,
    }


def _version() -> str:
    from ampconvert import __version__

    return __version__


def _bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _not_finite(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"
