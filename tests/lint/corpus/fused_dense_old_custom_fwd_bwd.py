# Thread: https://github.com/Dao-AILab/flash-attention/pull/1382
# Title: Fix deprecation warnings
# Wrong: The bare custom_fwd and custom_bwd decorators come from torch.cuda.amp; both are deprecated and warn on import.
import fused_dense_lib
import torch
from torch.cuda.amp import custom_bwd, custom_fwd  # may: AMP003


class DenseFunction(torch.autograd.Function):
    @staticmethod
    @custom_fwd  # expect: AMP003
    def forward(ctx, x, weight, bias):
        if torch.is_autocast_enabled():
            half = torch.get_autocast_dtype("cuda")
            x, weight, bias = x.to(half), weight.to(half), bias.to(half)
        ctx.save_for_backward(x, weight)
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    @custom_bwd  # expect: AMP003
    def backward(ctx, grad_output):
        x, weight = ctx.saved_tensors
        rows = x.reshape(-1, x.shape[-1])
        grad_rows = grad_output.reshape(-1, grad_output.shape[-1])
        grad_weight, grad_bias = fused_dense_lib.linear_bias_wgrad(rows, grad_rows, True)
        return grad_output @ weight, grad_weight, grad_bias


class FusedDense(torch.nn.Linear):
    def forward(self, x):
        return DenseFunction.apply(x, self.weight, self.bias)
