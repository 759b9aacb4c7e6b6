"""Driving: camera images, and coordinates in metres that float16 can hardly hold."""

from __future__ import annotations

from typing import Any

from ..data import PHOTOS, photo
from ..registry import Sample, batches_of, entry
from ..wrap import settle


@entry("pilotnet", domain="driving")
def pilotnet() -> Sample:
    """NVIDIA's PilotNet: a steering angle from one 66 x 200 image, normalised in the model."""
    import torch
    from torch import nn

    class PilotNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            sizes = ((3, 24, 5, 2), (24, 36, 5, 2), (36, 48, 5, 2), (48, 64, 3, 1), (64, 64, 3, 1))
            for a, b, kernel, stride in sizes:
                layers += [nn.Conv2d(a, b, kernel, stride), nn.ELU()]
            layers.append(nn.Flatten())
            for a, b in ((1152, 100), (100, 50), (50, 10)):
                layers += [nn.Linear(a, b), nn.ELU()]
            self.layers = nn.Sequential(*layers, nn.Linear(10, 1))

        def forward(self, image: torch.Tensor) -> Any:
            return self.layers(image / 127.5 - 1.0)

    unit = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    batches = batches_of(lambda i: photo(i, (66, 200), *unit) * 255)
    return Sample(PilotNet(), batches, data=PHOTOS)


@entry("trajectory_world", domain="driving")
def trajectory_world() -> Sample:
    """A motion forecaster fed world coordinates of 1e3..1e4 m: centred on the car, then encoded.

    The subtraction loses metres in float16; the absolute forecast adds the position back.
    """
    import torch
    from torch import nn

    class Forecaster(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(2, 64)
            layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(64, 24)

        def forward(self, tracks: torch.Tensor) -> Any:
            origin = tracks[:, :1, -1]
            local = (tracks - origin[:, :, None]).flatten(1, 2)
            steps = self.head(self.encoder(self.project(local)).mean(1)).view(-1, 12, 2)
            return steps.cumsum(1) + origin

    def tracks(i: int) -> torch.Tensor:
        make = torch.Generator().manual_seed(i)
        start = torch.rand(1, 1, 1, 2, generator=make) * 9000 + 1000
        apart = torch.randn(1, 6, 1, 2, generator=make) * 20
        speed = torch.randn(1, 6, 1, 2, generator=make)
        return start + apart + speed * torch.arange(10.0).view(1, 1, 10, 1)

    return Sample(Forecaster(), batches_of(tracks))


@entry("pointnet_world", domain="driving", logits=True)
def pointnet_world() -> Sample:
    """PointNet over lidar returns in a map frame of 1e3..1e4 m: squared ranges pass 65504."""
    import torch
    from torch import nn

    class PointNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv1d(4, 64, 1), nn.BatchNorm1d(64), nn.ReLU(),
                nn.Conv1d(64, 256, 1), nn.BatchNorm1d(256), nn.ReLU(),
            )  # fmt: skip
            self.head = nn.Linear(256, 8)

        def forward(self, points: torch.Tensor) -> Any:
            centre = points.mean(1, keepdim=True)
            local = points - centre
            reach = (points * points).sum(-1, keepdim=True).sqrt() / 1e4
            features = torch.cat([local / 50.0, reach], -1).transpose(1, 2)
            return self.head(self.net(features).amax(2))

    def cloud(i: int) -> torch.Tensor:
        make = torch.Generator().manual_seed(i)
        centre = torch.rand(1, 1, 3, generator=make) * 9000 + 1000
        return centre + torch.randn(1, 512, 3, generator=make) * torch.tensor([30.0, 30.0, 2.0])

    return settle(Sample(PointNet().eval(), batches_of(cloud)))


@entry("bev_fusion", domain="driving", logits=True, axis=1)
def bev_fusion() -> Sample:
    """A camera feature map sampled into a bird's-eye grid by projection and grid_sample."""
    import torch
    from torch import nn

    class BirdsEye(nn.Module):
        ground: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, 16, 5, 4, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1)
            )
            y, x = torch.meshgrid(torch.arange(-8.0, 8.0), torch.arange(4.0, 36.0), indexing="ij")
            ground = torch.stack([y, torch.full_like(x, 1.5), x, torch.ones_like(x)], -1)
            self.register_buffer("ground", ground.view(-1, 4))
            self.head = nn.Conv2d(32, 5, 3, 1, 1)

        def forward(self, image: torch.Tensor, camera: torch.Tensor) -> Any:
            pixel = self.ground @ camera.transpose(1, 2)
            uv = pixel[..., :2] / pixel[..., 2:].clamp(min=0.1)
            grid = uv / 112.0 - 1.0
            features = self.features(image)
            seen = nn.functional.grid_sample(
                features, grid.view(-1, 16, 32, 2), align_corners=False
            )
            return self.head(seen)

    def camera(i: int) -> torch.Tensor:
        focal = 180.0 + 20 * i
        rows = [[focal, 0.0, 112.0, 0.0], [0.0, focal, 112.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
        return torch.tensor([rows])

    return Sample(BirdsEye(), batches_of(photo, camera), data=PHOTOS)
