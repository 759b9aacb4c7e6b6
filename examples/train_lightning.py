"""Training under Lightning: one plugin, and the LightningModule stays as it is.

pip install lightning scikit-learn
python examples/train_lightning.py --dtype fp16

The data are scikit-learn's 1,797 handwritten digits.
"""

import argparse
import logging

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from ampconvert.training.lightning import AmpconvertPrecision


class Classifier(L.LightningModule):
    """A picture of 8 x 8 pixels in, scores of ten digits out."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 128), nn.LayerNorm(128), nn.GELU(), nn.Linear(128, 10)
        )

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        x, y = batch
        self.log("accuracy", (self.net(x).argmax(dim=-1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("fp16", "bf16"), default="fp16")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    L.seed_everything(0, verbose=False)
    train_set, test_set = digits()
    trainer = L.Trainer(
        max_epochs=options.epochs,
        accelerator="auto",
        devices=1,
        plugins=AmpconvertPrecision(options.dtype),
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(), DataLoader(train_set, 64, shuffle=True), DataLoader(test_set, 360))
    for name, value in sorted(trainer.callback_metrics.items()):
        print(f"{name} {value.item():g}")


def digits() -> list[TensorDataset]:
    """Handwritten digits, float32[64] from 0 to 1, and labels: to train, and to test with."""
    data = load_digits()
    pictures = torch.tensor(data.data, dtype=torch.float32) / 16
    return random_split(TensorDataset(pictures, torch.tensor(data.target)), [0.8, 0.2])


if __name__ == "__main__":
    main()
