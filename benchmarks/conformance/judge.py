"""Judges a converted model of a case, ours or a peer's, by the same measures.

| measure | meaning |
| --- | --- |
| converted | more tensors are of a low type than in the case's model |
| valid | onnx.checker with full_check |
| io | inputs and outputs have their names, order and types still |
| loads | ONNX Runtime's CPU provider makes a session; for bfloat16, of the emulated model |
| ort | it runs there and agrees with the truth; None for bfloat16, which has no kernels there |
| emulated | the emulated model, which rounds what is stored in the low type, agrees |
| rel_l2 | the emulated model's largest relative L2 error of an output |

`why` is the first of them that is wrong. A step that does not apply is None.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.element_types import is_low, stores_low, typed
from ampconvert.verify.emulate import emulate
from ampconvert.verify.metrics import compare, default_tolerance

from .case import Case, fetch, nodes
from .run import Flat, answers, loads
from .truth import first_line, is_random, truth

EMULATED_FROM = 7  # opset; below, float16 models are judged by how they run alone
NUMPY: dict[Low, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def measure(folder: Path, *, low: Low, file: str, engine: str) -> dict[str, Any]:
    """Judge `file` in a case's folder and remove it; its own JSON says whether it was written."""
    path = folder / file
    if not path.exists():
        return {"absent": True}
    try:
        return judge(onnx.load(path), Wanted(folder, engine), low)
    finally:
        path.unlink()


class Wanted:
    """A case with the answers that are wanted of its conversions.

    `engine` runs it: "onnxruntime", "reference" (ONNX's evaluator), or "" where neither does.
    """

    def __init__(self, folder: Path, engine: str) -> None:
        self.case: Case = fetch(folder)
        self.engine = engine
        self.truth = truth(folder) if engine else None
        self.random = is_random(self.case.model)
        self._rounded: dict[Low, list[Flat]] = {}

    def outputs(self, model: onnx.ModelProto) -> list[Flat]:
        """What `model` answers to the case's inputs.

        A conversion may be at another opset, which ONNX Runtime runs where it did not run the case:
        ONNX's evaluator stands in only where it still does not.
        """
        if self.engine == "reference":
            with suppress(Exception):
                return answers(model, self.case.feeds)
        return answers(model, self.case.feeds, reference=self.engine == "reference")

    def rounded(self, low: Low) -> list[Flat]:
        """What the FP32 model answers to inputs that were rounded to `low`."""
        if low not in self._rounded:
            feeds = [{name: _round(v, low) for name, v in f.items()} for f in self.case.feeds]
            reference = self.engine == "reference"
            self._rounded[low] = answers(self.case.model, feeds, reference=reference)
        return self._rounded[low]


def judge(
    model: onnx.ModelProto, wanted: Wanted, low: Low, *, exact: bool = True
) -> dict[str, Any]:
    """Every measure of `model`, a conversion of the case to `low`.

    `exact`: integers and booleans have to be those of the FP32 model. Without it they may be those
    that it gives for rounded inputs: what an index is of, or a comparison, is then as good.
    """
    found: dict[str, Any] = {"converted": None, "rel_l2": None, "why": ""}
    emulated: list[onnx.ModelProto] = []

    def count() -> None:
        before, after = (_low_tensors(m) for m in (wanted.case.model, model))
        found["converted"] = after > before

    def load() -> None:
        if low == "bfloat16":
            emulated.append(_emulated(model))
        loads(emulated[0] if emulated else model)

    def run_ort() -> None:
        _agree(wanted, wanted.outputs(model), low, exact)

    def run_emulated() -> None:
        if not emulated:
            emulated.append(_emulated(model))
        found["rel_l2"] = _agree(wanted, wanted.outputs(emulated[0]), low, exact)

    steps: tuple[tuple[str, Callable[[], None], bool], ...] = (
        ("counted", count, True),
        ("valid", lambda: onnx.checker.check_model(model, full_check=True), True),
        ("io", lambda: _same_interface(wanted.case.model, model), True),
        ("loads", load, wanted.engine == "onnxruntime"),
        ("ort", run_ort, wanted.engine == "onnxruntime" and low == "float16"),
        ("emulated", run_emulated, wanted.engine != "" and _opset(model) >= EMULATED_FROM),
    )
    for name, step, applies in steps:
        found[name] = None
        if applies:
            try:
                step()
                found[name] = True
            except Exception as error:  # the reason is the verdict
                found[name] = False
                if name != "counted":  # a file that is too broken to be counted fails a check too
                    found["why"] = found["why"] or f"{name}: {first_line(error)}"
    return found


def _low_tensors(model: onnx.ModelProto) -> int:
    """How many results, weights and inputs are float16 or bfloat16, bodies included."""
    found = typed(ir.from_proto(model))
    graphs = (found.graph, *found.graph.subgraphs())
    outside = (v for g in graphs for v in (*g.inputs, *g.initializers.values()))
    made = (v for node in found.graph.all_nodes() for v in node.outputs)
    return sum(is_low(value) for value in (*outside, *made))


def _emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The emulated model, its nodes named anew: no model's names may clash with what it adds."""
    parsed = ir.from_proto(model)
    if not stores_low(typed(parsed)):
        return model
    proto = ir.to_proto(emulate(parsed))
    for i, node in enumerate(nodes(proto)):
        node.name = f"{i}/{node.name}"
    return proto


def _opset(model: onnx.ModelProto) -> int:
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    return versions[0] if versions else EMULATED_FROM


def _same_interface(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    for kind in ("input", "output"):
        own = [(v.name, _elements(v.type)) for v in getattr(before.graph, kind)]
        new = [(v.name, _elements(v.type)) for v in getattr(after.graph, kind)]
        if kind == "input":  # a converter may take the stored weights off the list of inputs
            weights = {w.name for w in (*before.graph.initializer, *after.graph.initializer)}
            own, new = ([v for v in side if v[0] not in weights] for side in (own, new))
        if own != new:
            odd = next((pair for pair in zip(own, new, strict=False) if pair[0] != pair[1]), None)
            raise ValueError(f"{kind}s differ: {odd or (len(own), len(new))}")


def _elements(kind: onnx.TypeProto) -> str:
    """A type without its shapes."""
    form = kind.WhichOneof("value") or "none"
    if form in ("sequence_type", "optional_type"):
        return f"{form}({_elements(getattr(kind, form).elem_type)})"
    return f"{form} {getattr(getattr(kind, form), 'elem_type', '')}" if form != "none" else form


def _agree(wanted: Wanted, outputs: list[Flat], low: Low, exact: bool) -> float:
    """The largest relative error; ValueError for the first output that is not what it should be."""
    assert wanted.truth is not None
    largest = 0.0
    for batch, (truth_, found) in enumerate(zip(wanted.truth, outputs, strict=True)):
        if truth_.keys() != found.keys():
            raise ValueError(f"the outputs are {sorted(found)}, not {sorted(truth_)}")
        for name, array in truth_.items():
            error, note = _distance(name, array, found[name], low, wanted.random)
            if note and not exact and array.dtype.kind in "iub":
                other = wanted.rounded(low)[batch][name]
                error, note = _distance(name, other, found[name], low, wanted.random)
            if note:
                raise ValueError(f"{name}: {note}")
            largest = max(largest, error)
    return largest


def _distance(
    name: str, wanted: np.ndarray[Any, Any], found: np.ndarray[Any, Any], low: Low, random: bool
) -> tuple[float, str]:
    """Relative L2 error, and what is wrong, empty when nothing is."""
    if random:
        same = wanted.shape == found.shape and wanted.dtype == found.dtype
        return 0.0, "" if same else f"{found.dtype}{list(found.shape)}"
    if wanted.dtype.kind in "OSU":
        equal = wanted.shape == found.shape and bool((wanted == found).all())
        return 0.0, "" if equal else "the texts differ"
    parity = compare(name, [wanted], [found], default_tolerance(low))
    if parity.ok or (wanted.shape == found.shape and parity.exact == 1.0):  # NaN everywhere
        return (parity.rel_l2 if wanted.dtype.kind == "f" else 0.0), ""
    return 0.0, parity.note or f"{wanted.size} elements, NaN in both"


def _round(value: Any, low: Low) -> Any:
    if isinstance(value, list):
        return [_round(item, low) for item in value]
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        with np.errstate(over="ignore"):
            return value.astype(NUMPY[low]).astype(np.float32)
    return value
