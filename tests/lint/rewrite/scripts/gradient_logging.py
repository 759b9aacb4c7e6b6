import hashlib
import logging
import torch
from torch import nn

logging.basicConfig(level=logging.INFO)
log = logging.getLogger(__name__)


def grad_norm(module):
    total = 0.0
    for name, p in module.named_parameters():
        if p.grad is not None:
            total += p.grad.detach().norm(2).item() ** 2
    return total ** 0.5


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(10, 10) for _ in range(3)])
        self.final = nn.Linear(10, 1)

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return self.final(x)


torch.manual_seed(19)
model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
loss_function = nn.MSELoss()
x = torch.randn(30, 32, 10)
y = x.mean(2, keepdim=True)
for i, (xb, yb) in enumerate(zip(x, y)):
    optimizer.zero_grad()
    loss = loss_function(model(xb), yb)
    loss.backward()
    if i % 5 == 0:
        norm = grad_norm(model)
        log.info("step %d norm %.3f", i, norm)
        print(f"step {i} loss {loss.item()!r}")
        if norm > 1e4:
            optimizer.zero_grad()
            continue
    optimizer.step()
print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
