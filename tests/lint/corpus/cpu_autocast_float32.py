# Thread: https://github.com/pytorch/pytorch/issues/100565
# Title: RuntimeError when using autocast with CPU device and float32 dtype, works correctly on CUDA device
# Wrong: autocast to float32 is asked for on the CPU, which older torch refuses and newer torch answers with a warning and no autocast.
from contextlib import nullcontext

import torch
from torch import nn


class CharModel(nn.Module):
    def __init__(self, vocab=65, dim=128):
        super().__init__()
        self.table = nn.Embedding(vocab, dim)
        self.head = nn.Linear(dim, vocab)

    def forward(self, idx):
        return self.head(self.table(idx))


def sample(model, start, steps=200, amp=True):
    ctx = torch.autocast(device_type="cpu", dtype=torch.float32) if amp else nullcontext()  # expect: AMP102
    idx = start
    with torch.no_grad(), ctx:  # may: AMP102
        for _ in range(steps):
            probs = torch.softmax(model(idx)[:, -1], dim=-1)
            idx = torch.cat([idx, torch.multinomial(probs, 1)], dim=1)
    return idx
