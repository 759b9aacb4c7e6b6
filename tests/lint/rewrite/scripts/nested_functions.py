import hashlib
from functools import reduce

import torch
from torch import nn, optim


def experiment(seed, lr):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    optimizer = optim.RMSprop(model.parameters(), lr=lr)
    ce = nn.CrossEntropyLoss(label_smoothing=0.05)

    def batch(n=64):
        x = torch.randn(n, 4)
        return x, (x.prod(1) > 0).long()

    def train_step():
        x, y = batch()
        optimizer.zero_grad()
        out = model(x)
        loss = ce(out, y)
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [train_step() for _ in range(150)]
    for i in range(0, 150, 30):
        print("loss", sum(losses[i:i + 30]) / 30)
    return model


if __name__ == "__main__":
    trained = experiment(seed=4, lr=5e-3)
    digest = reduce(lambda h, p: h.update(p.detach().numpy().tobytes()) or h, trained.parameters(), hashlib.sha256())
    print("parameters", digest.hexdigest())
