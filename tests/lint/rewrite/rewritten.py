"""What tests of the rewriter share: the scripts, and results without what all have at the top."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ampconvert.lint.rewrite import rewrite

SCRIPTS = sorted(
    p for p in (Path(__file__).parent / "scripts").glob("*.py") if not p.name.startswith("keras_")
)
HEAD = """\
import torch
from torch import nn
"""
TOP = """\
import os

AMP_ENABLED = os.environ.get("AMP_ENABLED", "1") != "0"  # AMP_ENABLED=0 runs all in float32
AMP_DTYPE = torch.float16
"""
AUTOCAST = 'with torch.amp.autocast("cpu", dtype=AMP_DTYPE, enabled=AMP_ENABLED):'
MADE = 'scaler = torch.amp.GradScaler("cpu", enabled=AMP_ENABLED)'


def after(text: str, dtype: Literal["float16", "bfloat16"] = "float16") -> str:
    """The new script without what every one gets at its top."""
    done = rewrite(HEAD + text, "train.py", dtype=dtype)
    top = TOP.replace("float16", dtype)
    assert done.text.startswith(HEAD) and done.text.count(top) == 1
    return done.text.removeprefix(HEAD).replace(top, "")
