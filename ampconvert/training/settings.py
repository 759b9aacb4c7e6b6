"""What a user asks of the training of one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch._dynamo import list_backends

from ampconvert.dtypes import Low, parse_low
from ampconvert.errors import UserError
from ampconvert.rules import OpRule
from ampconvert.training.scaling import LossScale, check_power_of_two


@dataclass(frozen=True)
class Settings:
    """How a model trains.

    `loss_scale`: "dynamic", one scale that follows the gradients; "layerwise", one per layer; or a
    number that never changes. `inner` is what runs the converted graphs: "eager" is PyTorch itself,
    any other name one of torch.compile's backends, with its `options`. `adapt` lets operators that
    overflow move to float32 while the model trains. `prefer`: with "speed" an operator runs in
    `low` where that saves time, casts counted; with "memory" wherever it is safe; None is speed
    where `low` is faster at all on the device.
    """

    low: Low
    loss_scale: LossScale = "dynamic"
    inner: str = "eager"
    options: Mapping[str, Any] = field(default_factory=dict)
    adapt: bool = True
    prefer: Literal["speed", "memory"] | None = None
    rules: tuple[OpRule, ...] = ()

    @property
    def scales(self) -> bool:
        """Whether gradients are scaled at all: bfloat16 has float32's range."""
        return self.low == "float16"


def make_settings(
    dtype: Any = "float16",
    *,
    loss_scale: LossScale = "dynamic",
    inner: str = "eager",
    options: Mapping[str, Any] | None = None,
    adapt: bool = True,
    prefer: Literal["speed", "memory"] | None = None,
    rules: Sequence[OpRule] = (),
) -> Settings:
    """Settings from what a user writes. `dtype` is torch.float16, "fp16" or the like. Raises
    UserError for what makes no sense.
    """
    if prefer not in (None, "speed", "memory"):
        raise UserError(f'prefer is "speed" or "memory", not {prefer!r}')
    try:
        low = parse_low(str(dtype).removeprefix("torch."))
    except ValueError as error:
        raise UserError(str(error)) from error
    if inner == "ampconvert" or inner not in list_backends(exclude_tags=()):
        known = sorted({"eager", *list_backends()} - {"ampconvert"})
        raise UserError(f"inner={inner!r} is no backend to run with: there are {', '.join(known)}")
    if isinstance(loss_scale, str):
        if loss_scale not in ("dynamic", "layerwise"):
            raise UserError(f'loss_scale is "dynamic", "layerwise" or a number, not {loss_scale!r}')
    else:
        check_power_of_two("loss_scale", loss_scale)
    return Settings(low, loss_scale, inner, dict(options or {}), adapt, prefer, tuple(rules))
