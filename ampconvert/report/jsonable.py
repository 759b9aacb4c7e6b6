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
from ampconvert.repairs.repair import to_dict
from ampconvert.report import model_data, next_steps
from ampconvert.report.subject import Subject, unnamed
from ampconvert.report.words import escaped, verdict_name

if TYPE_CHECKING:
    from ampconvert.conversion import Analysis, Conversion
    from ampconvert.plan import Plan
    from ampconvert.rules import OpRule
    from ampconvert.verification import Comparison
    from ampconvert.verify.compare import Verification

SCHEMA = 1


def dumps(data: Mapping[str, Any]) -> str:
    """`data` as indented JSON that every parser takes."""
    text = json.dumps(plain(data), indent=2, allow_nan=False, ensure_ascii=False)
    text = text.encode("utf-8", "replace").decode("utf-8")  # a file's name may be no text
    return escaped(text)


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
        "next_steps": next_steps.after_analysis(subject, found),
        "nodes": model_data.nodes(found),
        "casts": model_data.casts(found),
        "seconds": found.seconds,
    }


def explanation(
    subject: Subject, found: Analysis, patterns: Iterable[str], nodes: Iterable[Node]
) -> dict[str, Any]:
    """What `ampconvert explain --json` prints."""
    return {
        **head("explain", subject, found),
        "patterns": list(patterns),
        "nodes": [model_data.node(found, n) for n in nodes],
        "seconds": found.seconds,
    }


def conversion(subject: Subject | None, done: Conversion, seconds: float = 0.0) -> dict[str, Any]:
    """What `ampconvert convert --json` prints.

    Without a `subject` the model goes by the name it was converted under. `seconds` is what all of
    it took; 0 stands for the sum of the stages.
    """
    subject = subject or unnamed(done.analysis)
    return {
        **head("convert", subject, done.analysis),
        "ok": None if done.unchecked else done.ok,
        "next_steps": next_steps.after_conversion(subject, done),
        "nodes": model_data.nodes(done.analysis),
        "casts": model_data.casts(done.analysis),
        "casts_onnx": done.casts_onnx,
        "front": model_data.predicted_front(done),
        "parity": verification(done.verification),
        "parity_runs": done.runs,
        "trial_runs": done.trials,
        "attempts": done.attempts,
        "differences": done.differences,
        "files": {kind: {"path": str(p), "bytes": _bytes(p)} for kind, p in done.files.items()},
        "seconds": done.seconds,
        "seconds_total": seconds or sum(done.seconds.values()),
    }


def stored(subject: Subject | None, done: Conversion) -> dict[str, Any]:
    """The report that a plan's file holds, in nothing but what JSON has: `conversion` without what
    the next run of the same command would not repeat, byte for byte.
    """
    passing = ("seconds", "seconds_total", "files")
    found = conversion(subject, done)
    return {key: plain(value) for key, value in found.items() if key not in passing}


def bare_plan(plan: Plan) -> dict[str, Any]:
    """A report of a plan alone: what its file says where it holds no report."""
    return {
        "schema": SCHEMA,
        "command": "convert",
        "version": _version(),
        "dtype": plan.low,
        "limits": model_data.limits(plan.low),
        "plan_fingerprint": plan.fingerprint,
        "nodes": [
            {"node": name, "runs_in": plan.compute.get(name),
             **model_data.verdict(plan.low, decision)}
            for name, decision in plan.decisions.items()
        ],
        "notes": ["This is a plan without its report: the model's structure, costs and parity are "
                  "not in it. Convert the model again to have them."],
    }  # fmt: skip


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
        "limits": model_data.limits(found.low),
        "runtime": found.target,
        "inputs": _inputs(subject),
        "dynamic": None if subject.format == "onnx" else found.dynamic,
        "opset": found.dynamic.removeprefix("opset ") if subject.format == "onnx" else None,
        "summary": summary,
        "plan_fingerprint": found.plan.fingerprint,
        "hazards": hazards(found.findings),
        "lint": hazards(subject.lint),
        "proof": _proof(found),
        "repairs_offered": [
            {**plain(offer), "repairs": [to_dict(one) for one in offer.repairs]}
            for offer in found.offers
        ],
        "repairs_declined": found.declined,
        "repairs_made": [to_dict(one) for one in found.repairs],
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
