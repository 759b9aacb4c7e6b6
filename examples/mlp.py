"""The smallest model: two linear layers with a ReLU between them.

    ampconvert examples/mlp.py

ampconvert finds the one nn.Module class of the file and guesses its input from Linear(3, 10).
"""

import torch
from torch import nn


class MLP(nn.Module):
    """Three numbers in, three numbers out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)  # the same weights in every run
        self.hidden = nn.Linear(3, 10)
        self.out = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.hidden(x)))
