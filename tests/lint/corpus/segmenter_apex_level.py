# Thread: https://github.com/Lightning-AI/pytorch-lightning/issues/2677
# Title: Does pytorch-lightning support mixed-precision training?
# Wrong: amp_backend and amp_level were removed from the Trainer and precision=16 is a legacy value: the call raises a TypeError.
import pytorch_lightning as pl
import torch
from torch import nn


class Segmenter(pl.LightningModule):
    def __init__(self, channels=32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 21, 1)
        )

    def forward(self, x):
        return self.body(x)

    def training_step(self, batch, batch_idx):
        image, label = batch
        return nn.functional.cross_entropy(self(image), label, ignore_index=255)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(datamodule, epochs):
    trainer = pl.Trainer(max_epochs=epochs, precision=16, amp_backend="apex", amp_level="O2")  # expect: AMP006
    trainer.fit(Segmenter(), datamodule=datamodule)
