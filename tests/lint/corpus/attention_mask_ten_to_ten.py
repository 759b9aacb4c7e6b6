# Thread: https://github.com/NVIDIA/apex/issues/1105
# Title: Runtime error in mixed precision training in attention mask of transformers
# Wrong: Attention scores are half under autocast and masked with -1e10: "value cannot be converted to type at::Half without overflow".
import math

import torch
from torch import nn


class HeadMaskedAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x, head_mask):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attn_scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
        attn_scores = attn_scores.masked_fill(head_mask == 0, -1e10)  # expect: AMP401
        mixed = torch.softmax(attn_scores, dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


def training_step(layer, head, batch, optimizer, scaler):
    with torch.autocast("cuda", dtype=torch.float16):
        logits = head(layer(batch["x"], batch["mask"]))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch["y"].flatten())
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
