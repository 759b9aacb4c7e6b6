import hashlib
import copy
import torch
import torch.nn as nn
from torch.optim.lr_scheduler import ReduceLROnPlateau


class EarlyStopping:
    def __init__(self, patience=3, delta=1e-3):
        self.patience, self.delta = patience, delta
        self.best, self.count, self.weights = None, 0, None

    def step(self, value, model):
        if self.best is None or value < self.best - self.delta:
            self.best, self.count = value, 0
            self.weights = copy.deepcopy(model.state_dict())
        else:
            self.count += 1
        return self.count >= self.patience


torch.manual_seed(31)
x = torch.randn(240, 6)
y = (x[:, :1] * x[:, 1:2]).clamp(-1, 1)
x_train, y_train, x_val, y_val = x[:200], y[:200], x[200:], y[200:]
model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
scheduler = ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
stopper = EarlyStopping()
huber = nn.HuberLoss()

for epoch in range(25):
    model.train()
    perm = torch.randperm(200)
    for j in range(0, 200, 50):
        batch = perm[j:j + 50]
        loss = huber(model(x_train[batch]), y_train[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val_loss = huber(model(x_val), y_val).item()
    scheduler.step(val_loss)
    print("epoch", epoch, "loss", val_loss)
    if epoch >= 8 and stopper.step(val_loss, model):
        break
print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
