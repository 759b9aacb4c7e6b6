# Thread: https://github.com/Azure/MS-AMP/pull/45
# Title: [Bug Fixed] add `scaler.update()` in MNIST examples
# Wrong: scaler.update() is missing after scaler.step(): the second batch raises "step() has already been called since the last update()".
import argparse

import torch
import torch.nn.functional as F
from torch import nn, optim
from torchvision import datasets, transforms


def train(args, model, device, loader, optimizer, scaler, epoch):
    model.train()
    for batch_idx, (data, target) in enumerate(loader):
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.float16):
            loss = F.nll_loss(model(data), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)  # expect: AMP203
        if batch_idx % args.log_interval == 0:
            print(f"epoch {epoch} batch {batch_idx} loss {loss.item():.6f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--log-interval", type=int, default=10)
    args = parser.parse_args()
    device = torch.device("cuda")
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(dim=1)).to(device)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device.type)
    data = datasets.MNIST("data", transform=transforms.ToTensor(), download=True)
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    for epoch in range(1, args.epochs + 1):
        train(args, model, device, loader, optimizer, scaler, epoch)


if __name__ == "__main__":
    main()
