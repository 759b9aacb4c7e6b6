# Thread: https://github.com/pfnet/pytorch-pfn-extras/issues/636
# Title: Support passing `closure` argument to optimizers
# Wrong: LBFGS gets its closure through scaler.step(); GradScaler does not support closures and the inner evaluations are not scaled right.
import torch
from torch import nn


def solve(net: nn.Module, collocation, residual, steps=100):
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=20, line_search_fn="strong_wolfe")
    scaler = torch.amp.GradScaler("cuda")

    def closure():
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss = residual(net, collocation)
        scaler.scale(loss).backward()
        return loss

    for step in range(steps):
        loss = closure()
        scaler.step(optimizer, closure)  # expect: AMP213
        scaler.update()
        if step % 10 == 0:
            print(step, float(loss))
    return net
