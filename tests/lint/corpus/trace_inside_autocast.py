# Thread: https://github.com/pytorch/pytorch/issues/84092
# Title: torch.jit.trace doesn't work with autocast on Conv node.
# Wrong: torch.jit.trace runs under autocast with the weight cache on; the cached casts enter the graph and the trace fails.
import torch
from torch import nn


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(self.conv(x))


def export(path, size=224):
    stem = Stem().cuda().eval()
    example = torch.rand(1, 3, size, size, device="cuda")
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.float16):  # may: AMP109
        traced = torch.jit.trace(stem, example)  # expect: AMP109
    torch.jit.freeze(traced).save(path)


if __name__ == "__main__":
    export("stem.pt")
