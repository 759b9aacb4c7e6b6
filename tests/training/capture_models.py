"""Small modules that a training graph has to hold: (module, inputs) by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Case = tuple[nn.Module, tuple[Any, ...]]
CASES: dict[str, Callable[[], Case]] = {}


def case(build: Callable[[], Case]) -> Callable[[], Case]:
    CASES[build.__name__] = build
    return build


class Fn(nn.Module):
    """A module made of a function of itself and its inputs; tensors become its parameters."""

    def __init__(self, function: Callable[..., Any], **held: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in held.items():
            is_weight = isinstance(value, Tensor) and value.is_floating_point()
            setattr(self, name, nn.Parameter(value) if is_weight else value)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def linear(**held: Any) -> dict[str, Any]:
    return {"fc": nn.Linear(6, 6), **held}


@case
def mlp() -> Case:
    layers = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 3))
    return layers, (torch.randn(4, 6),)


@case
def cnn_with_batch_norm() -> Case:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(4 * 3 * 3, 2),
    )  # fmt: skip
    return net, (torch.randn(2, 3, 8, 8),)


@case
def transformer_encoder_layer() -> Case:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
    return layer, (torch.randn(2, 5, 8),)


@case
def attention_with_weights_and_mask() -> Case:
    def forward(m: Any, x: Tensor) -> Any:
        mask = torch.triu(torch.full((5, 5), float("-inf")), 1)
        return m.attention(x, x, x, attn_mask=mask)

    attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
    return Fn(forward, attention=attention), (torch.randn(2, 5, 8),)


@case
def tied_weights() -> Case:
    def forward(m: Any, tokens: Tensor) -> Tensor:
        return F.linear(m.fc(m.table(tokens)), m.table.weight)

    return Fn(forward, **linear(table=nn.Embedding(9, 6))), (torch.randint(9, (2, 4)),)


@case
def lstm() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        out, (hidden, _) = m.lstm(x)
        return m.fc(out[:, -1]) + hidden[-1]

    return Fn(forward, **linear(lstm=nn.LSTM(3, 6, 2, batch_first=True))), (torch.randn(2, 4, 3),)


@case
def gru() -> Case:
    return Fn(lambda m, x: m.gru(x)[0], gru=nn.GRU(3, 6, bidirectional=True)), (
        torch.randn(4, 2, 3),
    )


@case
def u_net() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        first = F.relu(m.first(x))
        deep = F.relu(m.deep(F.max_pool2d(first, 2)))
        up = F.interpolate(m.up(deep), scale_factor=1.0, mode="nearest")
        return m.last(torch.cat([first, up], 1))

    net = {
        "first": nn.Conv2d(1, 4, 3, padding=1),
        "deep": nn.Conv2d(4, 8, 3, padding=1),
        "up": nn.ConvTranspose2d(8, 4, 2, stride=2),
        "last": nn.Conv2d(8, 1, 1),
    }
    return Fn(forward, **net), (torch.randn(2, 1, 8, 8),)


class Halved(torch.autograd.Function):
    """Gives what it gets, and half of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * 0.5 + 0 * x


@case
def custom_autograd_function() -> Case:
    return Fn(lambda m, x: Halved.apply(m.fc(x)) * 3, **linear()), (torch.randn(4, 6),)


@case
def checkpointed() -> Case:
    def block(m: Any, x: Tensor) -> Tensor:
        return F.dropout(F.gelu(m.fc(x)), 0.5, m.training) * 2

    def forward(m: Any, x: Tensor) -> Tensor:
        for _ in range(2):
            x = checkpoint(block, m, x, use_reentrant=False)
        return m.fc(x)

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def double_use() -> Case:
    return Fn(lambda m, x: m.fc(torch.tanh(m.fc(x))) * x * x, **linear()), (torch.randn(4, 6),)


@case
def masked() -> Case:
    def forward(m: Any, x: Tensor, keep: Tensor) -> Tensor:
        scores = m.fc(x).masked_fill(~keep, float("-inf"))
        scores = torch.where(keep, scores, torch.tensor(-1e9))
        return scores.softmax(-1)

    return Fn(forward, **linear()), (torch.randn(4, 6), torch.eye(4, 6).bool())


@case
def einsum() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.einsum("bik,bij->bkj", torch.einsum("bij,kj->bik", x, m.w), x)

    return Fn(forward, w=torch.randn(5, 6)), (torch.randn(2, 4, 6),)


@case
def fourier() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(m.fc(x))
        return torch.fft.irfft(spectrum * torch.polar(m.w.abs(), m.w), n=6)

    return Fn(forward, **linear(w=torch.randn(4))), (torch.randn(4, 6),)


@case
def dictionary_out() -> Case:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.fc(x)
        return {"y": y, "pair": (y.sum(), x), "n": x.shape[0], "nothing": None}

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def loss_inside() -> Case:
    def forward(m: Any, x: Tensor, target: Tensor) -> Any:
        logits = m.fc(x)
        return F.cross_entropy(logits, target, label_smoothing=0.1), logits

    return Fn(forward, **linear()), (torch.randn(4, 6), torch.tensor([0, 2, 5, 1]))


@case
def autocast_inside() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = m.fc(x)
            with torch.autocast("cpu", enabled=False):
                z = m.fc(y.float())
        return z + y

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def control_flow() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        if y.sum() > 0:  # a graph break
            y = y * 2
        return m.fc(y)

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def constants() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        bias = torch.arange(6, dtype=torch.float32)
        return m.fc(x) * torch.tensor([1.0, 2, 3, 4, 5, 6]) + bias

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def cond() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        return m.fc(torch.cond(x.sum() > 0, torch.sin, torch.cos, (m.fc(x),)))

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def vmapped() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.vmap(lambda row: m.fc(row) * row.sum())(m.fc(x))

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def jacobian() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        return torch.func.jacrev(lambda r: torch.tanh(m.fc(r)).sum(0))(m.fc(x))

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def checkpointed_selectively() -> Case:
    def policy(_: Any, op: Any, *__: Any, **___: Any) -> Any:
        saved = op == torch.ops.aten.addmm.default
        return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE

    def forward(m: Any, x: Tensor) -> Tensor:
        return checkpoint(
            lambda y: torch.relu(m.fc(torch.relu(m.fc(y)))), x, use_reentrant=False,
            context_fn=partial(create_selective_checkpoint_contexts, policy),
        )  # fmt: skip

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def checkpointed_batch_norm() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        return checkpoint(lambda y: m.bn(m.fc(y)), m.fc(x), use_reentrant=False) * 2

    return Fn(forward, **linear(bn=nn.BatchNorm1d(6))), (torch.randn(4, 6),)


@case
def checkpoint_in_checkpoint() -> Case:
    def inner(m: Any, x: Tensor) -> Tensor:
        return torch.tanh(m.fc(x))

    def outer(m: Any, x: Tensor) -> Any:
        return checkpoint(inner, m, x, use_reentrant=False) * 2, x

    def forward(m: Any, x: Tensor) -> Tensor:
        y, x = checkpoint(outer, m, x, use_reentrant=False)
        return y * x

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def random_numbers() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        noise = torch.rand(4, 6) + torch.randn_like(x) * F.gumbel_softmax(x)
        return m.fc(x) * noise + F.rrelu(m.fc(x), training=True) + torch.bernoulli(x.sigmoid())

    return Fn(forward, **linear()), (torch.randn(4, 6),)
