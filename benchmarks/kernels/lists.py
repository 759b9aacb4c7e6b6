"""What a target lacks, worked out for every operator, opset and low type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx

from ampconvert.rules import load
from benchmarks.kernels.functions import body_runs
from benchmarks.kernels.registry import Bound, Op, Registry

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FIRST_OPSET = 7
LOWS = ("float16", "bfloat16")

# Where an operator runs in a low type: on the target; on another provider or, in float16, in
# float32 between casts that ONNX Runtime adds; nowhere. None: it has no float32 operand that could
# be low, or does not run in float32 either.
Place = Literal["there", "elsewhere", "nowhere"] | None


OpRuns = Callable[[Op, int, Bound], bool]  # operator, its schema's version, its types


@dataclass(frozen=True)
class Build:
    """One build of ONNX Runtime as a model's place to run, its providers in order of preference."""

    registry: Registry
    providers: tuple[str, ...]

    def place(self, op: Op, opset: int, low: str) -> Place:
        """Where `op` of ONNX's `opset` runs with its float operands in `low`."""
        schema = self.registry.schema(op, opset)
        changing = schema.changing(low) if schema is not None else {}
        if schema is None or not changing or not self._runs_in_float32(op, schema.since, opset):
            return None
        known = self._known_as_float(op, schema.since, changing)
        kept = _kept(op)
        bound = {
            variable: "float" if operands and kept.issuperset(operands) else low
            for variable, operands in changing.items()
            if variable in known
        }
        if low not in bound.values():
            return None
        if self._runs_there(op, schema.since, bound):
            return "there"
        if self._body_runs(op, opset, low, self._runs_there):
            return "there"
        if self.registry.runs(CPU, op, schema.since, bound):
            return "elsewhere"
        body = self._body_runs(op, opset, low, self._loads)
        if body is None:
            body = any(changing.values()) and self._runs_between_casts(op, schema.since, bound)
        return "elsewhere" if body else "nowhere"

    def _known_as_float(self, op: Op, since: int, variables: Mapping[str, object]) -> list[str]:
        """Those of `variables` that the first provider with a kernel knows as float32.

        The others never are: the indices of OneHot could be float by its schema.
        """
        for provider in self.providers:
            kernels = [k for k in self.registry.kernels[provider][op] if k.serves(since)]
            if kernels:
                full = {"float"}
                return [v for v in variables if any(full <= k.types.get(v, full) for k in kernels)]
        return list(variables)

    def _body_runs(self, op: Op, opset: int, element: str, runs: OpRuns) -> bool | None:
        if op[0]:
            return None
        return body_runs(
            op[1], opset, element,
            lambda node, since, bound: runs(_op(node), since, bound),
            lambda node, since, bound: self._loads(_op(node), since, bound),
        )  # fmt: skip

    def _runs_there(self, op: Op, since: int, bound: Bound) -> bool:
        """On the target itself; what touches no float may run on any provider."""
        floats = {"float", "double", *LOWS} & set(bound.values())
        places = self.providers[:1] if floats else self.providers
        return any(self.registry.runs(p, op, since, bound) for p in places)

    def _loads(self, op: Op, since: int, bound: Bound) -> bool:
        native = any(self.registry.runs(p, op, since, bound) for p in self.providers)
        return native or self._runs_between_casts(op, since, bound)

    def _runs_between_casts(self, op: Op, since: int, bound: Bound) -> bool:
        """ONNX Runtime casts float16 operands to float32 for the CPU's kernels; bfloat16 never."""
        if "float16" not in bound.values():
            return False
        full = {v: "float" if t == "float16" else t for v, t in bound.items()}
        return self.registry.runs(CPU, op, since, full)

    def _runs_in_float32(self, op: Op, since: int, opset: int) -> bool:
        kernels = [k for p in self.providers for k in self.registry.kernels[p][op]]
        return any(k.serves(since) for k in kernels) or bool(
            self._body_runs(op, opset, "float", self._loads)
        )

    def places(self, low: str) -> Iterator[tuple[Op, Mapping[int, Place]]]:
        """Every operator that can be `low` and where it runs at each opset."""
        for op in sorted(self.registry.schemas):
            if not op[0] and not onnx.defs.has(op[1]):  # TensorRT's plugins, ONNX's first trials
                continue
            opsets = range(FIRST_OPSET, self.registry.opset + 1) if not op[0] else (FIRST_OPSET,)
            found = {opset: self.place(op, opset, low) for opset in opsets}
            if any(found.values()):
                yield op, found


def lacking(build: Build, low: str, place: Place) -> list[str]:
    """The operators that run at `place`, with the opsets where they do: "Acos", "MaxPool@22+"."""
    return [
        spelled for op, found in build.places(low) for spelled in _spelled(op, found, place)
    ]  # fmt: skip


def _spelled(op: Op, found: Mapping[int, Place], place: Place) -> list[str]:
    name = f"{op[0]}::{op[1]}" if op[0] else op[1]
    spans = _spans(found)
    mine = [(first, last) for first, last, where in spans if where == place]
    if len(mine) == len(spans):
        return [name] if spans else []
    newest = max(found)
    return [
        f"{name}@{first}+" if last == newest
        else f"{name}@{first}" if first == last
        else f"{name}@{first}-{last}"
        for first, last in mine
    ]  # fmt: skip


def _spans(found: Mapping[int, Place]) -> list[tuple[int, int, Place]]:
    """Opsets of one answer as (first, last, answer); where there is none, the one before holds."""
    spans: list[tuple[int, int, Place]] = []
    for opset, where in sorted(found.items()):
        if spans and where in (None, spans[-1][2]):
            spans[-1] = (spans[-1][0], opset, spans[-1][2])
        elif where is not None:
            spans.append((opset, opset, where))
    return spans


def _kept(op: Op) -> set[str]:
    """Operands that the rules keep in float32 whatever the operator runs in."""
    spelled = f"{op[0] or 'onnx'}::{op[1]}"
    return {name for rule in load() if spelled in rule.operators() for name in rule.keep_inputs}


def _op(node: onnx.NodeProto) -> Op:
    return (node.domain, node.op_type)


def wrapped(names: Sequence[str], width: int = 100) -> str:
    """A TOML array of strings over lines of at most `width` columns."""
    if not names:
        return "[]"
    lines, line = ["["], "   "
    for name in names:
        if len(line) + len(name) + 4 > width:
            lines.append(line)
            line = "   "
        line += f' "{name}",'
    return "\n".join([*lines, line, "]"])
