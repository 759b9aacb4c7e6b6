"""A training loop with four mistakes in mixed precision."""

import torch
from torch import nn
from torch.cuda.amp import GradScaler, autocast

model = nn.Linear(8, 8).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = GradScaler()
for x, hidden in loader:  # noqa: F821
    optimizer.zero_grad()
    with autocast():
        scores = model(x).half().masked_fill(hidden, -1e9)
        loss = torch.softmax(scores, dim=-1).sum()
    scaler.scale(loss).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
