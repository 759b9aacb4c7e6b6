# Thread: https://github.com/gc-os-ai/pyaptamer/issues/230
# Title: [BUG] Finetuning crashes with AMP: `binary_cross_entropy` is unsafe to autocast (needs BCEWithLogitsLoss or disable autocast for loss)
# Wrong: The Trainer runs training_step in 16-mixed and the step uses binary_cross_entropy on probabilities: it crashes as unsafe to autocast.
import lightning as L
import torch
from torch import nn


class InteractionModel(nn.Module):
    def __init__(self, dim=128):
        super().__init__()
        self.mix = nn.Bilinear(dim, dim, dim)
        self.head = nn.Sequential(nn.Linear(dim, 1), nn.Sigmoid())

    def forward(self, aptamer, protein):
        return self.head(torch.relu(self.mix(aptamer, protein))).squeeze(1)


class AptaLightning(L.LightningModule):
    def __init__(self, model, lr=1e-5):
        super().__init__()
        self.model, self.lr = model, lr

    def training_step(self, batch, batch_idx):
        (aptamer, protein), y = batch
        y_hat = self.model(aptamer, protein)
        loss = nn.functional.binary_cross_entropy(y_hat, y.float())  # expect: AMP407
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def main(train_dl):
    trainer = L.Trainer(accelerator="gpu", devices=1, precision="16-mixed", max_epochs=100)
    trainer.fit(AptaLightning(InteractionModel()), train_dataloaders=train_dl)
