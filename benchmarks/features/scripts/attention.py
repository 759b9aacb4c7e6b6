"""Attention whose scores reach 3.6e5, beyond float16, trained for 60 steps."""

import json
import logging
import sys

import torch
from torch import nn
from torch.nn import functional as F
from ways import OURS, Way

STEPS = 60


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        scores = self.q(x) @ self.k(x).transpose(-1, -2) * 1e-3
        return self.out(torch.softmax(scores, dim=-1) @ x)


logging.basicConfig(format="%(message)s", stream=sys.stderr)
torch.manual_seed(0)
model = Attention()
way = Way(model, torch.optim.Adam(model.parameters(), lr=1e-3))
x, y = 250 * torch.randn(8, 10, 16), torch.randint(4, (8, 10))
for _ in range(STEPS):
    way.optimizer.zero_grad()
    loss = F.cross_entropy(way.forward(x).float().flatten(0, 1), y.flatten())
    way.backward(loss)
    way.step()
told = ""
if sys.argv[1] == OURS:
    import ampconvert

    told = str(ampconvert.explain_training(way.model))
finite = bool(torch.isfinite(loss))
print(json.dumps({"skipped": way.skipped, "steps": STEPS, "finite": finite, "told": told}))
