"""A report's data on a transformer of any number of operators, the same numbers in every run.

No model of 10,000 operators has to be converted for the page to be measured: what counts for it is
how many operators there are, how deep their modules nest, and how long their texts are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

LIMITS = {
    "name": "float16", "max": 65504.0, "smallest_normal": 2.0**-14, "smallest": 2.0**-24,
    "unit_roundoff": 2.0**-11,
}  # fmt: skip

# The operators of one layer: module inside it, operator, verdict.
LAYER = (
    *[(f"attention.self.{part}", "linear", "allow") for part in ("query", "key", "value")],
    *[("attention.self", op, "clear") for op in ("view", "transpose") * 3],
    ("attention.self", "scaled_dot_product_attention", "allow"),
    ("attention.self", "transpose", "clear"), ("attention.self", "reshape", "clear"),
    ("attention.output.dense", "linear", "allow"), ("attention.output", "add", "infer"),
    ("attention.output.LayerNorm", "layer_norm", "allow"),
    ("intermediate.dense", "linear", "allow"), ("intermediate", "gelu", "infer"),
    ("output.dense", "linear", "allow"), ("output", "add", "infer"),
    ("output.LayerNorm", "layer_norm", "allow"), ("output", "pow_1", "deny"),
)  # fmt: skip
VERDICTS = {"allow": "FP16-safe", "deny": "FP32-required", "infer": "neutral", "clear": "neutral"}
REASONS = {
    "allow": "Tensor cores multiply 16-bit operands and add in FP32, with one rounding per result.",
    "deny": "A square leaves the range of FP16 at 256, and values up to 900 were seen.",
    "infer": "It takes whatever type its operands have.",
    "clear": "It moves numbers and changes none.",
}


def report(operators: int, seed: int = 0) -> dict[str, Any]:
    """The object that `ampconvert convert --json` prints, on a model of so many operators."""
    chance = random.Random(seed)
    nodes = [_node(chance, number) for number in range(operators)]
    for before, node in pairwise(nodes):
        node["inputs"] = [before["node"]]
    error = math.sqrt(sum((n["output_error"] or 0.0) ** 2 for n in nodes))
    return {
        "schema": 1, "command": "convert", "version": "0.1.0", "dtype": "float16",
        "model": {"target": "model.py", "name": "Transformer", "how": "class Transformer",
                  "format": "torch"},
        "limits": LIMITS, "runtime": None, "dynamic": "batch", "opset": None, "ok": True,
        "inputs": {"tensors": [{"name": "x", "dtype": "int64", "shape": [4, 128]}],
                   "source": "a seeded generator", "random": True, "batches": 1},
        "summary": _summary(nodes, error), "plan_fingerprint": "0123456789abcdef",
        "hazards": [_hazard(n) for n in nodes if n["class"] == "deny"][:5], "lint": [],
        "next_steps": [{"text": "Measure parity on data of your own.",
                        "command": "ampconvert model.py --data calib/"}],
        "nodes": nodes, "casts": list(_casts(nodes)), "front": None, "notes": [],
        "unused_rules": [], "parity": _parity(chance, error), "attempts": [],
        "differences": {"values": list(_differences(chance, nodes)), "layers": [], "missing": [],
                        "batches": 1},
        "files": {}, "seconds": {"capture": 1.0}, "seconds_total": 1.0,
    }  # fmt: skip


def _node(chance: random.Random, number: int) -> dict[str, Any]:
    layer, place = divmod(number, len(LAYER))
    module, op, cls = LAYER[place]
    denied = cls == "deny" and layer % 4 == 0  # else the square fits
    cls = cls if denied or cls != "deny" else "infer"
    low = not denied
    name, largest = f"{op}_{number}", 900.0 if denied else math.exp(chance.gauss(1, 1))
    elements = 4 * 128 * 768
    heavy = op in ("linear", "scaled_dot_product_attention")
    return {
        "node": name, "op": f"aten::{op.removesuffix('_1')}", "overload": "default",
        "scope": f"encoder.layer.{layer}.{module}", "where": f"modeling.py:{100 + place}",
        "runs_in": "float16" if low else "float32", "verdict": VERDICTS[cls], "class": cls,
        "rule": f"{op}-rule", "reason": REASONS[cls], "source": "https://example.org/rules",
        "evidence": "seen" if denied else "rule", "figure": largest if denied else None,
        "unknown": False, "keep_inputs": [],
        "seen": {name: {
            "minimum": -largest, "maximum": largest, "unmasked": largest,
            "tiny": math.exp(chance.gauss(-14, 1.5)), "has_nan": False, "has_inf": False,
            "elements": elements, "subnormal": chance.randrange(900), "lost": 0,
        }},
        "alone": None,
        "safety": {"node": name, "level": "AT RISK" if denied else "CALIBRATED", "bound": None,
                   "slack": None, "seen": largest, "margin": 65520.0 / largest,
                   "reason": f"seen at {largest:.4g} at most; no proof was asked for"},
        "flops": 6.0e8 if heavy else 4.0e5, "seconds": [9e-6, 4e-6 if low else 9e-6],
        "result_bytes": [4 * elements, (2 if low else 4) * elements],
        "weight_bytes": [2359296, 1179648] if op == "linear" else [0, 0],
        "output_error": 0.0 if cls == "clear" or not low else math.exp(chance.gauss(-10, 1)),
        "inputs": [], "outputs": [name],
    }  # fmt: skip


def _summary(nodes: list[dict[str, Any]], error: float) -> dict[str, Any]:
    flops = sum(n["flops"] for n in nodes)
    verdicts = []
    for name in ("FP16-safe", "FP32-required", "neutral"):
        own = [n for n in nodes if n["verdict"] == name]
        verdicts.append({
            "name": name, "nodes": len(own),
            "in_low": sum(n["runs_in"] == "float16" for n in own),
            "flops_share": sum(n["flops"] for n in own) / flops,
        })  # fmt: skip
    weights = [sum(n["weight_bytes"][i] for n in nodes) for i in (0, 1)]
    ranked = sorted(nodes, key=lambda n: -n["output_error"])[:5]
    return {
        "nodes": len(nodes), "float_nodes": len(nodes), "verdicts": verdicts, "flops": flops,
        "flops_low_share": 1.0, "casts": len(list(_casts(nodes))), "cast_bytes": 10_000_000,
        "weight_bytes": weights, "activation_bytes": [6_000_000, 3_000_000],
        "predicted_error": error, "unknown_ops": [],
        "predicted_seconds": [sum(n["seconds"][i] for n in nodes) for i in (0, 1)],
        "worst": [
            {"node": n["node"], "op": n["op"], "scope": n["scope"], "where": n["where"],
             "error": n["output_error"], "share": n["output_error"] ** 2 / error**2,
             "compute": n["runs_in"], "reason": n["reason"]}
            for n in ranked
        ],
    }  # fmt: skip


def _casts(nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for before, after in pairwise(nodes):
        if before["runs_in"] != after["runs_in"]:
            yield {
                "value": before["node"], "label": "", "from": before["runs_in"],
                "to": after["runs_in"], "maker": before["node"], "scope": before["scope"],
                "readers": [after["node"]], "bytes": 6 * 4 * 128 * 768, "seconds": 3e-6,
                "clamp": after["runs_in"] == "float16",
            }  # fmt: skip


def _differences(chance: random.Random, nodes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    error = 1e-4
    for n in nodes:
        error = error * math.exp(chance.gauss(0, 0.05)) + 1e-7
        yield {"value": n["node"], "node": n["node"], "op": n["op"], "scope": n["scope"],
               "where": n["where"], "rel_l2": error, "max_abs": error * 3, "absmax": 4.0,
               "before": error}  # fmt: skip


def _parity(chance: random.Random, error: float) -> dict[str, Any]:
    bell = [(e, int(4000 * math.exp(-(((e + 14) / 2) ** 2)))) for e in range(-20, -8)]
    values = [(e, int(4000 * math.exp(-(((e + 3) / 2) ** 2)))) for e in range(-9, 3)]
    return {
        "ok": True, "how": "emulated on ONNX Runtime CPU", "provider": "cpu", "low_nodes": 1,
        "total_nodes": 1, "first_bad": None,
        "outputs": [{
            "output": "logits", "dtype": "float32", "shape": [4, 128, 768], "rel_l2": error,
            "max_abs": error * 5, "sqnr_db": -20 * math.log10(error), "cosine": 0.999999,
            "finite": True, "agree_top1": 1.0, "exact": 0.0, "tolerance": 0.01, "ok": True,
            "samples": 4 * 128 * 768, "reference_rel_l2": 5e-7, "note": "",
            "histogram": {"errors": bell, "values": values, "exact": chance.randrange(50)},
        }],
    }  # fmt: skip


def _hazard(n: dict[str, Any]) -> dict[str, Any]:
    return {
        "code": "AMP603", "name": "square-overflow", "severity": "warning",
        "message": f"the square of {n['node']} leaves the range", "advice": "Scale it.",
        "handled": "kept in FP32 by this plan", "open": False, "nodes": [n["node"]],
        "where": {"node": n["node"], "scope": n["scope"], "text": n["scope"]}, "values": [],
    }  # fmt: skip
