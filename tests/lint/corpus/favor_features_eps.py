# Thread: https://github.com/facebookresearch/xformers/issues/96
# Title: Favor breaks with fp16
# Wrong: The normalisation of the random features is guarded with 1e-8, which underflows in half; the loss is nan at once.
import math

import torch
from torch import nn


class FavorAttention(nn.Module):
    def __init__(self, dim, features=128):
        super().__init__()
        self.register_buffer("omega", torch.randn(dim, features))
        self.scale = dim**-0.25
        self.features = features

    def phi(self, x):
        x = x * self.scale
        ratio = 1.0 / math.sqrt(self.features)
        return ratio * torch.relu(x @ self.omega)

    def forward(self, q, k, v):
        q_prime, k_prime = self.phi(q), self.phi(k)
        context = k_prime.transpose(-2, -1) @ v
        normaliser = q_prime @ k_prime.mean(dim=-2).unsqueeze(-1)
        return (q_prime @ context) / (normaliser + 1e-8)  # expect: AMP404


def micro_gpt_step(layers, head, x, y, opt, scaler):
    with torch.autocast("cuda", dtype=torch.float16):
        for attend, project in layers:
            q, k, v = project(x).chunk(3, dim=-1)
            x = x + attend(q, k, v)
        loss = nn.functional.cross_entropy(head(x).flatten(0, 1), y.flatten())
    opt.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(opt)
    scaler.update()
    return loss.item()
