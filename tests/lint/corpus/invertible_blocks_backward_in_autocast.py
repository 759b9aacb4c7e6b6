# Thread: https://github.com/silvandeleemput/memcnn/issues/57
# Title: Mixed precision and InvertibleModuleWrapper
# Wrong: The scaled backward runs inside the autocast block; autocast is meant for the forward pass and the loss only.
import memcnn
import torch
from torch import nn


def build(width=32, depth=4):
    blocks = []
    for _ in range(depth):
        half = nn.Sequential(nn.Conv2d(width // 2, width // 2, 3, padding=1), nn.ReLU())
        blocks.append(memcnn.InvertibleModuleWrapper(memcnn.AdditiveCoupling(half)))
    return nn.Sequential(nn.Conv2d(3, width, 1), *blocks, nn.Conv2d(width, 1, 1))


def train(loader, steps):
    net = build().cuda()
    adam = torch.optim.Adam(net.parameters(), lr=2e-4)
    scaler = torch.amp.GradScaler("cuda")
    for step, (noisy, clean) in zip(range(steps), loader):
        adam.zero_grad()
        with torch.autocast("cuda"):
            loss = nn.functional.mse_loss(net(noisy.cuda()), clean.cuda())
            scaler.scale(loss).backward()  # expect: AMP103
        scaler.step(adam)
        scaler.update()
        if step % 100 == 0:
            print(step, loss.item())
