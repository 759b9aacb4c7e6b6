"""The two ways to train in float16 that the table compares, for the scripts beside this one."""

import sys

import torch
from torch import nn

OURS, AUTOCAST = "ampconvert", "autocast"


class Way:
    """Forward, backward and step of a float16 training on a CPU, by ampconvert or by torch.amp."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, **options) -> None:
        self.name, self.optimizer, self.skipped, self.steps = sys.argv[1], optimizer, 0, 0
        if self.name == OURS:
            import ampconvert

            self.model = ampconvert.prepare_training(model, dtype=torch.float16, **options)
            self.guard = ampconvert.skip_nonfinite_steps(optimizer, self.model)
        else:
            self.model, self.scaler = model, torch.amp.GradScaler("cpu")

    def forward(self, *args):
        if self.name == OURS:
            return self.model(*args)
        with torch.autocast("cpu", torch.float16):
            return self.model(*args)

    def backward(self, loss):
        (loss if self.name == OURS else self.scaler.scale(loss)).backward()

    def step(self):
        """Whether the step was skipped."""
        self.steps += 1
        if self.name == OURS:
            before = self.guard.skipped
            self.optimizer.step()
            was_skipped = self.guard.skipped > before
        else:
            before = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            was_skipped = self.scaler.get_scale() < before
        self.skipped += was_skipped
        return was_skipped
