# Thread: https://github.com/NVIDIA/apex/issues/1052
# Title: RuntimeError: value cannot be converted to type at::Half without overflow: -1e+09
# Right: The fill value is taken from the dtype of the scores themselves, so it fits whatever autocast made of them.
import torch
from torch import nn


class PathAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.score = nn.Linear(dim, 1)
        self.value = nn.Linear(dim, dim)

    def forward(self, paths, path_mask):
        scores = self.score(paths).squeeze(-1)
        scores = scores.masked_fill(~path_mask, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1)
        return (weights.unsqueeze(-1) * self.value(paths)).sum(dim=1)


def train_step(encoder, attention, classifier, batch, optimizer, scaler):
    with torch.autocast("cuda", dtype=torch.float16):
        hidden = attention(encoder(batch.tokens), batch.mask)
        loss = nn.functional.cross_entropy(classifier(hidden), batch.relation)
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    return loss.item()
