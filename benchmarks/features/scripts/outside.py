"""Which type a product has that no module computes, and one in a method other than forward."""

import json

import torch
from torch import nn
from ways import AUTOCAST, Way


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.a(x)

    def encode(self, x):
        return self.b(x)


model = Two()
way = Way(model, torch.optim.SGD(model.parameters(), lr=0.1))
x = torch.randn(64, 16)
way.forward(x)
with torch.autocast("cpu", torch.float16, enabled=way.name == AUTOCAST):
    free, method = x @ x.T, model.encode(x)
print(json.dumps({"function": str(free.dtype), "method": str(method.dtype)}))
