# Thread: https://github.com/Lightning-AI/pytorch-lightning/issues/19695
# Title: Manual optimisation and AMP
# Wrong: With 16-mixed and manual optimisation the module calls loss.backward() instead of self.manual_backward(loss): "Attempted unscale_ but _scale is None".
import lightning as L
import torch
from torch import nn


class ThreeHeads(L.LightningModule):
    def __init__(self, width=128):
        super().__init__()
        self.automatic_optimization = False
        self.trunk = nn.Linear(40, width)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(3))

    def training_step(self, batch, batch_idx):
        x, targets = batch
        for head, target, opt in zip(self.heads, targets, self.optimizers()):
            loss = nn.functional.mse_loss(head(torch.relu(self.trunk(x))).squeeze(1), target)
            opt.zero_grad()
            loss.backward()  # expect: none (Lightning's own precision plugin is bypassed, no code covers it)
            self.clip_gradients(opt, gradient_clip_val=0.5)
            opt.step()

    def configure_optimizers(self):
        return [torch.optim.Adam(head.parameters(), lr=1e-3) for head in self.heads]


def run(loader):
    trainer = L.Trainer(accelerator="cuda", precision="16-mixed", max_epochs=5)
    trainer.fit(ThreeHeads(), loader)
