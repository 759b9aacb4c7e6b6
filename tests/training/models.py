"""Small models of each kind that training has to get right, and how gradients are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ampconvert.training.prepare import prepare_training, trainings_of

LOWS = (torch.float16, torch.bfloat16)
ROOM = {torch.float16: 0.01, torch.bfloat16: 0.06}  # relative L2 of a gradient


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.25)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """Scores."""
        h = self.drop(torch.relu(self.norm(self.conv(x))))
        return self.head(h.flatten(1)) * scale


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.block = nn.Linear(8, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        h = self.block(torch.tanh(self.block(h)))  # one module, twice
        return self.out(h)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x * 20  # not the derivative, so that a lost backward shows


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(Square.apply(self.a(x)))


class Broken(nn.Module):
    """Python control flow on data: two graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h if h.sum() > 0 else -h)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3)), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(checkpoint(lambda h: torch.relu(self.a(h)), x, use_reentrant=False))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(5, 7, batch_first=True), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 3)),
            lambda n: torch.randn(n, 3)),
    "cnn": (Net, lambda n: torch.randn(n, 1, 4, 4)),
    "tied": (Tied, lambda n: torch.randint(11, (n, 5))),
    "custom": (Custom, lambda n: torch.randn(n, 6)),
    "graph break": (Broken, lambda n: torch.randn(n, 6)),
    "checkpoint": (Checkpointed, lambda n: torch.randn(n, 6)),
    "lstm": (Recurrent, lambda n: torch.randn(n, 4, 5)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
                lambda n: torch.randn(n, 5, 8)),
}  # fmt: skip


def prepared(model: nn.Module, dtype: torch.dtype = torch.float16, **options: Any) -> nn.Module:
    return prepare_training(model, dtype, prefer="memory", **options)


def gradients(model: nn.Module, x: Tensor, seed: int = 1) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(seed)
    out = model(x)
    assert out.dtype == torch.float32
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    flat = [torch.cat([t.flatten() for t in side.values()]) for side in (a, b)]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def parts(model: nn.Module) -> list[Any]:
    return [s.whole for training in trainings_of(model) for s in training.subgraphs]


def low_share(model: nn.Module) -> int:
    return sum(t != "float32" for part in parts(model) for t in part.plan.compute.values())
