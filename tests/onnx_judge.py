"""Converts a case as a user would get it, and says everything that is wrong with what came out.

Three plans: "rules" is the default, "pinned" allows every node that nothing denies, "forced" allows
every node, so that legality alone keeps float32.
"""

from __future__ import annotations

import functools
import glob
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from ampconvert import element_types
from ampconvert.classify import classify
from ampconvert.cost import load_target
from ampconvert.dtypes import Low
from ampconvert.frontends.onnx import read
from ampconvert.frontends.onnx_apply import apply
from ampconvert.frontends.onnx_run import calibrate
from ampconvert.graph import Graph
from ampconvert.plan import Plan, make_plan
from ampconvert.ranges.calibrate import Range
from ampconvert.rules import LOWS, OpClass, OpRule, RuleBook, load
from ampconvert.verify.emulate import emulate
from ampconvert.verify.runtimes import session
from tests.onnx_cases import CASES, Case

PLANS = ("rules", "pinned", "forced")
TOLERANCE = {"float16": 1e-2, "bfloat16": 8e-2}
ALLOW: dict[Low, OpClass] = dict.fromkeys(LOWS, "allow")
REASONS = ("ampconvert.",)


@dataclass(frozen=True)
class Converted:
    """A model, its plan, and what the plan made of it; `source` has its functions inlined."""

    case: Case
    low: Low
    kind: str
    source: ir.Model
    graph: Graph
    plan: Plan
    result: ir.Model
    before: bytes  # `source` as it was when `apply` was called
    rules: tuple[OpRule, ...]  # those before the built-in ones

    given: onnx.ModelProto  # the model as it came
    proto: onnx.ModelProto  # `result` as it is written; `result` itself says all types

    @cached_property
    def emulated(self) -> onnx.ModelProto:
        return ir.to_proto(emulate(self.result))


def convert(found: Case, low: Low, kind: str = "rules", rules: Sequence[OpRule] = ()) -> Converted:
    """The case read, classified, planned and applied; `rules` stand before the built-in ones."""
    source = inlined(found.model)
    seen = {} if found.runs else _seen(found.name)
    if kind == "rules":
        return _converted(found, low, kind, source, tuple(rules), seen)
    graph = read(source, low)
    verdicts = classify(graph, RuleBook((*rules, *load())), low, seen)
    free = (n for n in graph.nodes if kind == "forced" or verdicts.decisions[n.name].cls != "deny")
    places = tuple(glob.escape(node.name) for node in free)
    pins = (OpRule("pinned", ALLOW, "test", nodes=places, user=True),) if places else ()
    return _converted(found, low, kind, source, (*pins, *rules), seen)


def _converted(
    found: Case,
    low: Low,
    kind: str,
    source: ir.Model,
    rules: tuple[OpRule, ...],
    seen: Mapping[str, Range],
) -> Converted:
    graph = read(source, low)
    verdicts = classify(graph, RuleBook((*rules, *load())), low, seen)
    plan = make_plan(graph, verdicts, low, load_target())
    before = _bytes(source)
    result = apply(source, plan)
    proto = ir.to_proto(result)
    element_types.infer_types(result)
    given = ir.to_proto(inlined(found.model))
    return Converted(found, low, kind, source, graph, plan, result, before, rules, given, proto)


@functools.cache
def _seen(name: str) -> dict[str, Range]:
    """What the values of a case held: the same for every plan."""
    found = CASES[name]
    return calibrate(inlined(found.model), found.feeds, lambda _: None)[0]


def complaints(done: Converted) -> list[str]:
    """Everything that is wrong with a conversion, one line each."""
    found: list[str] = []
    for check in CHECKS:
        label = check.__name__.strip("_").replace("_", " ")
        try:
            found += [f"{label}: {complaint}" for complaint in check(done)]
        except Exception as error:
            found.append(f"{label}: {type(error).__name__}: {error}")
    return found


def _valid(done: Converted) -> Iterator[str]:
    if not done.case.valid:
        onnx.checker.check_model(done.proto, full_check=True)
        onnx.shape_inference.infer_shapes(
            done.proto, check_type=True, strict_mode=True, data_prop=True
        )
    yield from ()


def _loads(done: Converted) -> Iterator[str]:
    if not done.case.runs:
        if done.low == "float16" and not excused(done.case.unloadable, done):
            with session(done.result):
                pass
        opened(done.emulated)
    yield from ()


def _interface(done: Converted) -> Iterator[str]:
    for part in ("input", "output"):
        before = [_declared(v, done.given) for v in getattr(done.given.graph, part)]
        after = [_declared(v, done.given) for v in getattr(done.proto.graph, part)]
        if before != after:
            yield f"{part}s were {before}, are {after}"


def _nodes(done: Converted) -> Iterator[str]:
    before, after = list(done.source.graph.all_nodes()), list(done.result.graph.all_nodes())
    lost = Counter(n.name for n in before if n.name) - Counter(n.name for n in after)
    if lost:
        yield f"lost {dict(lost)}"
    kinds = Counter((n.domain, n.op_type) for n in after)
    kinds.subtract((n.domain, n.op_type) for n in before)
    # A mask that the caller gives is limited before it is cast.
    casts = done.plan.casts
    allowed = {("", "Cast"): len(casts), ("", "Max"): sum(c.clamp for c in casts)}
    for kind, number in kinds.items():
        if number != allowed.get(kind, 0):
            yield f"{number:+d} {kind[1]}, where the plan asks for {allowed.get(kind, 0)}"


def _one_cast_each(done: Converted) -> Iterator[str]:
    """One Cast per value and type, and none that undoes another."""
    old = {n.name for n in done.source.graph.all_nodes()}
    added = [n for n in done.result.graph.all_nodes() if n.op_type == "Cast" and n.name not in old]
    pairs = Counter((n.inputs[0], n.outputs[0].dtype) for n in added)
    yield from (f"{v.name} is cast {k} times to {t}" for (v, t), k in pairs.items() if k > 1)
    for node in added:
        maker = node.inputs[0].producer() if node.inputs[0] is not None else None
        if maker in added:
            yield f"{node.name} casts what {maker.name} cast"


def _loose_weights(done: Converted) -> Iterator[str]:
    kept = {t.name: t for g in _graphs(done.proto.graph) for t in g.initializer}
    for graph in _graphs(done.given.graph):
        read_here = {name for g in _graphs(graph) for n in g.node for name in n.input}
        read_here |= {v.name for g in _graphs(graph) for v in g.output}
        for tensor in graph.initializer:
            if tensor.name not in read_here:
                now = kept.get(tensor.name)
                if now is None or now.data_type != tensor.data_type:
                    yield f"{tensor.name} is gone or has another type"
                elif not _same(*(onnx.numpy_helper.to_array(t) for t in (now, tensor))):
                    yield f"{tensor.name} has other numbers"


def _untouched_source(done: Converted) -> Iterator[str]:
    if _bytes(done.source) != done.before:
        yield "apply changed the model that it was given"


def _classes(done: Converted) -> Iterator[str]:
    """What the case says of the built-in rules' verdicts."""
    if done.kind != "rules":
        return
    for names, wanted in ((done.case.fp32, "float32"), (done.case.low, done.low)):
        for name in names:
            got = done.plan.compute.get(name, "no float32 at all")
            reason = done.plan.decisions[name].reason if name in done.plan.decisions else "no node"
            if got != wanted and not excused(done.case.ruled, done):
                yield f"{name} runs in {got}, not {wanted}: {reason}"


def _numbers(done: Converted) -> Iterator[str]:
    case = done.case
    if case.runs or done.kind == "forced":
        return
    names = [value.name for value in done.given.graph.output]
    shapes_only = bool(case.random or excused(case.differs, done))
    runs = zip(reference(case), answers(done.emulated, case.feeds), strict=True)
    for batch, (wanted, got) in enumerate(runs):
        for name, a, b in zip(names, wanted, got, strict=True):
            exact = name in case.exact and done.kind == "rules"
            for complaint in _apart(a, b, 0.0 if exact else TOLERANCE[done.low], shapes_only):
                yield f"batch {batch}, output {name}: {complaint}"


def _once_is_enough(done: Converted) -> Iterator[str]:
    """By the same rules; what they named is there under the same names."""
    source = ir.from_proto(done.proto)
    seen = {} if done.case.runs else calibrate(source, done.case.feeds, lambda _: None)[0]
    again = _converted(done.case, done.low, done.kind, source, done.rules, seen)
    if plain(again.proto) != plain(done.proto):
        casts = [(c.value, c.to) for c in again.plan.casts]
        names = {n.name for n in again.proto.graph.node} ^ {n.name for n in done.proto.graph.node}
        yield f"converting the result again changes it: casts {casts}, nodes {sorted(names)}"


CHECKS: tuple[Callable[[Converted], Iterator[str]], ...] = (
    _valid,
    _loads,
    _interface,
    _nodes,
    _one_cast_each,
    _loose_weights,
    _untouched_source,
    _classes,
    _numbers,
    _once_is_enough,
)


def excused(table: Mapping[str, str], done: Converted) -> str:
    """The reason that a case gives for this conversion, "" where it gives none."""
    keys = (done.kind, done.low, f"{done.kind}/{done.low}")
    return next((table[key] for key in keys if key in table), "")


@functools.cache
def _reference(name: str) -> list[list[Any]]:
    found = CASES[name]
    # What the user made low already rounds in the reference too.
    return answers(ir.to_proto(emulate(inlined(found.model))), found.feeds)


def reference(found: Case) -> list[list[Any]]:
    """The outputs of the case's own model for each batch, in order."""
    return _reference(found.name)


def answers(model: onnx.ModelProto, feeds: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The outputs of a model for each batch, in order; sequences as lists."""
    running = opened(model)
    kinds = {value.name: value.type for value in running.get_inputs()}
    kinds |= {value.name: value.type for value in running.get_overridable_initializers()}
    return [
        running.run(None, {name: _fitted(given, kinds[name]) for name, given in feed.items()})
        for feed in feeds
    ]


def opened(model: onnx.ModelProto) -> ort.InferenceSession:
    """A session on one thread of the CPU; raises what ONNX Runtime raises."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _fitted(given: Any, kind: str) -> Any:
    low = isinstance(given, np.ndarray) and given.dtype == np.float16
    return given.astype(np.float32) if low and kind == "tensor(float)" else given


def _apart(a: Any, b: Any, tolerance: float, shapes_only: bool) -> Iterator[str]:
    """How two outputs differ; a `tolerance` of 0 asks for the same bits."""
    if isinstance(a, list):
        if len(a) != len(b):
            yield f"{len(b)} elements, not {len(a)}"
        for x, y in zip(a, b, strict=False):
            yield from _apart(x, y, tolerance, shapes_only)
    elif (a.shape, a.dtype) != (b.shape, b.dtype):
        yield f"{b.dtype}{list(b.shape)}, not {a.dtype}{list(a.shape)}"
    elif shapes_only:
        return
    elif a.dtype.kind != "f" or not tolerance:
        if not _same(a, b):
            yield f"not the same: {b.ravel()[:4]}, not {a.ravel()[:4]}"
    else:
        finite = np.isfinite(a)
        if not np.array_equal(finite, np.isfinite(b)) or not _same(a[~finite], b[~finite]):
            yield f"infinite or NaN at other places: {b.ravel()[:4]}, not {a.ravel()[:4]}"
            return
        error = float(np.linalg.norm((a - b)[finite].astype(np.float64)))
        size = float(np.linalg.norm(a[finite].astype(np.float64)))
        if error > tolerance * size:
            yield f"relative error {error / size if size else error:.3g}"


def inlined(proto: onnx.ModelProto) -> ir.Model:
    return element_types.inlined(ir.from_proto(proto))


def _bytes(model: ir.Model) -> bytes:
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def plain(proto: onnx.ModelProto) -> bytes:
    """A model's bytes without what a conversion notes at each node."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for owner in (copy, *(n for g in _graphs(copy.graph) for n in g.node)):
        kept = [e for e in owner.metadata_props if not e.key.startswith(REASONS)]
        del owner.metadata_props[:]
        owner.metadata_props.extend(kept)
    for tensor in copy.graph.initializer:  # onnx_ir writes the metadata of a tensor it read twice
        once = {entry.key: entry for entry in tensor.metadata_props}
        del tensor.metadata_props[:]
        tensor.metadata_props.extend(once.values())
    return bytes(copy.SerializeToString(deterministic=True))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            for inner in [attr.g] if attr.HasField("g") else attr.graphs:
                yield from _graphs(inner)


def _declared(value: onnx.ValueInfoProto, model: onnx.ModelProto) -> tuple[str, bytes]:
    kind = onnx.TypeProto()
    weights = {t.name for t in model.graph.initializer} if model.ir_version < 4 else set()
    if value.name not in weights:  # such an input is a weight that has to be listed
        kind.CopyFrom(value.type)
    return value.name, bytes(kind.SerializeToString(deterministic=True))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def params(*choices: Iterable[str]) -> list[Any]:
    """Every combination of a test's parameters, named by them."""
    return [pytest.param(*chosen, id="-".join(chosen)) for chosen in itertools.product(*choices)]
