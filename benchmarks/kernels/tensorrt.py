"""What onnx-tensorrt's docs/operators.md says of types: its support matrix, row by row."""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPES = {"float16": "FP16", "bfloat16": "BF16"}
_ROW = re.compile(r"\| *(\w+) *\| *([YN])\b[^|]*\|([^|]*)")
_VERSION = re.compile(r"TensorRT ([\d.]+) supports operators")


@dataclass(frozen=True)
class Matrix:
    """The support matrix of one TensorRT: types by operator; no types where it has none."""

    version: str
    rows: dict[str, frozenset[str]]

    def without(self, low: str) -> list[str]:
        """Operators that take FP32 and not `low`."""
        return sorted(op for op, t in self.rows.items() if "FP32" in t and TYPES[low] not in t)

    @property
    def unsupported(self) -> list[str]:
        """Operators that TensorRT has not at all, in any type."""
        return sorted(op for op, types in self.rows.items() if not types)


def read_matrix(text: str) -> Matrix:
    """The matrix in operators.md; ValueError where the page is no such matrix."""
    version = _VERSION.search(text)
    rows = {
        op: frozenset(re.findall(r"\w+", types)) if mark == "Y" else frozenset()
        for op, mark, types in _ROW.findall(text)
    }
    if version is None or not rows:
        raise ValueError("this is no docs/operators.md of onnx-tensorrt")
    return Matrix(version[1], rows)
