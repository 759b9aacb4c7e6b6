"""Small modules that update tensors in place: parameters, buffers, views and intermediates."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.training.capture_models import Case, Fn, case, linear


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
def embedding_renormalised() -> Case:
    def forward(m: Any, tokens: Tensor) -> Tensor:
        return m.fc(m.table(tokens))

    table = nn.Embedding(9, 6, max_norm=1.0)
    return Fn(forward, **linear(table=table)), (torch.randint(9, (2, 4)),)


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
