# Thread: https://github.com/allenai/allennlp/pull/5426
# Title: fix a bug when using fp16 training & gradient clipping
# Wrong: The trainer's clipping methods run on scaled gradients in fp16, since nothing unscales them before.
from typing import Optional

import torch
from torch.nn.utils import clip_grad_norm_


class DescentTrainer:
    def __init__(self, model, optimizer, grad_norm: Optional[float], use_amp: bool):
        self.model = model
        self.optimizer = optimizer
        self.grad_norm = grad_norm
        self._scaler = torch.amp.GradScaler("cuda") if use_amp else None

    def batch_loss(self, batch):
        with torch.autocast("cuda", dtype=torch.float16, enabled=self._scaler is not None):
            return self.model(**batch)["loss"]

    def train_batch(self, batch):
        self.optimizer.zero_grad()
        loss = self.batch_loss(batch)
        if self._scaler is not None:
            self._scaler.scale(loss).backward()
        else:
            loss.backward()
        if self.grad_norm:
            norm = clip_grad_norm_(self.model.parameters(), self.grad_norm)  # expect: AMP204
        else:
            norm = None
        if self._scaler is not None:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()
        return loss.item(), norm
