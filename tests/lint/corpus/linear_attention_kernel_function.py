# Thread: https://github.com/idiap/fast-transformers/issues/32
# Title: Support for 16-bit Floats
# Wrong: The autograd Function hands its inputs to a float-only kernel without custom_fwd/custom_bwd; under autocast it gets half: "expected scalar type Float but found Half".
import torch
from torch import nn

from causal_product_cuda import causal_dot_product, causal_dot_backward


class CausalDot(torch.autograd.Function):  # may: AMP112
    @staticmethod
    def forward(ctx, queries, keys, values):  # expect: AMP112
        ctx.save_for_backward(queries, keys, values)
        n, h, length, _ = queries.shape
        product = torch.zeros(n, h, length, values.shape[-1], device=queries.device)
        causal_dot_product(queries, keys, values, product)
        return product

    @staticmethod
    def backward(ctx, grad_out):
        queries, keys, values = ctx.saved_tensors
        grads = [torch.zeros_like(t) for t in (queries, keys, values)]
        causal_dot_backward(queries, keys, values, grad_out, *grads)
        return tuple(grads)


class CausalLinearAttention(nn.Module):
    def forward(self, q, k, v):
        q, k = nn.functional.elu(q) + 1, nn.functional.elu(k) + 1
        return CausalDot.apply(q, k, v)


def step(model, opt, scaler, ids, targets):
    with torch.autocast("cuda", dtype=torch.float16):
        logits = model(ids)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()
