# Thread: https://github.com/pytorch/pytorch/issues/40497
# Title: Mixed precision causes NaN loss
# Wrong: The focal loss takes log(sigmoid(x)) of half logits: probabilities round to 0 or 1 and the log is -inf, the loss nan.
import torch
from torch import nn


class FocalLoss(nn.Module):
    def __init__(self, gamma=2.0, alpha=0.25):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits, y):
        p = torch.sigmoid(logits)
        positive = (1 - p) ** self.gamma * torch.log(torch.sigmoid(logits))  # expect: AMP405
        negative = p**self.gamma * torch.log(torch.sigmoid(-logits))  # expect: AMP405
        return -(self.alpha * y * positive + (1 - self.alpha) * (1 - y) * negative).mean()


def train(model, loader, optimizer, device="cuda"):
    focal = FocalLoss()
    scaler = torch.amp.GradScaler(device)
    for features, y in loader:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.float16):
            loss = focal(model(features.to(device)), y.to(device))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
