"""A training script with a mistake in its line 23, and a folder of sources without any."""

from pathlib import Path

Path("src").mkdir()
Path("src/evaluate.py").write_text(
    "import torch\n\n\n@torch.no_grad()\ndef evaluate(model, x):\n    return model(x)\n",
    encoding="utf-8",
)
Path("train.py").write_text(
    '''\
"""Trains a network in FP16."""

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_


class Trainer:
    def __init__(self, net):
        self.net = net
        self.optimizer = torch.optim.AdamW(net.parameters())
        self.scaler = torch.amp.GradScaler("cuda")
        self.criterion = nn.CrossEntropyLoss()

    def fit(self, loader, epochs):
        for _ in range(epochs):
            for x, y in loader:
                self.optimizer.zero_grad()
                with torch.autocast("cuda", dtype=torch.float16):
                    loss = self.criterion(self.net(x), y)

            self.scaler.scale(loss).backward()
            clip_grad_norm_(self.net.parameters(), 1.0)
            self.scaler.step(self.optimizer)
            self.scaler.update()
''',
    encoding="utf-8",
)
