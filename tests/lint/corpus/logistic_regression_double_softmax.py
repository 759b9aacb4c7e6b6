# Thread: https://github.com/Lightning-Universe/lightning-bolts/issues/654
# Title: Softmax applied twice when computing loss in LogisticRegression
# Wrong: forward already returns softmax and cross_entropy applies its own: the loss is flattened, and more so in half.
import lightning as L
import torch
import torch.nn.functional as F
from torch import nn


class LogisticRegression(L.LightningModule):
    def __init__(self, n_features, n_classes, lr=1e-4):
        super().__init__()
        self.linear = nn.Linear(n_features, n_classes)
        self.lr = lr

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(F.softmax(self.linear(x.flatten(1)), dim=1), y)  # expect: AMP406
        self.log("train_ce_loss", loss)
        return loss

    def predict_step(self, batch, batch_idx):
        return F.softmax(self.linear(batch[0].flatten(1)), dim=1)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def main(datamodule):
    trainer = L.Trainer(accelerator="gpu", precision="16-mixed", max_epochs=10)
    trainer.fit(LogisticRegression(784, 10), datamodule=datamodule)
