# Thread: https://github.com/lightly-ai/lightly/issues/1259
# Title: Add configurable normalization epsilon for NTXentLoss
# Wrong: normalize()'s default eps of 1e-12 is zero in half; a zero embedding of the half model becomes nan.
import torch
from torch import nn


class NTXent(nn.Module):
    def __init__(self, temperature=0.5):
        super().__init__()
        self.temperature = temperature

    def forward(self, out0, out1):
        out0 = nn.functional.normalize(out0, dim=1)  # expect: AMP404
        out1 = nn.functional.normalize(out1, dim=1)  # expect: AMP404
        logits = torch.cat([out0, out1]) @ torch.cat([out0, out1]).t() / self.temperature
        n = out0.shape[0]
        logits = logits[~torch.eye(2 * n, dtype=torch.bool, device=logits.device)].view(2 * n, -1)
        labels = torch.arange(n, device=logits.device)
        return nn.functional.cross_entropy(logits, torch.cat([labels + n - 1, labels]))


@torch.no_grad()
def probe_loss(backbone, pairs):
    backbone = backbone.cuda().half().eval()
    criterion = NTXent()
    total = 0.0
    for left, right in pairs:
        total += criterion(backbone(left.cuda().half()), backbone(right.cuda().half())).item()
    return total / len(pairs)
