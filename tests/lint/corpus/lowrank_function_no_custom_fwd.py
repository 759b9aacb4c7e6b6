# Thread: https://github.com/pytorch/pytorch/issues/47906
# Title: amp for custom op
# Wrong: The custom operator multiplies matrices without custom_fwd/custom_bwd, so backward does not see the autocast state of forward and mixes Half and Float.
import torch
from torch import nn
from torch.autograd.function import once_differentiable


class LowRankProduct(torch.autograd.Function):  # may: AMP112
    @staticmethod
    def forward(ctx, x, left, right):  # expect: AMP112
        inner = x @ left
        ctx.save_for_backward(x, left, right, inner)
        return inner @ right

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, left, right, inner = ctx.saved_tensors
        grad_inner = grad @ right.t()
        return grad_inner @ left.t(), x.t() @ grad_inner, inner.t() @ grad


class LowRankLinear(nn.Module):
    def __init__(self, n_in, n_out, rank=16):
        super().__init__()
        self.left = nn.Parameter(torch.randn(n_in, rank) / n_in**0.5)
        self.right = nn.Parameter(torch.zeros(rank, n_out))

    def forward(self, x):
        return LowRankProduct.apply(x, self.left, self.right)


def forward_amp(layer: LowRankLinear, x):
    with torch.autocast("cuda", dtype=torch.float16):
        return layer(x)
