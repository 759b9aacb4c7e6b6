"""Test models: plain networks, values with many readers, operators that carry a type."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases import Case, Fn, case

# --- plain networks


@case
def mlp() -> Case:
    return Case(
        nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)), (torch.randn(4, 16),)
    )


@case
def convolutions() -> Case:
    parts = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding="same", groups=4), nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 4, 2, stride=2), nn.BatchNorm2d(4), nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    for norm in parts:
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return Case(parts, (torch.randn(2, 3, 17, 17),))


@case
def conv1d_3d() -> Case:
    def forward(m: Any, x: torch.Tensor, v: torch.Tensor) -> Any:
        return m.down(F.pad(m.up(x), (1, 1), mode="reflect")), m.norm(m.deep(v)), m.back(v)

    parts = {
        "up": nn.ConvTranspose1d(4, 4, 3, stride=2),
        "down": nn.Conv1d(4, 6, 3, dilation=2),
        "deep": nn.Conv3d(2, 4, 3),
        "norm": nn.BatchNorm3d(4),
        "back": nn.ConvTranspose3d(2, 3, 2),
    }
    return Case(Fn(forward, **parts), (torch.randn(2, 4, 9), torch.randn(2, 2, 5, 5, 5)))


@case
def normalisations() -> Case:
    parts = nn.Sequential(
        nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True), nn.LayerNorm(6), nn.SiLU()
    )
    return Case(parts, (torch.randn(2, 8, 6, 6),))


@case
def lstm() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        y, (h, c) = m.rnn(x)
        return m.head(y), h, c

    rnn = nn.LSTM(8, 8, num_layers=2, bidirectional=True, batch_first=True)
    return Case(Fn(forward, rnn=rnn, head=nn.Linear(16, 3)), (torch.randn(2, 5, 8),))


@case
def gru() -> Case:
    def forward(m: Any, x: torch.Tensor, h: torch.Tensor) -> Any:
        y, last = m.rnn(x * 2, h)
        return y.tanh(), last

    rnn = nn.GRU(6, 4, bidirectional=True)
    return Case(Fn(forward, rnn=rnn), (torch.randn(5, 3, 6), torch.randn(2, 3, 4)))


@case
def multihead_attention() -> Case:
    def forward(m: Any, x: torch.Tensor, padding: torch.Tensor) -> Any:
        return m.attention(x, x, x, key_padding_mask=padding)

    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    return Case(
        Fn(forward, attention=nn.MultiheadAttention(16, 4, batch_first=True)),
        (torch.randn(2, 5, 16), padding),
    )


@case
def transformer() -> Case:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Case(encoder, (torch.randn(2, 6, 16),))


# --- one value, many places


@case
def square() -> Case:
    return Case(
        Fn(lambda m, x: (m.a(x) * m.a(x)).sum(-1) + (x * x).mean(-1), a=nn.Linear(4, 4)),
        (torch.randn(3, 4),),
    )


@case
def tied() -> Case:
    embedding, head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
    head.weight = embedding.weight
    return Case(
        Fn(lambda m, ids: m.head(m.embedding(ids).tanh()), embedding=embedding, head=head),
        (torch.randint(0, 20, (2, 5)),),
    )


@case
def weight_twice() -> Case:
    """A weight that a product wants low and a logarithm in float32."""
    return Case(
        Fn(
            lambda m, x: F.linear(x, m.w) + m.w.abs().add(1).log().sum(1),
            w=nn.Parameter(torch.randn(4, 4)),
        ),
        (torch.randn(2, 4),),
    )


@case
def outputs_inside() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        h = m.a(x)
        return h, m.b(h), x, h, x.transpose(0, 1)

    return Case(Fn(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 2)), (torch.randn(3, 4),))


@case
def several_results() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        x = m.a(x)
        left, right = x.chunk(2, -1)
        a, b, c = x.split([2, 3, 3], -1)
        top, places = x.topk(3)
        largest, where = x.max(1)
        rows = x.unbind(0)
        mean, variance = torch.var_mean(x, 1)
        return (
            left * right,
            a.sum() + b.sum(),
            c,
            top,
            places,
            largest,
            where,
            rows[0] + rows[2],
            mean,
            variance,
        )

    return Case(Fn(forward, a=nn.Linear(6, 8)), (torch.randn(3, 6),))


@case
def promotion() -> Case:
    """Operators that take several tensors, which need one type."""

    def forward(m: Any, x: torch.Tensor, index: torch.Tensor) -> Any:
        y = m.a(x)
        z = (x.abs() + 1).log()
        joined = torch.cat([x, y, z], 1)
        stacked = torch.stack([y, z]).sum(0)
        chosen = torch.where(y > 0, y, z)
        placed = x.index_put((index,), y[:2])
        spread = x.scatter(0, index[:, None].expand(2, 4), z[:2])
        added = y.index_add(0, index, x[:2])
        return (
            joined,
            stacked,
            chosen,
            placed,
            spread,
            added,
            torch.maximum(x, y),
            torch.lerp(x, y, 0.3),
            torch.addcmul(x, y, z),
        )

    return Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(3, 4), torch.tensor([0, 2])))


@case
def in_place() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        y[:, 0] = 1.5
        y[:, 1:3] *= 2
        y.mul_(0.5).add_(x)
        y.masked_fill_(x > 1, 0.25)
        view = y.view(-1)
        view[3] = 7.0
        return y

    return Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(3, 4),))


class Counter(nn.Module):
    """Buffers that forward writes: a counter and a running mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y = self.a(x)
        self.mean.mul_(0.9).add_(y.mean(0) * 0.1)
        return y - self.mean


@case
def counter() -> Case:
    return Case(Counter(), (torch.randn(3, 4),))


class KeyCache(nn.Module):
    """A cache that forward writes at a position and attends over."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(8, 8), nn.Linear(8, 8)
        self.register_buffer("cache", torch.zeros(1, 6, 8))

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        self.cache[:, position] = self.k(x)
        scores = self.q(x) @ self.cache.transpose(1, 2)
        return scores.softmax(-1) @ self.cache


@case
def key_cache() -> Case:
    return Case(KeyCache(), (torch.randn(1, 1, 8), torch.tensor([2])))


class Overwritten(nn.Module):
    """A buffer that forward replaces as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.register_buffer("last", torch.zeros(3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x) + self.last
        self.last.copy_(y[0])
        return y * 2


@case
def input_written() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        x.add_(1)
        return m.a(x)

    return Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(3, 4),))


@case
def overwritten() -> Case:
    return Case(Overwritten(), (torch.randn(3, 4),))


# --- operators that carry a type


@case
def type_arguments() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        y = m.a(x).to(torch.float32)
        y = y + torch.zeros_like(y) + torch.full((4,), 0.5) + torch.arange(4, dtype=torch.float32)
        y = y + torch.ones(4) + y.new_zeros(4) + torch.arange(0, 1, 0.25) + torch.linspace(0, 1, 4)
        p = F.softmax(y, -1, dtype=torch.float32)
        s = torch.sum(y, -1, dtype=torch.float32)
        return (
            p @ m.a.weight,
            s,
            (y > 0).float().mean(),
            y.long().float() * 0.5,
            y.type_as(x).cumsum(0, dtype=torch.float32),
        )

    return Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(3, 4),))


@case
def large_constants() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return (y * 1e5) / 1e5 + torch.clamp(y, -1e6, 1e6) + torch.where(y > 9, y, 1e-3)

    return Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(3, 4),))


@case
def masks() -> Case:
    """Masks of finfo.min and -1e9 through masked_fill, where, full and multiplication, into
    softmax and sdpa.
    """

    def forward(m: Any, x: torch.Tensor, keep: torch.Tensor) -> Any:
        q = m.a(x)
        scores = q @ x.transpose(1, 2)
        lowest = torch.finfo(torch.float32).min
        filled = scores.masked_fill(~keep[:, None, :], lowest).softmax(-1)
        chosen = torch.where(keep[:, None, :], scores, -1e9).softmax(-1)
        causal = torch.triu(torch.full((5, 5), lowest), 1)
        added = (scores + causal).softmax(-1)
        attended = F.scaled_dot_product_attention(q, x, x, attn_mask=causal[None].expand(2, 5, 5))
        return filled @ x, chosen @ x, added @ x, attended

    keep = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return Case(Fn(forward, a=nn.Linear(8, 8)), (torch.randn(2, 5, 8), keep))


@case
def inf_masks() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        causal = torch.triu(torch.full((5, 5), float("-inf")), 1)
        scores = m.a(x) @ x.transpose(1, 2) + causal
        return scores.softmax(-1) @ x, F.scaled_dot_product_attention(x, x, x, attn_mask=causal)

    return Case(Fn(forward, a=nn.Linear(8, 8)), (torch.randn(2, 5, 8),))


@case
def sdpa_masks() -> Case:
    def forward(m: Any, x: torch.Tensor, keep: torch.Tensor, bias: torch.Tensor) -> Any:
        q = m.a(x).view(2, 5, 2, 4).transpose(1, 2)
        return (
            F.scaled_dot_product_attention(q, q, q, attn_mask=keep),
            F.scaled_dot_product_attention(q, q, q, attn_mask=bias),
            F.scaled_dot_product_attention(q, q, q, is_causal=True),
        )

    keep = torch.ones(5, 5, dtype=torch.bool).tril()
    return Case(Fn(forward, a=nn.Linear(8, 8)), (torch.randn(2, 5, 8), keep, torch.randn(5, 5)))
