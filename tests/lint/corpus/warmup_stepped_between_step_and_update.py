# Thread: https://github.com/pytorch/pytorch/issues/44511
# Title: LR scheduler throws warning when using scaler.step instead of optimizer.step
# Wrong: The schedule advances every iteration although the scaler may skip the first optimizer steps: "lr_scheduler.step() before optimizer.step()".
import torch
from torch.nn.utils import clip_grad_norm_
from transformers import get_linear_schedule_with_warmup


class QATrainer:
    def __init__(self, model, optimizer, total_steps):
        self.model, self.optimizer = model, optimizer
        self.scheduler = get_linear_schedule_with_warmup(optimizer, 500, total_steps)
        self.scaler = torch.amp.GradScaler("cuda")

    def fit_epoch(self, loader):
        for batch in loader:
            self.optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = self.model(**batch).loss
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), 1.0)
            self.scaler.step(self.optimizer)
            self.scheduler.step()  # expect: AMP211
            self.scaler.update()
