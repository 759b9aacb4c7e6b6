"""Twenty steps with torch.compile (its aot_eager backend, which needs no C compiler)."""

import json

import torch
from torch import nn
from torch.nn import functional as F
from ways import OURS, Way

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 4))
way = Way(model, torch.optim.Adam(model.parameters(), lr=1e-2), inner="aot_eager")
forward = way.forward if way.name == OURS else torch.compile(way.forward, backend="aot_eager")
x, y = torch.randn(64, 16), torch.randint(4, (64,))
losses = []
for _ in range(20):
    way.optimizer.zero_grad()
    loss = F.cross_entropy(forward(x).float(), y)
    way.backward(loss)
    way.step()
    losses.append(loss.item())
print(json.dumps({"first": losses[0], "last": losses[-1]}))
