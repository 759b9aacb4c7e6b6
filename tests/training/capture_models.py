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
def batch_norm_twice() -> Case:
    return Fn(lambda m, x: m.bn(m.fc(m.bn(x))), **linear(bn=nn.BatchNorm1d(6))), (
        torch.randn(5, 6),
    )


@case
def batch_norm_for_its_statistics() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.bn(x)
        return m.fc(x) + m.bn.running_mean

    return Fn(forward, **linear(bn=nn.BatchNorm1d(6))), (torch.randn(5, 6),)


@case
def residual_in_place() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        y += x
        y.mul_(2).clamp_(-3, 3)
        return F.relu(F.dropout(y, 0.5, m.training, inplace=True), inplace=True)

    return Fn(forward, **linear()), (torch.randn(4, 6),)


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
def embedding_renormalised() -> Case:
    def forward(m: Any, tokens: Tensor) -> Tensor:
        return m.fc(m.table(tokens))

    table = nn.Embedding(9, 6, max_norm=1.0)
    return Fn(forward, **linear(table=table)), (torch.randint(9, (2, 4)),)


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
def checkpointed_with_update() -> Case:
    def block(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        y += 1
        return m.fc(F.relu_(y))

    return Fn(lambda m, x: checkpoint(block, m, x, use_reentrant=False), **linear()), (
        torch.randn(4, 6),
    )


@case
def scattered() -> Case:
    def forward(m: Any, x: Tensor, index: Tensor) -> Tensor:
        y = m.fc(x)
        z = y * 2
        z[index] = 0.5
        z.index_put_((index,), x[:2], accumulate=True)
        return z.sum(0) + y

    return Fn(forward, **linear()), (torch.randn(4, 6), torch.tensor([0, 2]))


@case
def view_updated() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        column = y[:, 0]
        y[:, 1] += 1
        y[:, 2:4] = m.fc(x)[:, :2]
        column.mul_(3)
        return m.fc(y) + y.view(6, 4).t()

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def update_then_view_updated() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        y.add_(1)
        column = y[:, 0]
        column.mul_(2)
        y = m.fc(y).t_()
        y[0].add_(1)
        return y * 2

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def outputs_collected() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = torch.zeros(3, 4, 6)
        for i in range(3):
            x = torch.tanh(m.fc(x))
            out[i] = x
        return m.fc(out)

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def base_updated_view_read() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        flat = y.view(-1)
        y.add_(1)
        return flat * 2

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def update_without_gradient() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        with torch.no_grad():
            y += 1
            shift = m.fc(x).mean()
        return (y * 2).sum() + m.fc(y).sum() - shift

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def stochastic_depth() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        keep = x.new_empty(x.shape[0], 1).bernoulli_(0.5)
        keep.div_(0.5)
        return x + m.fc(x) * keep

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def metadata_updated() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        y.t_().unsqueeze_(0)
        return y.squeeze_(0) * 2

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def promoted_update() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.fc(x)
        y += torch.ones(6, dtype=torch.float64)
        z = x.new_zeros(4, 6)
        z += y.sum(0)
        return y * z

    return Fn(forward, **linear()), (torch.randn(4, 6),)


class Counter(nn.Module):
    """Keeps a moving mean and a count of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x + self.mean)
        if self.training:
            self.mean.mul_(0.9).add_(y.detach().mean(0), alpha=0.1)
            self.calls += 1
        return self.fc(y - self.mean) / (self.calls + 1)


@case
def buffers_updated() -> Case:
    return Counter(), (torch.randn(4, 6),)


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
def parameter_updated() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            m.w.mul_(0.9).add_(m.fc.weight.detach(), alpha=0.1)
        return m.fc(x) @ m.w

    return Fn(forward, **linear(w=torch.randn(6, 6))), (torch.randn(4, 6),)


@case
def updated_by_another_name() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y, z = m.fc(x), m.fc(2 * x)
        y.detach().mul_(2)
        z.data.mul_(3)
        return y + z * m.fc(x)

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def updated_together() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        y, z = m.fc(x), m.fc(2 * x)
        torch._foreach_mul_([y, z], 2.0)
        with torch.no_grad():
            out = torch.empty(4, 6)
            torch.add(x, 1, out=out)
        part = z.as_strided((2, 3), (6, 1))
        part += 1
        return y + m.fc(z) * out

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def spectral_norm() -> Case:
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
    return nn.Sequential(normed, nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))), (
        torch.randn(4, 6),
    )


@case
def instance_norm() -> Case:
    return nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (torch.randn(2, 3, 5),)


@case
def random_numbers() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        noise = torch.rand(4, 6) + torch.randn_like(x) * F.gumbel_softmax(x)
        return m.fc(x) * noise + F.rrelu(m.fc(x), training=True) + torch.bernoulli(x.sigmoid())

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def gradients_switched() -> Case:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = m.fc(x)
            with torch.enable_grad():
                z = m.fc(x) * 2
            w = m.fc(x)
        return y + z * w + m.fc(x)

    return Fn(forward, **linear()), (torch.randn(4, 6),)


@case
def inputs_handed_out() -> Case:
    return Fn(lambda m, x: (x.view(-1), m.fc(x), x, x[:2]), **linear()), (torch.randn(4, 6),)
