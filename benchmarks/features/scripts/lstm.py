"""Ten steps of an LSTM in float16 on a CPU."""

import json

import torch
from torch import nn
from torch.nn import functional as F
from ways import Way


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


torch.manual_seed(0)
model = Net()
way = Way(model, torch.optim.Adam(model.parameters(), lr=1e-2))
x, y = torch.randn(32, 10, 16), torch.randint(4, (32,))
losses = []
for _ in range(10):
    way.optimizer.zero_grad()
    loss = F.cross_entropy(way.forward(x).float(), y)
    way.backward(loss)
    way.step()
    losses.append(loss.item())
print(json.dumps({"first": losses[0], "last": losses[-1]}))
