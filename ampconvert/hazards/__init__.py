"""Numerical hazards of a model: what goes wrong in float16 or bfloat16 by the way it is written.

One hazard is one class in one file of this folder. All of them read the core Graph through the
vocabulary of `ampconvert.functions`, so they hold for PyTorch and ONNX models alike.
"""

from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.search import all_hazards, find

__all__ = ["Case", "Hazard", "all_hazards", "find"]
