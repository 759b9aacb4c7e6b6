"""Whoever has this folder in PYTHONPATH has no torch: importing it raises ImportError."""

import sys
from importlib.abc import MetaPathFinder
from typing import Any


class _WithoutTorch(MetaPathFinder):
    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "torch":
            raise ImportError("no torch: benchmarks/features/scripts/no_torch")


sys.meta_path.insert(0, _WithoutTorch())
