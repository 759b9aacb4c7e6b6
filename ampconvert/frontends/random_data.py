"""Random inputs: drawn from a recipe and a seed, and always called random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ampconvert.errors import UserError

Fill = Literal["random", "ones", "zeros", "arange"]


@dataclass(frozen=True)
class Recipe:
    """How to make one input.

    Floating point: uniform in [low, high), else standard normal. Integers: uniform in low..high,
    both included, else 0..1. `plain` is a Python number handed to forward as it is.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float | None = None
    high: float | None = None
    fill: Fill = "random"
    plain: bool | int | float | None = None

    def draw(self, generator: torch.Generator, device: torch.device) -> Any:
        """One tensor of this kind on `device`, or the plain number."""
        if self.plain is not None:
            return self.plain
        dtype = getattr(torch, self.dtype)
        if self.fill == "ones":
            return torch.ones(self.shape, dtype=dtype, device=device)
        if self.fill == "zeros":
            return torch.zeros(self.shape, dtype=dtype, device=device)
        if self.fill == "arange":
            return torch.arange(self.shape[-1], dtype=dtype, device=device).expand(self.shape)
        return self._random(dtype, generator).to(device)

    def _random(self, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
        if dtype.is_complex:
            return torch.randn(self.shape, dtype=dtype, generator=generator)
        if not dtype.is_floating_point:
            low, high = int(self.low or 0), int(1 if self.high is None else self.high)
            # randint excludes its upper end, and both must fit int64.
            end = min(high + 1, 2**63 - 1)
            return torch.randint(low, end, self.shape, generator=generator).to(dtype)
        if self.low is None or self.high is None:
            return torch.randn(self.shape, generator=generator).to(dtype)
        uniform = torch.rand(self.shape, generator=generator)
        return (self.low + (self.high - self.low) * uniform).to(dtype)

    def option(self, name: str) -> str:
        """The `--input` that asks for this recipe."""
        shape = "x".join(map(str, self.shape)) or "scalar"
        ends = "" if self.low is None or self.high is None else f":{self.low}..{self.high}"
        return f"--input '{name}:{self.dtype}:{shape}{ends}'"


def draw_all(recipes: Mapping[str, Recipe], seed: int, device: torch.device) -> dict[str, Any]:
    """One value per recipe, from one generator: the same seed gives the same values.

    Raises UserError when there is no memory for a shape.
    """
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Any] = {}
    for name, recipe in recipes.items():
        try:
            values[name] = recipe.draw(generator, device)
        except (RuntimeError, MemoryError) as error:
            shape = "x".join(map(str, recipe.shape))
            raise UserError(f"input {name}: cannot make {recipe.dtype} {shape}: {error}") from None
    return values
