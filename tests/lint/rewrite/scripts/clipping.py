import hashlib
import torch
import torch.nn as nn
from torch.nn.utils import clip_grad_norm_


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.ff = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x):
        return x + self.ff(self.norm(x))


torch.manual_seed(11)
model = nn.Sequential(nn.Linear(8, 16), Block(16), Block(16), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
loss_fn = nn.SmoothL1Loss()
x = torch.randn(512, 8)
y = x.sum(1, keepdim=True).sin()

step = 0
while step < 60:
    idx = torch.randint(0, 512, (64,))
    optimizer.zero_grad(set_to_none=True)
    loss = loss_fn(model(x[idx]), y[idx])
    loss.backward()
    # keep the gradients small
    clip_grad_norm_(model.parameters(), max_norm=0.5)
    optimizer.step()
    if step % 10 == 0:
        print(f"step {step} loss {loss.item()!r}")
    step += 1

print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
