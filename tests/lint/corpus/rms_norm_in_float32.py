# Thread: https://github.com/huggingface/diffusers/pull/13316
# Title: Stabilize low-precision custom autoencoder RMS normalization
# Right: Half inputs are upcast before normalize() and cast back after, so its small default eps survives.
import torch
import torch.nn.functional as F
from torch import nn


class ChannelRMSNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = channels**0.5
        self.gamma = nn.Parameter(torch.ones(channels, 1, 1, 1))

    def forward(self, x):
        normalised = F.normalize(x.float(), dim=1).to(x.dtype)
        return normalised * self.scale * self.gamma


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = ChannelRMSNorm(channels)
        self.conv = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv(F.silu(self.norm(x)))


@torch.inference_mode()
def decode(decoder, latents):
    decoder = decoder.cuda().half().eval()
    return decoder(latents.cuda().half()).float().clamp(-1, 1)
