# Thread: https://github.com/lucidrains/med-seg-diff-pytorch/pull/6
# Title: Slight error in accelerator
# Wrong: Under Accelerator the loss goes through loss.backward() instead of accelerator.backward(loss), so with fp16 it is never scaled.
import argparse

import torch
from accelerate import Accelerator

from diffusion import MedSegDiff, Unet


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mixed-precision", default="fp16", choices=["no", "fp16", "bf16"])
    parser.add_argument("--epochs", type=int, default=100)
    return parser.parse_args()


def main(loader):
    args = parse()
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    diffusion = MedSegDiff(Unet(dim=64, image_size=128), timesteps=1000)
    optimizer = torch.optim.AdamW(diffusion.parameters(), lr=1e-4)
    diffusion, optimizer, loader = accelerator.prepare(diffusion, optimizer, loader)
    for epoch in range(args.epochs):
        for image, mask in loader:
            with accelerator.accumulate(diffusion):
                loss = diffusion(mask, image)
                loss.backward()  # expect: none (the framework's backward is bypassed, no code covers it)
                accelerator.clip_grad_norm_(diffusion.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        accelerator.log({"loss": loss.item()}, step=epoch)
