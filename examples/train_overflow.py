"""Dynamic precision at work: attention whose scores are too large for float16.

    python examples/train_overflow.py

The scores are scaled after the product, too late: in between they reach 3.6e5. The log says which
operators move to FP32, when, and why; after 1000 good steps they are tried in float16 again.
"""

import logging

import torch
from torch import nn
from torch.nn import functional as F

import ampconvert

STEPS = 1100


class Attention(nn.Module):
    """One head, with the scale in the wrong place."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) * 1e-3
        return self.out(torch.softmax(scores, dim=-1) @ x)


def main() -> None:
    logging.basicConfig(format="%(message)s")
    torch.manual_seed(0)
    model = ampconvert.prepare_training(Attention(), dtype=torch.float16)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    guard = ampconvert.skip_nonfinite_steps(optimizer, model)
    x, y = 250 * torch.randn(8, 10, 16), torch.randint(4, (8, 10))
    for step in range(STEPS):
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.3f}, loss scale {guard.scale:g}", flush=True)
    print(f"loss {loss.item():.3f}, {guard.skipped} of {guard.steps} steps skipped")


if __name__ == "__main__":
    main()
