"""A reader's model.py, in the current folder."""

from pathlib import Path

Path("model.py").write_text(
    '''\
"""A text classifier, and a picture classifier beside it."""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        heads = (part(x).unsqueeze(1) for part in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(*heads).squeeze(1)


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = Attention(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.attention(x))


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.ModuleList([Layer(width), Layer(width)])

    def forward(self, x):
        for layer in self.layer:
            x = layer(x)
        return x


class Classifier(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.embed = nn.Embedding(30522, width)
        self.encoder = Encoder(width)
        self.head = nn.Linear(width, 2)

    def forward(self, ids):
        return self.head(self.encoder(self.embed(ids)).mean(dim=1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=7, stride=4)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean(dim=(2, 3)))


def build_model():
    torch.manual_seed(0)
    return Classifier()


def example_inputs():
    return torch.randint(30522, (1, 128), generator=torch.Generator().manual_seed(0))
''',
    encoding="utf-8",
)
