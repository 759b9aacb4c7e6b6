"""Recommendation."""

from __future__ import annotations

from typing import Any

from ..registry import Sample, batches_of, entry
from ..wrap import settle


@entry("dlrm", domain="recommendation")
def dlrm() -> Sample:
    """DLRM: embedding bags and a dense tower, pairwise dot products, a click probability."""
    import torch
    from torch import nn

    class DLRM(nn.Module):
        pairs: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.bags = nn.ModuleList(nn.Embedding(n, 32) for n in (1000, 5000, 200, 30))
            self.bottom = nn.Sequential(
                nn.Linear(13, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU()
            )
            self.top = nn.Sequential(nn.Linear(42, 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())
            self.register_buffer("pairs", torch.tril_indices(5, 5, -1))

        def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> Any:
            low = self.bottom(torch.log1p(dense))
            rows = [low, *(bag(sparse[:, k]) for k, bag in enumerate(self.bags))]
            stack = torch.stack(rows, 1)
            dots = torch.bmm(stack, stack.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
            return self.top(torch.cat([low, dots], 1))

    def dense(i: int) -> torch.Tensor:
        """Counts with the heavy tail of click logs, up to 1e5."""
        return torch.rand(8, 13, generator=torch.Generator().manual_seed(i)).pow(8) * 1e5

    def sparse(i: int) -> torch.Tensor:
        make = torch.Generator().manual_seed(i)
        return torch.stack(
            [torch.randint(0, n, (8,), generator=make) for n in (1000, 5000, 200, 30)], 1
        )

    return Sample(DLRM(), batches_of(dense, sparse))


@entry("sasrec", domain="recommendation", logits=True)
def sasrec() -> Sample:
    """SASRec: causal self-attention over a user's items, scores against every item."""
    import torch
    from torch import nn

    class SASRec(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.places = nn.Embedding(2000, 64, padding_idx=0), nn.Embedding(50, 64)
            layer = nn.TransformerEncoderLayer(64, 2, 64, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(
                layer, 2, nn.LayerNorm(64), enable_nested_tensor=False
            )
            self.register_buffer("mask", torch.full((50, 50), float("-inf")).triu(1))

        def forward(self, items: torch.Tensor) -> Any:
            x = self.items(items) * 8.0 + self.places.weight
            return self.encoder(x, mask=self.mask, is_causal=False)[:, -1] @ self.items.weight.T

    def items(i: int) -> torch.Tensor:
        return torch.randint(1, 2000, (2, 50), generator=torch.Generator().manual_seed(i))

    return Sample(SASRec(), batches_of(items))


@entry("deepfm", domain="recommendation")
def deepfm() -> Sample:
    """DeepFM: a factorisation machine's squared sums beside a deep tower."""
    import torch
    from torch import nn

    class DeepFM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors, self.linear = nn.Embedding(4000, 16), nn.Embedding(4000, 1)
            self.deep = nn.Sequential(
                nn.Linear(160, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1)
            )

        def forward(self, fields: torch.Tensor) -> torch.Tensor:
            x = self.factors(fields)
            pairs = 0.5 * (x.sum(1) ** 2 - (x**2).sum(1)).sum(1, keepdim=True)
            return torch.sigmoid(self.linear(fields).sum(1) + pairs + self.deep(x.flatten(1)))

    def fields(i: int) -> torch.Tensor:
        make = torch.Generator().manual_seed(i)
        return torch.randint(0, 400, (8, 10), generator=make) + torch.arange(10) * 400

    return settle(Sample(DeepFM().eval(), batches_of(fields)))
