"""Small seeded PyTorch networks for proofs, each with example inputs and ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Encoder(nn.Module):
    """BERT in small: post-norm blocks with GELU over token, position and type embeddings."""

    def __init__(self, width: int = 48, heads: int = 4, layers: int = 2, tokens: int = 100) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(32, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True)
            for _ in range(layers)
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.tokens(ids) + self.places(torch.arange(ids.shape[1])))
        for block in self.blocks:
            x = block(x)
        return x


class RMSNorm(nn.Module):
    """Root mean square norm, step by step."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(1 + 0.3 * torch.randn(width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Block(nn.Module):
    """Pre-norm causal attention with rotary positions, and SwiGLU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = RMSNorm(width), RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, False), nn.Linear(width, width, False)
        self.gate, self.up = nn.Linear(width, 3 * width, False), nn.Linear(width, 3 * width, False)
        self.down = nn.Linear(3 * width, width, False)

    def forward(self, x: torch.Tensor, wave: Any, mask: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        parts = self.qkv(self.before(x)).split(width, -1)
        q, k, v = (p.view(rows, length, self.heads, -1).transpose(1, 2) for p in parts)
        q, k = (_turn(p, *wave) for p in (q, k))
        scores = q @ k.transpose(-1, -2) / math.sqrt(width / self.heads)
        weights = scores.masked_fill(mask, torch.finfo(torch.float32).min).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(rows, length, width))
        y = self.after(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def _turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class Decoder(nn.Module):
    """A GPT in small, with the norm written out."""

    def __init__(self, width: int = 48, heads: int = 4, layers: int = 2, tokens: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = RMSNorm(width), nn.Linear(width, tokens, False)
        self.half = width // heads // 2

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        angle = torch.arange(length)[:, None] / 100 ** (torch.arange(self.half) / self.half)
        angle = torch.cat([angle, angle], -1)
        mask = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x, (angle.cos(), angle.sin()), mask)
        return self.head(self.norm(x))


class Convolutions(nn.Module):
    """Convolutions with batch and group norm, pooling, resizing and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.bn, self.gn = nn.BatchNorm2d(8), nn.GroupNorm(2, 8)
        self.up, self.head = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn(self.a(x)))
        y = y + F.silu(self.gn(self.b(y)))
        y = F.avg_pool2d(F.max_pool2d(y, 2), 2, padding=1)
        y = F.interpolate(self.up(y), scale_factor=2.0, mode="bilinear")
        return F.log_softmax(self.head(F.adaptive_avg_pool2d(y, 1).flatten(1)), -1)


class Recurrent(nn.Module):
    """An LSTM, a GRU and an RNN, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(4, 6, 2, bidirectional=True), nn.GRU(12, 5)
        self.rnn = nn.RNN(5, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, (h, c) = self.lstm(x)
        y, g = self.gru(y)
        return (*self.rnn(y), g, h, c)


class Attention(nn.Module):
    """Fused attention with fewer heads for k and v, instance norm, einsum, and a unit vector."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(8, 16), nn.Linear(8, 16)
        self.norm = nn.InstanceNorm1d(3, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.q(x).unflatten(-1, (4, 4)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (4, 4)).transpose(1, 2).chunk(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        z = torch.einsum("bhsd,bhtd->bst", y, y)
        z = self.norm(z) + torch.cumsum(z, 1) / z.abs().sum(-1, keepdim=True).clamp(min=1.0)
        return F.normalize(z, dim=-1, eps=1e-3) + z.std(-1, keepdim=True) + z.logsumexp(1, True)


@dataclass(frozen=True)
class Case:
    """A network, example inputs, and the ranges of those that are floats."""

    model: nn.Module
    args: tuple[torch.Tensor, ...]
    declared: dict[str, tuple[float, float]]


def case(name: str) -> Case:
    """The network of that name, its weights drawn anew and a little larger than usual."""
    torch.manual_seed(7)
    ids = torch.randint(0, 60, (2, 9))
    image, series = torch.rand(2, 3, 8, 8), torch.randn(5, 2, 4).clamp(-3, 3)
    makers: dict[str, tuple[type[nn.Module], torch.Tensor, dict[str, tuple[float, float]]]] = {
        "encoder": (Encoder, ids, {}),
        "decoder": (Decoder, ids, {}),
        "convolutions": (Convolutions, image, {"x": (0.0, 1.0)}),
        "recurrent": (Recurrent, series, {"x": (-3.0, 3.0)}),
        "attention": (Attention, torch.rand(2, 3, 8) * 4 - 2, {"x": (-2.0, 2.0)}),
    }
    maker, example, declared = makers[name]
    model = maker().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3).add_(0.05 * torch.randn_like(parameter))
    return Case(model, (example,), declared)


NAMES = ("encoder", "decoder", "convolutions", "recurrent", "attention")
