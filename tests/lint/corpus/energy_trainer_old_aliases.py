# Thread: https://github.com/facebookresearch/fairchem/pull/930
# Title: Fix Deprecation Warnings torch.GradScaler and torch.autocast
# Wrong: Trainer and validation use the deprecated torch.cuda.amp classes, so training and inference print FutureWarnings.
import logging

import torch
from torch.cuda.amp import GradScaler, autocast  # expect: AMP001 AMP002


class EnergyTrainer:
    def __init__(self, model, optimizer, loss_fn, config):
        self.model = model
        self.optimizer = optimizer
        self.loss_fn = loss_fn
        self.scaler = GradScaler() if config.get("amp") else None  # may: AMP002

    def _forward(self, batch):
        with autocast(enabled=self.scaler is not None):  # may: AMP001
            out = self.model(batch.pos, batch.atomic_numbers)
            return out, self.loss_fn(out, batch.energy)

    def train_step(self, batch):
        self.optimizer.zero_grad()
        _, loss = self._forward(batch)
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            loss.backward()
            self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def validate(self, loader):
        self.model.eval()
        total = sum(self._forward(batch)[1].item() for batch in loader)
        logging.info("val loss %.4f", total / max(1, len(loader)))
        self.model.train()
