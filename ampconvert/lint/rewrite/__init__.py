"""Rewrites an FP32 training script into one that trains in mixed precision.

`rewrite` decides on the tree of `ast` (`script`, `flow`, `regions`, `scalers`, `stepping`, ...),
makes the changes with libcst (`apply`), and checks what came out. Nothing here runs the script.
"""

from __future__ import annotations

from ampconvert.lint.rewrite.entry import rewrite
from ampconvert.lint.rewrite.result import Rewritten, Step

__all__ = ["Rewritten", "Step", "rewrite"]
