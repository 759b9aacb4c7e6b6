# Thread: https://github.com/huggingface/accelerate/issues/439
# Title: Potential bugs caused by AcceleratedOptimizer
# Wrong: The shared scaler is updated after each optimizer's step, so the second optimizer's gradients are judged with another scale.
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b


def run(pair: Pair, batches, criterion, lr=1e-3):
    optim0 = torch.optim.Adam(pair.a.parameters(), lr=lr)
    optim1 = torch.optim.Adam(pair.b.parameters(), lr=lr)
    scaler = torch.amp.GradScaler("cuda")
    for x, target in batches:
        optim0.zero_grad()
        optim1.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            loss0 = criterion(pair.a(x), target)
            loss1 = criterion(pair.b(x), target)
        scaler.scale(loss0).backward()
        scaler.scale(loss1).backward()
        scaler.step(optim0)
        scaler.update()  # expect: AMP210
        scaler.step(optim1)
        scaler.update()  # may: AMP210
