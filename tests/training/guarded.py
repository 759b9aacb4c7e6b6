"""Small models with casts as converted graphs have them, and stand-ins for their training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ampconvert.training.casts import to_full, to_low
from ampconvert.training.scaling import Scaling
from ampconvert.training.steps import StepGuard

INF, NAN = float("inf"), float("nan")


CPU = torch.device("cpu")


class Trained:
    """Stands in for the training of a prepared model."""

    def __init__(self, loss_scale: Any = "dynamic") -> None:
        self.scaling = Scaling(loss_scale)
        self.heard: list[bool] = []
        self.learnt: dict[str, Any] = {}

    def after_step(self, found: bool, guard: StepGuard) -> None:
        self.heard.append(found)

    def state_dict(self) -> dict[str, Any]:
        return self.learnt

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.learnt = dict(state)


class Low(nn.Module):
    """A linear layer in float16, as a converted graph has it, with a scale group by layer."""

    def __init__(self, training: Trained, name: str = "", size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(size) + 0.25)
        self.training_ = [training]  # no submodule of any kind
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        scale = self.training_[0].scaling.group(self.name, x.device)
        low_x, low_w = to_low(torch.float16, scale.factor, scale.overflowed, x, self.weight)
        return to_full(scale.factor, low_x @ low_w)


class Net(nn.Module):
    """A part in float16, and one in float32 behind it."""

    def __init__(self, loss_scale: Any = "dynamic") -> None:
        super().__init__()
        self.state = Trained(loss_scale)
        self.low = Low(self.state)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.low(x)) * 2.0**-8  # so that gradients bear the first scale
        return out


def trainings_of(model: nn.Module) -> Sequence[Any]:
    return [m.state for m in model.modules() if isinstance(m, Net)]


def backward(net: nn.Module, by: float = 1.0, rows: int = 4) -> None:
    (net(torch.ones(rows, 3)).sum() * by * 2.0**-2).backward()


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "sgd-foreach": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, foreach=True),
    "sgd-fused": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1),
    "adamw-fused": lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, 0.1, amsgrad=True, foreach=True),
    "adagrad-fused": lambda p: torch.optim.Adagrad(p, 0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.5),
    "adadelta": lambda p: torch.optim.Adadelta(p, 0.1),
}


class Sharp(torch.optim.Optimizer):
    """Steps in its own way: the closure twice, and an argument that torch's have not."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None, *, half: bool = False) -> Any:
        loss = closure() if closure else None
        for p in self.param_groups[0]["params"]:
            p.data.sub_(p.grad * (0.5 if half else 1.0))
        return closure() if closure else loss
