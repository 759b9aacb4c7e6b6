import hashlib
import torch
import torch.nn as nn
from torch.optim.lr_scheduler import OneCycleLR


def build(dim):
    return nn.Sequential(nn.Linear(dim, 40), nn.SiLU(), nn.Linear(40, 1))


def run_epoch(model, batches, optimizer, scheduler=None):
    losses = []
    for x, y in batches:
        loss = ((model(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), 5.0)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


torch.manual_seed(13)
xs = torch.randn(12, 32, 8)
ys = xs[..., :1] * 2 - xs[..., 1:2]
batches = list(zip(xs, ys))
network = build(8)
sgd = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
cycle = OneCycleLR(sgd, max_lr=0.05, total_steps=12 * 8)
for epoch in range(8):
    mean = run_epoch(network, batches, sgd, cycle)
    print("epoch", epoch, "loss", mean)
print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in network.parameters())).hexdigest())
