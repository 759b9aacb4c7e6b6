"""Test models: control flow, inputs and outputs of all kinds, operators with their own ways."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.cases import Case, Fn, case

# --- control flow and regions


@case
def cond() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return torch.cond(y.sum() > 0, lambda t: m.b(t).relu(), lambda t: m.b(t) - 1, (y,)) * 2

    return Case(
        Fn(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4)), (torch.randn(3, 4),), gradients=False
    )


class Rotary(nn.Module):
    """Position tables as Hugging Face's models compute them: without gradients, with autocast
    turned off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.register_buffer(
            "inv_freq", 1.0 / (10000 ** (torch.arange(0, 8, 2).float() / 8)), persistent=False
        )

    @torch.no_grad()
    def tables(self, x: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inverse = self.inv_freq[None, :, None].float().expand(positions.shape[0], -1, 1)
        with torch.autocast(device_type="cpu", enabled=False):
            angles = (inverse @ positions[:, None, :].float()).transpose(1, 2)
            both = torch.cat((angles, angles), dim=-1)
            cos, sin = both.cos(), both.sin()
        return cos.to(x.dtype), sin.to(x.dtype)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        cos, sin = self.tables(x, positions)
        q = self.a(x)
        turned = torch.cat((-q[..., 4:], q[..., :4]), -1)
        return (q * cos + turned * sin) @ x.transpose(1, 2)


@case
def rotary() -> Case:
    return Case(Rotary(), (torch.randn(2, 6, 8), torch.arange(6).expand(2, 6) + 900))


# --- inputs and outputs of all kinds


class Keywords(nn.Module):
    """Keyword-only inputs, one left out, one a number."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(
        self, *, x: torch.Tensor, scale: int = 1, bias: torch.Tensor | None = None
    ) -> dict[str, Any]:
        y = self.a(x) * scale
        return {
            "y": y if bias is None else y + bias,
            "nested": [x.sum(), (y.mean(), {"deep": y.exp()})],
            "none": None,
            "n": scale,
        }


@case
def keywords() -> Case:
    return Case(Keywords(), (), {"x": torch.randn(3, 4), "scale": 2, "bias": None})


@case
def nothing_to_lower() -> Case:
    return Case(
        Fn(lambda m, ids: (ids * 2 + 1, ids > 3, ids.sum())),
        (torch.arange(6).view(2, 3),),
        gradients=False,
    )


@case
def no_parameters() -> Case:
    return Case(
        Fn(lambda m, x, y: (x @ y).softmax(-1)), (torch.randn(2, 3, 4), torch.randn(2, 4, 3))
    )


@case
def half_weight() -> Case:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.a(F.linear(x.half(), m.w).float())

    return Case(
        Fn(forward, a=nn.Linear(4, 4), w=nn.Parameter(torch.randn(4, 4).half())),
        (torch.randn(3, 4),),
    )


@case
def double_parts() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        y = m.a(x).sigmoid()
        return (y.double() * m.d).sum(-1), (y.double() + 1).log1p().float() @ m.a.weight

    return Case(Fn(forward, a=nn.Linear(4, 4), d=torch.rand(4).double()), (torch.rand(3, 4),))


@case
def zero_dimensional() -> Case:
    def forward(m: Any, x: torch.Tensor, t: torch.Tensor) -> Any:
        return m.a(x) * t * m.scale + 2, t * 3, (x.sum() * m.scale).exp()

    return Case(
        Fn(forward, a=nn.Linear(4, 4), scale=nn.Parameter(torch.tensor(0.3))),
        (torch.randn(3, 4), torch.tensor(1.5)),
    )


@case
def empty() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        return m.a(x), torch.cat([m.a(x)[:, :0], x[:, :0]], 1), x[:0].sum()

    return Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(3, 4),))


@case
def fourier() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        spectrum = torch.fft.rfft(m.a(x))
        return m.b(torch.fft.irfft(spectrum * m.filter, n=8)), torch.abs(spectrum)

    parts = {
        "a": nn.Linear(8, 8),
        "b": nn.Linear(8, 4),
        "filter": torch.randn(5, dtype=torch.complex64),
    }
    return Case(Fn(forward, **parts), (torch.randn(3, 8),))


# --- operators with their own ways


@case
def einsum() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        return (
            torch.einsum("bij,jk->bik", x, m.w),
            torch.einsum("bij,bkj->bik", x, m.a(x)),
            torch.einsum("...i->...", x),
        )

    return Case(
        Fn(forward, w=nn.Parameter(torch.randn(4, 5)), a=nn.Linear(4, 4)), (torch.randn(2, 3, 4),)
    )


@case
def embedding() -> Case:
    def forward(m: Any, ids: torch.Tensor) -> Any:
        return m.a(m.words(ids) + m.places(torch.arange(ids.shape[1])))

    parts = {
        "words": nn.Embedding(10, 8, padding_idx=0),
        "places": nn.Embedding(6, 8),
        "a": nn.Linear(8, 4),
    }
    return Case(Fn(forward, **parts), (torch.tensor([[1, 2, 0, 0], [3, 4, 5, 0]]),))


@case
def images() -> Case:
    def forward(m: Any, x: torch.Tensor, grid: torch.Tensor) -> Any:
        y = m.c(x)
        up = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        near = F.interpolate(y, size=(5, 7), mode="nearest")
        warped = F.grid_sample(y, grid, align_corners=False)
        return (
            up,
            near,
            warped,
            F.pixel_shuffle(y, 2),
            F.pad(y, (1, 2), value=0.5),
            F.avg_pool2d(y, 2),
        )

    return Case(
        Fn(forward, c=nn.Conv2d(3, 4, 3, padding=1)),
        (torch.randn(2, 3, 8, 8), torch.rand(2, 4, 4, 2) * 1.6 - 0.8),
    )


@case
def unfolded() -> Case:
    return Case(
        Fn(lambda m, x: m.a(F.unfold(x, 3).transpose(1, 2)), a=nn.Linear(27, 4)),
        (torch.randn(2, 3, 6, 6),),
    )


@case
def ordering() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        y = m.a(x)
        ordered, places = y.sort(-1, descending=True)
        return (
            ordered,
            places,
            y.cumsum(-1),
            y.argmax(-1),
            torch.gather(y, 1, places),
            F.one_hot(y.argmax(-1), 6).float() @ m.a.weight,
        )

    return Case(Fn(forward, a=nn.Linear(6, 6)), (torch.randn(3, 6),))


@case
def reductions() -> Case:
    def forward(m: Any, x: torch.Tensor) -> Any:
        y = m.a(x)
        return (
            y.sum(1),
            y.mean(),
            y.var(1),
            y.norm(dim=1),
            y.logsumexp(1),
            y.amax(1),
            F.normalize(y),
            y.std(),
        )

    return Case(Fn(forward, a=nn.Linear(4, 2048)), (torch.randn(3, 4),))


@case
def losses() -> Case:
    def forward(m: Any, x: torch.Tensor, labels: torch.Tensor) -> Any:
        y = m.a(x)
        return (
            F.cross_entropy(y, labels),
            F.mse_loss(y, x),
            F.log_softmax(y, -1),
            F.softplus(y),
            F.cosine_similarity(y, x),
        )

    return Case(Fn(forward, a=nn.Linear(4, 4)), (torch.randn(3, 4), torch.tensor([0, 3, 1])))
