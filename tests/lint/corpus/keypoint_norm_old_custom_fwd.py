# Thread: https://github.com/cvg/LightGlue/issues/134
# Title: @torch.cuda.amp.custom_fwd deprecated on newer versions of PyTorch
# Wrong: A helper is pinned to float32 with the deprecated torch.cuda.amp.custom_fwd, which warns on import since torch 2.4.
from typing import Optional

import torch
from torch import nn


@torch.cuda.amp.custom_fwd(cast_inputs=torch.float32)  # expect: AMP003
def normalise_points(points: torch.Tensor, size: Optional[torch.Tensor] = None) -> torch.Tensor:
    if size is None:
        size = 1 + points.max(-2).values - points.min(-2).values
    size = size.to(points)
    centre = size / 2
    span = size.max(-1).values / 2
    return (points - centre[..., None, :]) / span[..., None, None]


class Matcher(nn.Module):
    def __init__(self, dim: int = 256):
        super().__init__()
        self.position = nn.Linear(2, dim)
        self.score = nn.Linear(dim, 1)

    def forward(self, points, descriptors, size=None):
        where = self.position(normalise_points(points, size))
        return self.score(descriptors + where).squeeze(-1)
