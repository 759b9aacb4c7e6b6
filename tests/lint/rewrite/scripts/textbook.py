import hashlib
import torch
import torch.nn as nn
import torch.optim as optim

torch.manual_seed(0)
dataloader = [(torch.randn(32, 10), torch.randn(32, 1) * 0.1 + 1.0) for _ in range(8)]

# Define the model
model = nn.Linear(10, 1)
criterion = nn.MSELoss()
optimizer = optim.Adam(model.parameters(), lr=0.05)

for epoch in range(12):
    total = 0.0
    for inputs, targets in dataloader:
        # Convert inputs to half precision
        inputs = inputs.half()
        targets = targets.half()

        outputs = model(inputs)
        loss = criterion(outputs, targets)

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"Epoch [{epoch + 1}/12], loss {total / 8!r}")
print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
