"""The kernels that an installed ONNX Runtime has, by its own registry.

`get_all_opkernel_def` is what ONNX Runtime's docs/OperatorKernels.md is generated from. The page
merges the types of all kernels of an operator; the registry says which types go together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

OPEN_END = 2**31 - 1
# Domains whose nodes stand in model files; ONNX Runtime makes the others itself when it optimises.
DOMAINS = ("", "ai.onnx.ml", "com.microsoft")

Op = tuple[str, str]  # domain, name; ONNX's own domain is ""
Bound = Mapping[str, str]  # element type ("float16") by type variable ("T")


@dataclass(frozen=True)
class Kernel:
    """One kernel: the schema versions it serves, and the element types of each type variable."""

    first: int
    last: int
    types: Mapping[str, frozenset[str]]

    def serves(self, since: int) -> bool:
        """Whether it serves the schema of version `since`.

        One without an end serves the schema it was written for and no later one, as ONNX Runtime
        matches them.
        """
        return since == self.first or (self.last != OPEN_END and self.first <= since <= self.last)

    def takes(self, bound: Bound) -> bool:
        """Whether it runs with these types; a variable that it does not speak of is free."""
        return all(v not in self.types or t in self.types[v] for v, t in bound.items())


@dataclass(frozen=True)
class Schema:
    """What a schema says of types: operands as (name, type variable), and what a variable may
    be.
    """

    since: int
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    allowed: Mapping[str, frozenset[str]]

    def changing(self, low: str) -> dict[str, list[str]]:
        """The type variables that can be float32 and can be `low`, with the operands they type.

        Those of the operands; those of the results, with no operand, where no operand can change.
        """
        found: dict[str, list[str]] = {}
        for name, variable in self.inputs:
            if {"float", low} <= self.allowed.get(variable, frozenset()):
                found.setdefault(variable, []).append(name)
        results = [v for _, v in self.outputs if {"float", low} <= self.allowed.get(v, frozenset())]
        return found or {variable: [] for variable in results}


class Registry:
    """An installed ONNX Runtime: its kernels by provider, and its schemas."""

    def __init__(self) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        self.version: str = onnxruntime.__version__
        self.kernels: dict[str, dict[Op, list[Kernel]]] = defaultdict(lambda: defaultdict(list))
        for k in state.get_all_opkernel_def():
            types = {name: elements(found) for name, found in k.type_constraints.items()}
            first, last = k.version_range
            kernel = Kernel(first, last, types)
            self.kernels[k.provider][k.domain, k.op_name].append(kernel)
        self._raw = [s for s in state.get_all_operator_schema() if s.domain in DOMAINS]

    @cached_property
    def schemas(self) -> dict[Op, dict[int, Schema | None]]:
        """Schemas by operator and version; None from where the operator was withdrawn."""
        found: dict[Op, dict[int, Schema | None]] = defaultdict(dict)
        for raw in self._raw:
            found[raw.domain, raw.name][raw.since_version] = _schema(raw)
        return found

    @cached_property
    def opset(self) -> int:
        """ONNX's newest opset in this build."""
        return max(int(raw.since_version) for raw in self._raw if raw.domain == "")

    def schema(self, op: Op, opset: int) -> Schema | None:
        """The schema of `op` at ONNX's `opset`; another domain's newest."""
        versions = self.schemas[op]
        fitting = [v for v in versions if op[0] or v <= opset]
        return versions[max(fitting)] if fitting else None

    def runs(self, provider: str, op: Op, since: int, bound: Bound) -> bool:
        """Whether `provider` has a kernel for `op` with its type variables bound like this."""
        return any(k.serves(since) and k.takes(bound) for k in self.kernels[provider][op])


def elements(types: Iterable[str]) -> frozenset[str]:
    """Element types of "tensor(float16)" and "seq(tensor(float16))": float16."""
    return frozenset(e for t in types for e in re.findall(r"tensor\((\w+)\)", t))


def _schema(raw: Any) -> Schema | None:
    if raw.deprecated:
        return None
    return Schema(
        raw.since_version,
        tuple((p.name, p.typeStr) for p in raw.inputs),
        tuple((p.name, p.typeStr) for p in raw.outputs),
        {c.type_param_str: elements(c.allowed_type_strs) for c in raw.type_constraints},
    )
