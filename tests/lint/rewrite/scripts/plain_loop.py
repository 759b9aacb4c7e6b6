import hashlib

import torch
import torch.nn as nn
import torch.optim as optim

torch.manual_seed(0)

X = torch.randn(256, 10)
y = (X @ torch.randn(10, 1)) + 0.1 * torch.randn(256, 1)

model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
criterion = nn.MSELoss()
optimizer = optim.Adam(model.parameters(), lr=1e-2)

for epoch in range(15):
    total = 0.0
    for i in range(0, len(X), 64):
        inputs, targets = X[i:i + 64], y[i:i + 64]

        # forward
        outputs = model(inputs)
        loss = criterion(outputs, targets)

        # backward and optimize
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch}: loss {total / 4!r}")

bits = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
print("parameters", hashlib.sha256(bits).hexdigest())
