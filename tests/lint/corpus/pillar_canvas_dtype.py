# Thread: https://github.com/open-mmlab/mmdetection3d/issues/1842
# Title: FP16 training error: RuntimeError: Index put requires the source and destination dtypes match, got Half for the destination and Float for the source
# Wrong: The canvas has the default dtype and is written through an index with half features: "Index put requires the source and destination dtypes match".
import torch
from torch import nn


class PillarScatter(nn.Module):
    def __init__(self, channels, shape):
        super().__init__()
        self.channels = channels
        self.ny, self.nx = shape

    def forward(self, features, coords, batch_size):
        canvases = []
        for index in range(batch_size):
            canvas = torch.zeros(self.channels, self.ny * self.nx, device=features.device)
            mine = coords[:, 0] == index
            place = (coords[mine, 2] * self.nx + coords[mine, 3]).long()
            canvas[:, place] = features[mine].t()  # expect: AMP306
            canvases.append(canvas)
        return torch.stack(canvases).view(batch_size, self.channels, self.ny, self.nx)


class Detector(nn.Module):
    def __init__(self, channels=64):
        super().__init__()
        self.encode = nn.Linear(9, channels)
        self.scatter = PillarScatter(channels, (496, 432))
        self.head = nn.Conv2d(channels, 7, 1)

    def forward(self, points, coords, batch_size):
        with torch.autocast("cuda", dtype=torch.float16):
            pillars = torch.relu(self.encode(points)).amax(dim=1)
            return self.head(self.scatter(pillars, coords, batch_size))
