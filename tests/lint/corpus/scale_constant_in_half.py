# Thread: https://github.com/pytorch/pytorch/issues/98691
# Title: torch.tensor([0.01], dtype=torch.float16) * torch.tensor(65536, dtype=torch.float32) returns INF
# Wrong: 65536 is above float16's largest number, so the constant is inf and so is everything multiplied by it.
import torch
from torch import nn


class ScaledActivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(65536.0, dtype=torch.float16))  # expect: AMP403

    def forward(self, x):
        return torch.tanh(x * self.factor) / self.factor


def quantise(weights, bits=8):
    half = {name: w.to(torch.float16) for name, w in weights.items()}
    limit = torch.full((1,), 1e5, dtype=torch.float16)  # expect: AMP403
    return {name: torch.minimum(w.abs(), limit) * w.sign() / 2 ** (bits - 1) for name, w in half.items()}
