# Thread: https://github.com/Lightning-AI/pytorch-lightning/pull/9606
# Title: [Bugfix] Fix location of `unscale` in mixed precision plugin
# Wrong: Norm tracking and clipping each unscale the gradients of the same step; the second unscale_ raises a RuntimeError.
import torch
from torch import nn


class Loop:
    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, clip_val: float = 0.0):
        self.module = module
        self.optimizer = optimizer
        self.clip_val = clip_val
        self.scaler = torch.amp.GradScaler("cuda")
        self.history = []

    def run_batch(self, x, y):
        with torch.autocast("cuda", dtype=torch.float16):
            loss = nn.functional.smooth_l1_loss(self.module(x), y)
        self.scaler.scale(loss).backward()

        self.scaler.unscale_(self.optimizer)
        grads = [p.grad for p in self.module.parameters() if p.grad is not None]
        self.history.append(torch.nn.utils.get_total_norm(grads).item())

        self.scaler.unscale_(self.optimizer)  # expect: AMP205
        nn.utils.clip_grad_value_(self.module.parameters(), self.clip_val)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
