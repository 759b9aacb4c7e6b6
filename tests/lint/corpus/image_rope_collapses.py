# Thread: https://github.com/huggingface/diffusers/issues/13920
# Title: Ideogram4: `Ideogram4MRoPE` breaks under `torch.autocast`: all image positions collapse, producing flat single-color images
# Wrong: The operands are cast to float32 but autocast runs the matmul in bfloat16 anyway: all positions above 65536 round to one value.
import torch
from torch import nn

IMAGE_OFFSET = 65536


class MultiAxisRoPE(nn.Module):
    def __init__(self, dim, base=5e6, sections=(24, 20, 20)):
        super().__init__()
        exponents = torch.arange(0, dim, 2).float() / dim
        self.register_buffer("inv_freq", 1.0 / (base ** exponents), persistent=False)
        self.sections = sections

    def forward(self, position_ids):
        pos = position_ids.permute(2, 0, 1)[:, :, None, :].float()
        inv = self.inv_freq[None, None, :, None].float().expand(3, pos.shape[1], -1, 1)
        freqs = inv @ pos  # expect: AMP111
        emb = torch.cat((freqs, freqs), dim=2).transpose(2, 3)
        return emb.cos(), emb.sin()


@torch.no_grad()
def denoise(transformer, rope, latents, grid, timesteps):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        cos, sin = rope(grid + IMAGE_OFFSET)
        for t in timesteps:
            latents = latents - transformer(latents, t, cos, sin) / len(timesteps)
    return latents
