"""Does half precision cost accuracy? Trains two classifiers and scores them in FP32, FP16 and BF16.

    pip install scikit-learn
    python examples/digits.py

The data are scikit-learn's 1,797 handwritten digits, 8 x 8 pixels from 0 to 16. Training takes
seconds on a CPU. The low precision rows are the converted ONNX model, emulated: every value that
it stores in FP16 or BF16 is rounded to that type, as a GPU would (docs/parity.md).
"""

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.model_selection import train_test_split
from torch import nn

import ampconvert


def main() -> None:
    """Train both models, convert each to both types, print one row of scores for each."""
    train_x, test_x, train_y, test_y = digits()
    table = Table("model", "precision", "accuracy", "recall", "F1", "same answer as FP32")
    for name, model in (("MLP", mlp()), ("CNN", cnn())):
        train(model, train_x, train_y)
        with torch.no_grad():
            full = model(test_x).argmax(dim=-1).numpy()
        table.add_row(name, "FP32", *scores(test_y, full), "")
        for dtype in ("float16", "bfloat16"):
            # The statistics come from training pictures; the test pictures stay unseen.
            seen = [((batch,), {}) for batch in train_x[: 2 * len(test_x)].split(len(test_x))]
            result = ampconvert.convert(model, (test_x,), dtype=dtype, data=seen, out=None)
            low = predict(result, test_x)
            table.add_row(name, dtype, *scores(test_y, low), f"{np.mean(full == low):.2%}")
    Console().print(table)


def digits() -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """Pictures float32[N, 1, 8, 8] and labels int[N]: 80 % to train with, 20 % to test with."""
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1)
    return train_test_split(x, data.target, test_size=0.2, random_state=0, stratify=data.target)


def mlp() -> nn.Module:
    """Two hidden layers on the 64 raw pixels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def cnn() -> nn.Module:
    """Two convolutions, each with batch normalisation, and one linear layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 2 * 2, 10)),
    )


def train(model: nn.Module, x: torch.Tensor, labels: np.ndarray, epochs: int = 15) -> None:
    """Plain FP32 training with Adam on batches of 64; leaves the model in eval mode."""
    y = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    shuffle = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=shuffle).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    model.eval()


def predict(result: ampconvert.Conversion, x: torch.Tensor) -> np.ndarray:
    """Class numbers from the converted ONNX model, emulated so that every rounding shows."""
    [[logits]] = result.run([((x,), {})])  # one batch of inputs, and its only output
    return logits.argmax(axis=-1)


def scores(truth: np.ndarray, predicted: np.ndarray) -> tuple[str, str, str]:
    """Accuracy, and recall and F1 averaged over the ten classes."""
    return (
        f"{accuracy_score(truth, predicted):.2%}",
        f"{recall_score(truth, predicted, average='macro'):.2%}",
        f"{f1_score(truth, predicted, average='macro'):.2%}",
    )


if __name__ == "__main__":
    main()
