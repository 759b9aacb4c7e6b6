"""The options of `ampconvert rewrite`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ampconvert.commands.argument_types import low_type


def rewrite_options(sub: argparse.ArgumentParser) -> None:
    """Which script, in which type, and whether to write it."""
    sub.add_argument("script", type=Path, metavar="TRAIN.py", help="a training script in FP32")
    sub.add_argument(
        "--write",
        action="store_true",
        help="replace the script; without it the change is shown and nothing written",
    )
    sub.add_argument(
        "--dtype",
        type=low_type,
        default="float16",
        metavar="fp16|bf16",
        help="fp16 with a gradient scaler (the default), or bf16 without",
    )
    sub.add_argument(
        "--style",
        choices=("amp", "ampconvert"),
        default="amp",
        help="amp: torch.amp, needs only PyTorch (the default); ampconvert: prepare_training, "
        "which leaves the loop as it is",
    )
