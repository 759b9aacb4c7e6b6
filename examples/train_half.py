"""The textbook mistake: 16-bit tensors in an FP32 script with MSELoss and Adam.

    python examples/train_half.py

First as it is, then with a prepared model. Three standard normal numbers are mapped to the sum of
their squares. The table in docs/training.md comes from here.
"""

import torch
from torch import nn

import ampconvert


def main() -> None:
    x, y = data()
    print("FP32:", trained(network(), x, y))

    print("\nPyTorch")
    print("  inputs.half():", trained(network(), x.half(), y))
    print("  before a convolution:", attempted(nn.Conv2d(1, 4, 3), torch.rand(1, 1, 8, 8).half()))
    print("  targets.half():", trained(network(), x, y.half()))
    print("  targets.half() beyond 65504:", trained(network(), x, (2e4 * y).half(), steps=20))
    print("  model.half() too:", trained(network().half(), x.half(), y.half(), steps=20))

    print("\nampconvert")
    print("  inputs.half():", trained(network(), x.half(), y, prepared=True))
    convolution = ampconvert.prepare_training(nn.Conv2d(1, 4, 3))
    print("  before a convolution:", attempted(convolution, torch.rand(1, 1, 8, 8).half()))
    print("  targets.half():", trained(network(), x, y.half(), prepared=True))
    bad = trained(network(), x, (2e4 * y).half(), steps=20, prepared=True)
    print("  targets.half() beyond 65504:", bad)
    print("  model.half() too:", trained(network().half(), x.half(), y.half(), prepared=True))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Points float32[512, 3] and their squared lengths float32[512, 1]."""
    x = torch.randn(512, 3, generator=torch.Generator().manual_seed(0))
    return x, (x**2).sum(dim=1, keepdim=True)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 1))


def trained(
    model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor, steps=300, prepared=False
) -> str:
    """What comes of it: the last loss and the weights that are not finite, or the error."""
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    broken = []
    try:
        if prepared:
            ampconvert.prepare_training(model)
            guard = ampconvert.skip_nonfinite_steps(optimizer, model)
        for _ in range(steps):
            loss = criterion(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            broken.append(sum(int((~p.isfinite()).sum()) for p in model.parameters()))
    except (RuntimeError, ampconvert.UserError) as error:
        return f"{type(error).__name__}: {error}"
    size = sum(p.numel() for p in model.parameters())
    told = f"loss {loss.item():.4f}, {broken[0]} of {size} weights not finite after step 1"
    told += f", {broken[1]} after step 2"
    return told + (f"; {guard.skipped} of {guard.steps} steps skipped" if prepared else "")


def attempted(model: nn.Module, x: torch.Tensor) -> str:
    try:
        return f"a result of type {model(x).dtype}"
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
