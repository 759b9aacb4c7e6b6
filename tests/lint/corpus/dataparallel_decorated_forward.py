# Thread: https://github.com/pytorch/pytorch/issues/43204
# Title: Error when trying to autocast forward method in nn.sequential model
# Right: forward carries the autocast decorator with its arguments, so each DataParallel replica enters autocast by itself.
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self, sizes, hidden=2048):
        super().__init__()
        self.classifier = nn.Sequential(
            nn.Linear(sizes[0], hidden),
            nn.BatchNorm1d(hidden, momentum=0.9),
            nn.ReLU(inplace=True),
            nn.Dropout(0.2),
            nn.Linear(hidden, sizes[1]),
        )

    @torch.autocast(device_type="cuda", dtype=torch.bfloat16)
    def forward(self, features):
        return self.classifier(features)


def train(loader, sizes, epochs):
    net = nn.DataParallel(Network(sizes).cuda())
    opt = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    for _ in range(epochs):
        for features, label in loader:
            loss = nn.functional.cross_entropy(net(features.cuda()).float(), label.cuda())
            opt.zero_grad()
            loss.backward()
            opt.step()
    return net.module
