"""The same training twice: in FP32, and in FP16 or BF16, which takes two lines more.

    pip install scikit-learn
    python examples/train.py --dtype fp16
    python examples/train.py --dtype bf16 --log runs      # then: tensorboard --logdir runs

The data are scikit-learn's 1,797 handwritten digits. Both trainings start from the same weights and
see the same batches. A CPU computes FP16 slowly; the point here is what is learnt, not the time.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

import ampconvert

Split = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    """Train in both types, and print one line for each."""
    options = parse()
    train_set, test_set = digits()

    full = cnn()
    loss = train(full, torch.optim.AdamW(full.parameters(), lr=2e-3), train_set, options.epochs)
    print(f"fp32  loss {loss:.4f}  accuracy {accuracy(full, test_set):.2%}")

    # These two lines are all that differs.
    model = ampconvert.prepare_training(cnn(), dtype=options.dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    guard = ampconvert.skip_nonfinite_steps(optimizer, model)

    with writer(options.log) as log:
        loss = train(model, optimizer, train_set, options.epochs, log)
    print(f"{options.dtype}  loss {loss:.4f}  accuracy {accuracy(model, test_set):.2%}")
    print(f"loss scale {guard.scale:g}, {guard.skipped} of {guard.steps} steps skipped")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("fp16", "bf16"), default="fp16")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--log", type=Path, help="folder for TensorBoard's event files")
    return parser.parse_args()


def digits() -> tuple[Split, Split]:
    """Pictures float32[N, 1, 8, 8] from 0 to 1 and labels int64[N]: to train, and to test with."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(data.target)
    train_x, test_x, train_y, test_y = train_test_split(x, y, test_size=0.2, random_state=0)
    return (train_x, train_y), (test_x, test_y)


def cnn() -> nn.Module:
    """Two convolutions, each with batch normalisation, and one linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.1), nn.Linear(32 * 2 * 2, 10)),
    )


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, data: Split, epochs: int, log=None
) -> float:
    """An ordinary loop, which knows nothing of types; gives the last epoch's mean loss."""
    x, y = data
    shuffle = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(x), generator=shuffle).split(64):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(batch)
        if log is not None:
            log.add_scalar("loss", total / len(x), epoch)
            ampconvert.log_training(log, model, epoch)
    return total / len(x)


@torch.no_grad()
def accuracy(model: nn.Module, data: Split) -> float:
    x, y = data
    return (model.eval()(x).argmax(dim=-1) == y).float().mean().item()


def writer(folder: Path | None):
    """TensorBoard's writer, or nothing."""
    if folder is None:
        from contextlib import nullcontext

        return nullcontext()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)


if __name__ == "__main__":
    main()
