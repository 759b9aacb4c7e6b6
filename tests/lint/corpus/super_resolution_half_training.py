# Thread: https://github.com/sanghyun-son/EDSR-PyTorch/issues/36
# Title: Half precision error
# Wrong: With --precision half the whole model and its Adam states are float16; losses turn inf and batches are skipped.
import argparse

import torch
from torch import nn


def options():
    parser = argparse.ArgumentParser()
    parser.add_argument("--precision", choices=("single", "half"), default="single")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-4)
    return parser.parse_args()


class Upscaler(nn.Module):
    def __init__(self, scale, width=64):
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, x):
        return self.shuffle(self.tail(torch.relu(self.head(x))))


def main(loader):
    args = options()
    model = Upscaler(args.scale).cuda()
    if args.precision == "half":
        model = model.half()  # expect: AMP302
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, betas=(0.9, 0.999), eps=1e-8)  # expect: AMP303
    dtype = torch.half if args.precision == "half" else torch.float
    for lr_image, hr_image in loader:
        lr_image, hr_image = (t.to("cuda", dtype) for t in (lr_image, hr_image))
        optimizer.zero_grad()
        loss = nn.functional.l1_loss(model(lr_image), hr_image)
        loss.backward()
        optimizer.step()
