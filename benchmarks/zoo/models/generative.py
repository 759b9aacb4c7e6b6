"""Generative models."""

from __future__ import annotations

from ..data import PHOTOS, photo, random_batches
from ..registry import Batch, Sample, batches_of, entry
from ..wrap import Call, Outputs, settle


@entry("vae", domain="generative")
def vae() -> Sample:
    """A convolutional VAE: its reparametrisation takes the noise as an input."""
    import torch
    from torch import nn

    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Sequential(
                nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(),
                nn.Flatten(), nn.Linear(64 * 16 * 16, 128),
            )  # fmt: skip
            self.decode = nn.Sequential(
                nn.Linear(64, 64 * 16 * 16), nn.Unflatten(1, (64, 16, 16)), nn.ReLU(),
                nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
                nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Sigmoid(),
            )  # fmt: skip

        def forward(
            self, x: torch.Tensor, noise: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            mean, log_variance = self.encode(x).chunk(2, 1)
            divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
            return self.decode(mean + noise * (0.5 * log_variance).exp()), divergence

    noise = random_batches((1, 64))
    unit = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    batches = batches_of(lambda i: photo(i, 64, *unit), lambda i: noise[i][0][0])
    return Sample(VAE(), batches, data=PHOTOS)


@entry("dcgan", domain="generative")
def dcgan() -> Sample:
    """DCGAN's generator, 64 x 64."""
    from torch import nn

    layers: list[nn.Module] = []
    for wide, narrow, stride, pad in (
        (100, 512, 1, 0),
        (512, 256, 2, 1),
        (256, 128, 2, 1),
        (128, 64, 2, 1),
    ):
        layers += [
            nn.ConvTranspose2d(wide, narrow, 4, stride, pad, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
        ]
    layers += [nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return settle(Sample(nn.Sequential(*layers).eval(), random_batches((1, 100, 1, 1))))


@entry("diffusion_unet", domain="generative")
def diffusion_unet() -> Sample:
    """A small conditioned diffusion U-Net from diffusers: group norm, cross attention, time."""
    import torch
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=64,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=8,
    )  # fmt: skip
    module = Outputs(model, "sample", names=("sample", "timestep", "encoder_hidden_states"))
    rows = random_batches((1, 4, 16, 16), (1, 12, 64))
    batches: list[Batch] = [
        ((x, torch.tensor(200 * i + 50), text), {}) for i, ((x, text), _) in enumerate(rows)
    ]
    return Sample(module, batches)


@entry("autoencoder_kl", domain="generative")
def autoencoder_kl() -> Sample:
    """Stable Diffusion's autoencoder at a quarter of the width, encoder mean and decoder."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(32, 64, 128), layers_per_block=1, norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
    )  # fmt: skip
    module = Call(model, lambda m, x: m.decode(m.encode(x).latent_dist.mean).sample)
    half = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Sample(module, batches_of(lambda i: photo(i, 64, *half)), data=PHOTOS)


@entry("dit_small", domain="generative")
def dit_small() -> Sample:
    """A diffusion transformer: adaptive layer norm from the time step."""
    import torch
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=4,
        sample_size=16, num_embeds_ada_norm=1000,
    )  # fmt: skip
    module = Outputs(model, "sample", names=("hidden_states", "timestep", "class_labels"))
    rows = random_batches((1, 4, 16, 16))
    batches: list[Batch] = [
        ((x, torch.tensor([200 * i + 50]), torch.tensor([i])), {})
        for i, ((x,), _) in enumerate(rows)
    ]
    return Sample(module, batches)


@entry("nerf", domain="generative")
def nerf() -> Sample:
    """NeRF's MLP: sines and cosines of positions at frequencies up to 2**9, density and colour."""
    import torch
    from torch import nn

    class NeRF(nn.Module):
        bands: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bands", 2.0 ** torch.arange(10) * torch.pi)
            self.before = nn.ModuleList(
                [nn.Linear(63, 256), *(nn.Linear(256, 256) for _ in range(4))]
            )
            self.after = nn.ModuleList(
                [nn.Linear(319, 256), *(nn.Linear(256, 256) for _ in range(2))]
            )
            self.density, self.feature = nn.Linear(256, 1), nn.Linear(256, 256)
            self.view, self.colour = nn.Linear(283, 128), nn.Linear(128, 3)

        def _encode(self, x: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
            angles = (x[..., None] * bands).flatten(-2)
            return torch.cat([x, angles.sin(), angles.cos()], -1)

        def forward(self, x: torch.Tensor, way: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            place = self._encode(x, self.bands)
            h = place
            for layer in self.before:
                h = layer(h).relu()
            h = torch.cat([h, place], -1)
            for layer in self.after:
                h = layer(h).relu()
            seen = torch.cat([self.feature(h), self._encode(way, self.bands[:4])], -1)
            return self.density(h).relu(), self.colour(self.view(seen).relu()).sigmoid()

    make = torch.Generator().manual_seed(0)
    points = [torch.rand(256, 3, generator=make) * 4 - 2 for _ in range(4)]
    ways = [nn.functional.normalize(torch.randn(256, 3, generator=make), dim=-1) for _ in range(4)]
    return Sample(NeRF(), [((p, w), {}) for p, w in zip(points, ways, strict=True)])
