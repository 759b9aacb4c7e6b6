"""A training script in FP32, and a folder of sources without a mistake."""

from pathlib import Path

Path("src").mkdir()
Path("src/evaluate.py").write_text(
    "import torch\n\n\n@torch.no_grad()\ndef evaluate(model, x):\n    return model(x)\n",
    encoding="utf-8",
)
Path("train.py").write_text(
    """\
import torch
from torch import nn


def train(loader):
    device = torch.device("cuda")
    model = nn.Linear(8, 2).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    criterion = nn.CrossEntropyLoss()
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
""",
    encoding="utf-8",
)
