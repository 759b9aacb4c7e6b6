# Thread: https://github.com/NVIDIA/TransformerEngine/pull/2240
# Title: Disable torch autocast context in rope forward pass
# Right: The rotary angles are computed in a region with autocast disabled, so the float32 casts really hold.
import torch
from torch import nn


class Rotary(nn.Module):
    def __init__(self, dim, base=10000.0):
        super().__init__()
        self.register_buffer("inv_freq", base ** (-torch.arange(0, dim, 2).float() / dim))

    def forward(self, length):
        with torch.autocast(self.inv_freq.device.type, enabled=False):
            where = torch.arange(length, device=self.inv_freq.device, dtype=torch.float32)
            angles = where[:, None] @ self.inv_freq.float()[None, :]
        return torch.cat((angles, angles), dim=-1)


class Encoder(nn.Module):
    def __init__(self, dim, depth):
        super().__init__()
        self.rotary = Rotary(dim)
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth))

    def forward(self, x):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            angles = self.rotary(x.shape[1])
            for layer in self.layers:
                x = x * angles.cos() + layer(x) * angles.sin()
        return x
