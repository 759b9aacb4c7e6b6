"""What the README's training loop takes for given: a model, a loss and a batch."""

import torch

import ampconvert  # noqa: F401 - the block uses it

torch.manual_seed(0)
model = torch.nn.Linear(8, 2)
criterion = torch.nn.CrossEntropyLoss()
x, y = torch.randn(4, 8), torch.randint(2, (4,))
