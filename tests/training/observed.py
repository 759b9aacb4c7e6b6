"""Small models converted as training converts them, and run with an Observer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ampconvert.rules import OpRule
from ampconvert.training.backend import Backend
from ampconvert.training.observation import Observation, Place
from ampconvert.training.observe import Observer
from ampconvert.training.settings import make_settings
from ampconvert.training.state import Training

CPU = torch.device("cpu")


class Seen(Training):
    """A training whose graphs are all watched, by one Observer, while `watches` is set."""

    def __init__(self, **options: Any) -> None:
        super().__init__(make_settings(prefer="memory", **options))
        self.observing, self.watches = True, True
        self.scaling.guarded = True  # as an optimizer's guard makes it
        self.watcher = Observer()
        self.places: list[Mapping[str, Place]] = []
        self.modules: list[fx.GraphModule] = []

    def observe(
        self, module: fx.GraphModule, places: Mapping[str, Place], args: Sequence[Any]
    ) -> Any:
        self.places.append(places)
        self.modules.append(module)
        return self.watcher.run(module, args, places) if self.watches else module(*args)


@dataclass
class Run:
    """A model that is converted and watched; S by group."""

    model: nn.Module
    training: Seen
    call: Callable[..., Any]

    def step(self, *args: Any, loss: Callable[[Any], Tensor] | None = None) -> Observation:
        """Forward and backward, and what was seen."""
        self.training.watcher = Observer()
        self.micro(*args, loss=loss)
        return self.training.watcher.read()

    def micro(self, *args: Any, loss: Callable[[Any], Tensor] | None = None) -> Tensor:
        """One microbatch's forward and backward; gives the loss."""
        y = self.call(*args)
        value = loss(y) if loss is not None else y.square().mean()
        value.backward()
        return value.detach()

    def scale(self, factor: float, group: str = "") -> None:
        """Set the tensor of S."""
        self.training.scaling.group(group, CPU).factor.fill_(factor)


def watched(
    model: nn.Module, *, rules: Sequence[OpRule] = (), scale: float = 1.0, **options: Any
) -> Run:
    """`model` as a Run with this S."""
    torch._dynamo.reset()
    training = Seen(rules=rules, **options)
    run = Run(model, training, torch.compile(model, backend=Backend(training)))
    run.scale(scale)
    return run
