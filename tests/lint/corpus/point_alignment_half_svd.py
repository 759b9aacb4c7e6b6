# Thread: https://github.com/NVIDIA/apex/issues/887
# Title: How to use torch.svd() with half precision?
# Wrong: The correlation of two half point sets is decomposed in half: "svd_cuda" not implemented for 'Half'.
import torch
from torch import nn


class PointRegistration(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, source, target):
        scores = self.embed(source) @ self.embed(target).transpose(1, 2)
        matched = scores.softmax(dim=-1) @ target
        a = source - source.mean(dim=1, keepdim=True)
        b = matched - matched.mean(dim=1, keepdim=True)
        u, _, v = torch.svd(a.transpose(1, 2) @ b)  # expect: AMP307
        return v @ u.transpose(1, 2)


@torch.no_grad()
def register(model, pairs):
    model = model.cuda().half().eval()
    rotations = []
    for source, target in pairs:
        rotations.append(model(source.cuda().half(), target.cuda().half()).float().cpu())
    return torch.cat(rotations)
