# Thread: https://github.com/pytorch/pytorch/pull/172178
# Title: Add error message when autocast is misused as a function wrapper
# Wrong: The autocast object is called with a tensor as though it were a cast; it wraps its argument like a decorator and never becomes active.
import torch
from torch import nn


class MixedBlock(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        h = torch.autocast("cuda", dtype=torch.bfloat16)(self.norm(x))  # expect: AMP105
        return x + self.down(torch.nn.functional.gelu(self.up(h)))


def logits(blocks, head, tokens):
    for block in blocks:
        tokens = block(tokens)
    return head(tokens)
