# Thread: https://github.com/sbryngelson/ANEForge/issues/113
# Title: softplus returns 0 for inputs >= 11 (fp16 exp overflow in the lowering)
# Wrong: softplus is written as log1p(exp(x)); in half exp overflows above 11.09 and the activation is inf.
import torch
from torch import nn


class Mish(nn.Module):
    def forward(self, x):
        return x * torch.tanh(torch.log1p(torch.exp(x)))  # expect: AMP409


class Neck(nn.Module):
    def __init__(self, width=128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 1), Mish(), nn.Conv2d(width, width, 3, padding=1), Mish()
        )

    def forward(self, x):
        return x + self.layers(x)


def export_half(neck, path):
    neck = neck.half().eval()
    example = torch.randn(1, 128, 20, 20, dtype=torch.float16)
    with torch.no_grad():
        torch.onnx.export(neck, (example,), path, input_names=["x"], output_names=["y"])
