"""Converts a case with ampconvert by one of three plans, and judges the result at once.

| plan | which operators run in the low type |
| --- | --- |
| rules | as a user gets it: rules, ranges of the case's inputs, the cut, repair when parity fails |
| pinned | every operator that no rule and no range denies, neutral ones too |
| forced | every operator wherever ONNX's schemas permit it, against all advice |

pinned and forced show that whatever could be planned is also written and runs; one that is denied
for its numbers may well be wrong when it is forced.
"""

from __future__ import annotations

import glob
import hashlib
import tempfile
import time
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import onnx

from ampconvert import pipeline_onnx
from ampconvert.conversion import Conversion
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.graph import Graph
from ampconvert.plan import Plan
from ampconvert.rules import LOWS, OpRule, RuleBook, load

from .judge import Wanted, judge
from .truth import first_line

PLANS = ("rules", "pinned", "forced")


def measure(folder: Path, *, low: Low, plan: str, engine: str) -> dict[str, Any]:
    """Convert the case in `folder`, file to file, and judge the file that was written.

    Beside the verdict: `refused`, why nothing runs in `low` (empty where something does), `again`
    ("same" where converting the result once more changes nothing), seconds of the conversion,
    `declined`, why it was converted without a check only.
    """
    wanted = _wanted(folder, engine)
    # What ONNX Runtime does not run in FP32 is converted as `--no-verify` does it: without a run.
    feeds = wanted.case.feeds if engine == "onnxruntime" else []
    with tempfile.TemporaryDirectory() as place:
        target = Path(place) / "converted.onnx"
        start = time.perf_counter()
        declined = ""
        try:
            result = convert(folder / "model.onnx", deepcopy(feeds), low, plan, target)
        except UserError as error:  # such as an answer that is NaN in FP32: nothing to compare with
            declined, feeds = str(error), []
            result = convert(folder / "model.onnx", feeds, low, plan, target)
        seconds = time.perf_counter() - start
        model = onnx.load(target)
        again = _again(target, deepcopy(feeds), low, plan)
    found = _verdict(folder, engine, low, model, plan == "rules")
    refused = "" if low in result.plan.compute.values() else why_not(result.plan)
    return {
        **found, "refused": refused, "declined": declined, "again": again, "seconds": seconds,
        "notes": list(result.analysis.notes),
    }  # fmt: skip


def convert(
    source: Path, feeds: Sequence[dict[str, Any]], low: Low, plan: str, target: Path
) -> Conversion:
    """Write the conversion of `source` by `plan`, unverified without `feeds`, to `target`.

    The one place that knows ampconvert's Python API.
    """
    runs = bool(feeds)
    if plan == "rules":
        return pipeline_onnx.convert(source, feeds, dtype=low, verify=runs, out=target)
    if plan == "forced":  # whatever was seen: a user's word is not overruled by ranges
        rules = [_allow(("*",))]
        return pipeline_onnx.convert(source, dtype=low, rules=rules, verify=False, out=target)
    first = pipeline_onnx.analyze(source, feeds, dtype=low, verify=runs)
    pinned = tuple(glob.escape(name) for name in _undenied(first.graph, first.plan, low))
    rules = [_allow(pinned)] if pinned else []
    found = pipeline_onnx.analyze(source, feeds, dtype=low, rules=rules, verify=runs)
    return pipeline_onnx.convert(
        source, dtype=low, rules=rules, plan=found.plan, verify=False, out=target
    )


def _again(source: Path, feeds: Sequence[dict[str, Any]], low: Low, plan: str) -> str:
    target = source.with_name("twice.onnx")
    try:
        convert(source, feeds, low, plan, target)
    except Exception as error:  # the reason is the finding
        return first_line(error)
    return "same" if bare(onnx.load(source)) == bare(onnx.load(target)) else "changed"


def why_not(plan: Plan) -> str:
    """Why nothing runs in the low type, for a plan in which nothing does."""
    if not plan.compute:
        return "no operator touches a float32 tensor"
    reasons = set()
    for name in plan.compute:
        decision = plan.decisions[name]
        if decision.cls != "deny":
            reasons.add("neutral with nothing around it to follow")
        elif decision.rule == "fixed-type":
            reasons.add("no float operand may be low")
        elif decision.evidence == "rule":
            reasons.add(f"rule {decision.rule}")
        else:
            reasons.add(f"values: {decision.rule}")
    return ", ".join(sorted(reasons))


def bare(model: onnx.ModelProto) -> bytes:
    """What a model computes, serialised: without metadata, documentation and inferred shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _strip(copy)
    return bytes(copy.SerializeToString(deterministic=True))


def _strip(message: Any) -> None:
    for name in ("metadata_props", "doc_string", "value_info"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                _strip(part)


def _allow(names: tuple[str, ...]) -> OpRule:
    classes: Any = dict.fromkeys(LOWS, "allow")
    return OpRule("conformance", classes, "to see it run", nodes=names, user=True)


def _undenied(graph: Graph, plan: Plan, low: Low) -> list[str]:
    """Nodes that rules and ranges leave free, also where the opset at hand does not."""
    book = RuleBook(load())
    names = []
    for node in graph.nodes:
        decision = plan.decisions[node.name]
        rule = book.match(node, graph, low) if decision.rule == "fixed-type" else None
        if decision.cls != "deny" or (rule is not None and rule.class_for(low) != "deny"):
            names.append(node.name)
    return names


@lru_cache(maxsize=1)
def _wanted(folder: Path, engine: str) -> Wanted:
    return Wanted(folder, engine)


_seen: dict[tuple[Path, Low, bool, str], dict[str, Any]] = {}


def _verdict(
    folder: Path, engine: str, low: Low, model: onnx.ModelProto, exact: bool
) -> dict[str, Any]:
    """The verdict; plans often come to the same model, which is judged once."""
    digest = hashlib.sha256(bare(model)).hexdigest()
    key = (folder, low, exact, digest)
    if key not in _seen:
        if _seen and next(iter(_seen))[0] != folder:
            _seen.clear()
        _seen[key] = judge(model, _wanted(folder, engine), low, exact=exact)
    return _seen[key]
