import hashlib
import torch
import torch.nn as nn
import torch.nn.functional as F


class LogisticNet(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.hidden = nn.Linear(n, 12)
        self.out = nn.Linear(12, 1)

    def forward(self, x):
        return torch.sigmoid(self.out(F.relu(self.hidden(x))))


def weighted(prob, target, pos=2.0):
    w = torch.where(target > 0.5, pos, 1.0)
    return F.binary_cross_entropy(prob, target, weight=w)


torch.manual_seed(12)
data = torch.rand(6, 40, 7)
truth = (data.sum(-1, keepdim=True) > 3.5).float()
clf = LogisticNet(7)
opt = torch.optim.SGD(clf.parameters(), lr=0.5, momentum=0.9)
for epoch in range(12):
    hits = 0
    losses = []
    for x, y in zip(data, truth):
        p = clf(x)
        loss = weighted(p, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        hits += ((p > 0.5).float() == y).sum().item()
        losses.append(loss.item())
    print("epoch", epoch, "loss", sum(losses) / len(losses), "hits", hits > 100)
print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in clf.parameters())).hexdigest())
