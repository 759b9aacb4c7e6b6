"""A gradient penalty: a backward pass through gradients (double backward)."""

import copy
import json

import torch
from torch import nn
from torch.nn import functional as F
from ways import Way


def grads(forward, model, x, y):
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(forward(x).float(), y)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    (loss + 10 * (slope.norm(dim=1) ** 2).mean()).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
x, y = torch.randn(64, 16), torch.randint(4, (64,))
full = copy.deepcopy(model)
true = grads(full, full, x, y)
way = Way(model, torch.optim.SGD(model.parameters(), lr=0.1))
seen = grads(way.forward, model, x, y)
print(json.dumps({"error": ((seen - true).norm() / true.norm()).item()}))
