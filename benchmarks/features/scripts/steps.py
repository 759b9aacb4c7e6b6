"""Gradients after backward against FP32's, and a step with an infinite gradient."""

import copy
import json

import torch
from torch import nn
from torch.nn import functional as F
from ways import Way

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
x, y = torch.randn(64, 16), torch.randint(4, (64,))
full = copy.deepcopy(model)
F.cross_entropy(full(x), y).backward()

way = Way(model, torch.optim.SGD(model.parameters(), lr=0.1))
way.backward(F.cross_entropy(way.forward(x).float(), y))
true, seen = (torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (full, model))
ratio = (seen.norm() / true.norm()).item()
way.step()

before = [p.detach().clone() for p in model.parameters()]
way.optimizer.zero_grad()
way.backward(F.cross_entropy(way.forward(x * 1e30).float(), y))
skipped = way.step()
kept = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
print(json.dumps({"ratio": ratio, "skipped": skipped, "weights_kept": kept}))
