"""Which operators a runtime has no float16 or bfloat16 kernel for, as rules/targets/*.toml says.

`python -m benchmarks.kernels` writes the lists from the runtime's own tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ampconvert.dtypes import SPELLINGS, Low

Opsets = tuple[tuple[int, float], ...]  # first and last, both counted; infinity is no end

_ENTRY = re.compile(r"(?P<op>[\w.:]+)(?:@(?P<first>\d+)(?P<more>\+|-(?P<last>\d+))?)?")
_EVERY: Opsets = ((0, float("inf")),)


@dataclass(frozen=True)
class Kernels:
    """The operators that one runtime has no kernel for, by low type, with ONNX's opsets where that
    holds.

    `elsewhere`: the model loads, but the operator runs on another provider. `nowhere`: the model
    would not load. `unsupported` runs in no type at all, so that no conversion can help.
    """

    version: str = ""
    source: str = ""
    elsewhere: Mapping[Low, Mapping[str, Opsets]] = field(default_factory=dict)
    nowhere: Mapping[Low, Mapping[str, Opsets]] = field(default_factory=dict)
    unsupported: frozenset[str] = frozenset()
    reasons: Mapping[str, str] = field(default_factory=dict)

    def refuses(self, op: str, low: Low, insisted: bool = False, opset: int | None = None) -> str:
        """Why `op` ("onnx::Conv", "com.microsoft::Gelu") has to stay float32; "" where it has not.

        `insisted`: the user asked for `low`, so that only what would not load is refused. `opset`
        is the model's version of ONNX's own operators; None takes the newest.
        """
        if _holds(self.nowhere.get(low, {}), op, opset):
            return self._reason("nowhere", op, low)
        if not insisted and _holds(self.elsewhere.get(low, {}), op, opset):
            return self._reason("elsewhere", op, low)
        return ""

    def lacks(self, op: str) -> str:
        """Why `op` runs in no type at all on this runtime; "" where it does, or none knows."""
        return self._reason("unsupported", op, "") if op in self.unsupported else ""

    def _reason(self, why: str, op: str, low: str) -> str:
        name = op.removeprefix("onnx::")
        return self.reasons[why].format(op=name, low=low, version=self.version)


def kernels_in(table: Mapping[str, Any]) -> Kernels:
    """What a target's file says of kernels; none are missing where it says nothing."""
    about = table.get("kernels", {})
    return Kernels(
        about.get("version", ""),
        about.get("source", ""),
        _lists(table.get("elsewhere", {})),
        _lists(table.get("nowhere", {})),
        frozenset(_entries(table.get("unsupported", {}).get("ops", ()))),
        table.get("reasons", {}),
    )


def _lists(table: Mapping[str, Sequence[str]]) -> dict[Low, dict[str, Opsets]]:
    return {SPELLINGS[low]: _entries(names) for low, names in table.items()}


def _entries(names: Sequence[str]) -> dict[str, Opsets]:
    """Opsets by operator, from "Acos", "Clip@7-11", "MaxPool@22+" and "Sign@9"."""
    found: dict[str, Opsets] = {}
    for name in names:
        entry = _ENTRY.fullmatch(name)
        if entry is None:
            raise ValueError(f"{name!r} is no operator with opsets, such as MaxPool@22+")
        op = entry["op"] if "::" in entry["op"] else f"onnx::{entry['op']}"
        found[op] = (*found.get(op, ()), *(_span(entry) if entry["first"] else _EVERY))
    return found


def _span(entry: re.Match[str]) -> Opsets:
    first = int(entry["first"])
    if entry["more"] == "+":
        return ((first, float("inf")),)
    return ((first, int(entry["last"] or first)),)


def _holds(lists: Mapping[str, Opsets], op: str, opset: int | None) -> bool:
    version = float("inf") if opset is None else opset
    return any(first <= version <= last for first, last in lists.get(op, ()))
