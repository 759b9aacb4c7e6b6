# Thread: https://github.com/pytorch/pytorch/issues/37730
# Title: torch.utils.checkpoint.checkpoint + torch.cuda.amp fails
# Wrong: The recomputation in backward does not restore the autocast state of the forward pass, so it runs in another dtype and fails.
import torch
from torch import nn


class Recompute(torch.autograd.Function):  # may: AMP108
    @staticmethod
    def forward(ctx, run, count, *args):
        ctx.run = run
        ctx.inputs = list(args[:count])
        ctx.params = list(args[count:])
        with torch.no_grad():
            return ctx.run(*ctx.inputs)

    @staticmethod
    def backward(ctx, grad):  # may: AMP108
        inputs = [x.detach().requires_grad_(True) for x in ctx.inputs]
        with torch.enable_grad():  # expect: AMP108
            out = ctx.run(*[x.view_as(x) for x in inputs])  # may: AMP108
        grads = torch.autograd.grad(out, inputs + ctx.params, grad, allow_unused=True)
        return (None, None) + grads


class Stage(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return Recompute.apply(self.layers, 1, x, *self.layers.parameters())


def loss_of(stages, head, images, labels):
    with torch.autocast("cuda", dtype=torch.float16):
        for stage in stages:
            images = stage(images)
        return nn.functional.cross_entropy(head(images.mean((2, 3))), labels)
