import argparse
import hashlib

import torch as th
from torch import nn, optim
from torch.utils import data as tud


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--grad-accum", type=int, default=2)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--lr", type=float, default=5e-3)
    return parser.parse_args()


def main():
    args = parse_args()
    th.manual_seed(5)
    features = th.randn(200, 6)
    labels = (features[:, 0] * features[:, 1] > 0).long()
    loader = tud.DataLoader(tud.TensorDataset(features, labels), batch_size=20)

    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = optim.AdamW(model.parameters(), lr=args.lr)
    steps = args.epochs * len(loader) // args.grad_accum
    scheduler = optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)

    for epoch in range(args.epochs):
        sum_loss = 0.0
        for i, batch in enumerate(loader):
            xb, yb = batch
            logits = model(xb)
            loss = nn.functional.cross_entropy(logits, yb)
            (loss / args.grad_accum).backward()
            sum_loss += loss.detach()
            if (i + 1) % args.grad_accum == 0 or i + 1 == len(loader):
                nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        print("epoch %d loss %r" % (epoch, sum_loss.item() / len(loader)))

    print("parameters", hashlib.md5(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main()
