# Thread: https://github.com/Lightning-AI/pytorch-lightning/issues/4148
# Title: missing scaler.scale in manual_backward?
# Wrong: The module scales the loss itself although the Trainer's 16-mixed plugin scales in manual_backward: two scalers, wrong unscaling.
import lightning as L
import torch
from torch import nn


class TwoPlayer(L.LightningModule):
    def __init__(self, latent=64):
        super().__init__()
        self.automatic_optimization = False
        self.latent = latent
        self.gen = nn.Sequential(nn.Linear(latent, 256), nn.ReLU(), nn.Linear(256, 784))
        self.dis = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 1))
        self.scaler = torch.amp.GradScaler("cuda")  # expect: AMP008

    def training_step(self, batch, batch_idx):
        real, _ = batch
        opt_g, opt_d = self.optimizers()
        noise = torch.randn(real.size(0), self.latent, device=self.device)
        loss_d = self.dis(self.gen(noise).detach()).mean() - self.dis(real.flatten(1)).mean()
        opt_d.zero_grad()
        self.manual_backward(self.scaler.scale(loss_d))  # may: AMP008
        opt_d.step()  # may: AMP008 AMP202
        loss_g = -self.dis(self.gen(noise)).mean()
        opt_g.zero_grad()
        self.manual_backward(self.scaler.scale(loss_g))  # may: AMP008
        opt_g.step()  # may: AMP008 AMP202

    def configure_optimizers(self):
        return torch.optim.Adam(self.gen.parameters()), torch.optim.Adam(self.dis.parameters())


def main(loader):
    L.Trainer(accelerator="gpu", precision="16-mixed", max_epochs=20).fit(TwoPlayer(), loader)
