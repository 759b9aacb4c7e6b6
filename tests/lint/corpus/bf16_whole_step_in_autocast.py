# Thread: https://github.com/pytorch/pytorch/issues/120376
# Title: Stochastic rounding in bfloat16
# Wrong: The whole training step, with backward and the optimizer, runs inside bfloat16 autocast and the loss curve is poor.
import argparse

import torch
from torch import nn

from digits import make_loader, TinyTransformer


class Runner:
    def __init__(self, args):
        self.args = args
        self.model = TinyTransformer(embed=64, layers=6).to("cuda")
        self.ce = nn.CrossEntropyLoss()
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=args.lr)

    def epoch(self, loader):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            for x, y in loader:
                x, y = x.cuda(), y.cuda()
                loss = self.ce(self.model(x), y)
                self.opt.zero_grad()  # may: AMP103
                loss.backward()  # expect: AMP103
                self.opt.step()  # may: AMP103
        return loss.item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=3e-4)
    runner = Runner(parser.parse_args())
    for _ in range(100):
        print(runner.epoch(make_loader("train")))
