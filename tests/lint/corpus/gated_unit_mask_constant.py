# Thread: https://github.com/JunnYu/GAU-alpha-pytorch/issues/1
# Title: 半精度overflow
# Wrong: A module constant of 1e12 is subtracted from half attention scores as a mask; it does not fit float16 and overflows to inf.
import torch
from torch import nn

INF = 1e12  # may: AMP401


def attention_normalize(scores, mask, dim=-1):
    scores = scores - INF * (1.0 - mask)  # expect: AMP401
    return torch.softmax(scores, dim=dim)


class GatedAttentionUnit(nn.Module):
    def __init__(self, hidden=768, expansion=1536, key=128):
        super().__init__()
        self.key, self.expansion = key, expansion
        self.i_dense = nn.Linear(hidden, 2 * expansion + key, bias=False)
        self.o_dense = nn.Linear(expansion, hidden, bias=False)
        self.scale_q = nn.Parameter(torch.ones(key))
        self.scale_k = nn.Parameter(torch.ones(key))

    def forward(self, states, mask):
        sizes = [self.expansion, self.expansion, self.key]
        u, v, qk = nn.functional.silu(self.i_dense(states)).split(sizes, dim=-1)
        q, k = qk * self.scale_q / self.key**0.5, qk * self.scale_k
        weights = attention_normalize(q @ k.transpose(1, 2), mask[:, None, :].to(states.dtype))
        return self.o_dense(u * (weights @ v))


def encode(units, embedded, mask):
    with torch.autocast("cuda", dtype=torch.float16):
        for unit in units:
            embedded = embedded + unit(embedded, mask)
    return embedded
