"""What a converted file has to be: the same checks for ampconvert's files and for the peers'."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.conformance import truth
from benchmarks.conformance.case import Case, nodes, store
from benchmarks.conformance.judge import Wanted
from benchmarks.conformance.judge import judge as judge_case
from benchmarks.features.cells import FileCheck, PartlyMetError, Ran, RunCheck, UnmetError
from benchmarks.onnx_counts import cast_count

LOW = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
Feeds = list[dict[str, np.ndarray[Any, Any]]]


def sound(low: str = "float16", *, must_lower: bool = True) -> FileCheck:
    """The file passes the full checker, keeps its interface, loads, and agrees when emulated."""

    def check(source: Path, target: Path, log: str) -> str:
        found = judged(source, target, low)
        if found["why"]:
            raise UnmetError(_brief(found["why"]))
        if must_lower and not found["converted"]:
            raise UnmetError(f"no tensor is {low}")
        error = found["rel_l2"]
        told = "" if error is None else f", relative L2 error {error:.1e} emulated"
        return f"passes the full checker, loads{told}"

    return check


def stays_right(source: Path, target: Path, log: str) -> str:
    """As `sound`, for a model that may rightly stay in FP32."""
    return sound(must_lower=False)(source, target, log)


def in_bodies(source: Path, target: Path, log: str) -> str:
    """Sound, and something inside a body of If, Loop or Scan runs in the low type."""
    said = sound()(source, target, log)
    model = onnx.load(target)
    for node in model.graph.node:
        for attribute in node.attribute:
            inner = onnx.helper.make_model(attribute.g, opset_imports=list(model.opset_import))
            if attribute.g.node and _mentions_low(attribute.g, model, inner):
                return f"{said}; the bodies hold FP16"
    raise PartlyMetError(f"{said}, but the bodies are left in FP32")


def blocked(op: str) -> FileCheck:
    """Sound, and every node of `op` makes float32, while something else is float16."""

    def check(source: Path, target: Path, log: str) -> str:
        said = sound()(source, target, log)
        types = _types(onnx.load(target))
        found = [types.get(n.output[0]) for n in nodes(onnx.load(target)) if n.op_type == op]
        if not found or any(kind in LOW for kind in found):
            raise UnmetError(f"{op} runs in the low type")
        return f"{op} stays in FP32; {said}"

    return check


def few_casts(most: int) -> FileCheck:
    """Sound, with at most `most` casts between FP16 and FP32, all of the file counted."""

    def check(source: Path, target: Path, log: str) -> str:
        said = sound()(source, target, log)
        count = cast_count(onnx.load(target), "float16")
        if count > most:
            raise UnmetError(f"{count} casts where {most} are enough; {said}")
        return f"{count} casts, the fewest that there can be; {said}"

    return check


def io_is(kinds: dict[str, int]) -> FileCheck:
    """These inputs and outputs have these element types, and the file is valid and loads."""

    def check(source: Path, target: Path, log: str) -> str:
        model = onnx.load(target)
        onnx.checker.check_model(model, full_check=True)
        values = (*model.graph.input, *model.graph.output)
        found = {v.name: v.type.tensor_type.elem_type for v in values}
        wrong = {n: found.get(n) for n, kind in kinds.items() if found.get(n) != kind}
        if wrong:
            raise UnmetError(f"types are {found}")
        return "the types that were asked for, and the file passes the full checker"

    return check


def holds(*ops: str) -> FileCheck:
    """The file has a node of one of `ops`."""

    def check(source: Path, target: Path, log: str) -> str:
        found = [node.op_type for node in nodes(onnx.load(target))]
        hits = [op for op in ops if op in found]
        if not hits:
            raise UnmetError(f"its nodes are {', '.join(sorted(set(found)))}")
        return f"the file has {', '.join(hits)}"

    return check


def training_info_kept(source: Path, target: Path, log: str) -> str:
    """training_info is in the file still."""
    if not onnx.load(target).training_info:
        raise UnmetError("training_info is dropped")
    return "training_info is in the file still"


def names_kept_nodes(source: Path, target: Path, log: str) -> str:
    """What the tool printed names each node that it kept in FP32: a reason for these, not for all.

    Raises PartlyMetError where it does, UnmetError where a node that stays in FP32 is not named.
    """
    types = _types(onnx.load(target))
    names = {node.name for node in nodes(onnx.load(source)) if node.name}
    kept = [
        node.name
        for node in nodes(onnx.load(target))
        if node.name in names and types.get(node.output[0]) == onnx.TensorProto.FLOAT
    ]
    missing = [name for name in kept if name not in log]
    if missing or not kept:
        told = f"nothing that it prints names {missing[0]}" if missing else "nothing stays in FP32"
        raise UnmetError(told)
    line = next(line.strip() for line in log.splitlines() if kept[0] in line)
    raise PartlyMetError(f"logs why for the {len(kept)} nodes that stay in FP32: {line[:110]!r}")


def inside(tolerance: float) -> FileCheck:
    """Sound, and the emulated error is at most `tolerance`; a sound file outside is a part."""

    def check(source: Path, target: Path, log: str) -> str:
        said = sound()(source, target, log)
        error = judged(source, target, "float16")["rel_l2"]
        if error > tolerance:
            raise PartlyMetError(
                f"it searches, and judges on ONNX Runtime's CPU provider; emulated, the error is "
                f"{error:.1e}, above {tolerance:g}"
            )
        return said

    return check


def file(source: str, target: str, check: FileCheck) -> RunCheck:
    """A check of a converted file as a check of the commands that wrote it."""
    return lambda ran: check(ran.folder / source, ran.folder / target, ran.outs[-1])


def says(*words: str, stderr: bool = False) -> RunCheck:
    """The last command printed all of these, white space aside; the first is the evidence."""

    def check(ran: Ran) -> str:
        text = ran.error if stderr else ran.out
        missing = [word for word in words if word not in text]
        if missing:
            raise UnmetError(f"it does not say {missing[0]!r}: {text[:160]}")
        return f"prints {words[0]!r}"

    return check


def json_says(read: Callable[[Any], str]) -> RunCheck:
    """`read` makes the evidence of the JSON that the last command printed, or raises UnmetError."""
    return lambda ran: read(ran.json)


def all_of(*checks: RunCheck) -> RunCheck:
    """Every check has to hold; their evidence is joined."""
    return lambda ran: "; ".join(check(ran) for check in checks)


def judged(source: Path, target: Path, low: str) -> dict[str, Any]:
    """The conformance benchmark's verdict on a file, with the data of NAME-data/."""
    feeds: Feeds = [
        dict(np.load(path)) for path in sorted(source.with_name(f"{source.stem}-data").glob("*"))
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = store(Case(source.stem, "features", onnx.load(source), feeds), Path(scratch))
        base = truth.measure(folder)
        return judge_case(onnx.load(target), Wanted(folder, base["engine"]), low)  # type: ignore[arg-type]


def _mentions_low(graph: Any, model: Any, inner: Any) -> bool:
    values = (*graph.value_info, *graph.input, *graph.output)
    if any(v.type.tensor_type.elem_type in LOW for v in values):
        return True
    weights = {t.name for t in model.graph.initializer if t.data_type in LOW}
    reads = {name for node in nodes(inner) for name in node.input}
    casts = (n for n in nodes(inner) if n.op_type == "Cast")
    return bool(weights & reads) or any(
        attribute.i in LOW for node in casts for attribute in node.attribute
    )


def _types(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values}


def _brief(text: str) -> str:
    """An error's first words: what failed, without the paths and tables that follow."""
    return " ".join(text.split())[:170]
