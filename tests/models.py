"""Small PyTorch models, each with one thing that is hard to convert, under their names in CASES."""

from tests import models_forms, models_networks
from tests.cases import CASES, Case, Fn, anything, build, captured, plan_for, tensors

__all__ = [
    "CASES", "Case", "Fn", "anything", "build", "captured", "models_forms", "models_networks",
    "plan_for", "tensors",
]  # fmt: skip
