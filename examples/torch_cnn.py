"""A small image classifier in plain PyTorch, for 28 x 28 grey pictures and ten classes.

    ampconvert examples/torch_cnn.py
    ampconvert examples/torch_cnn.py --dtype bf16

Every model can come from a function named build_model(), with example_inputs() beside it.
"""

import torch
from torch import nn


def build_model() -> nn.Module:
    """Conv 32, pool, Conv 64, pool, Conv 64, Dense 64, Dense 10 and a softmax."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, kernel_size=3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 3 * 3, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
        nn.Softmax(dim=-1),
    )


def example_inputs() -> torch.Tensor:
    """Four pictures of random pixels between 0 and 1."""
    return torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
