"""What a project says about itself, as far as rules depend on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# How low types come about: autocast on a GPU, autocast on a CPU, or `.half()` and its like.
Mode = Literal["cuda-autocast", "cpu-autocast", "half"]


@dataclass(frozen=True)
class Settings:
    """`torch` is the oldest PyTorch that the code must run on: fixes use nothing newer.

    `assume` says how low types come about in every file, also where the file doesn't show it:
    library code that others run under autocast.
    """

    torch: tuple[int, int] = (2, 4)
    assume: frozenset[Mode] = frozenset()
