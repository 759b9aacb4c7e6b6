# Thread: https://github.com/Lightning-AI/pytorch-lightning/issues/7078
# Title: ValueError: Attempting to unscale FP16 gradients.
# Wrong: The margin layer's weight is made as a HalfTensor, so its gradient is float16 and the scaler refuses to unscale it.
import math

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn


class ArcMargin(nn.Module):
    def __init__(self, n_in, n_out, scale=30.0, margin=0.5):
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.HalfTensor(n_out, n_in))  # expect: AMP305|AMP302
        nn.init.xavier_uniform_(self.weight)
        self.cos_m, self.sin_m = math.cos(margin), math.sin(margin)

    def forward(self, x, label):
        cosine = F.linear(x / x.norm(dim=1, keepdim=True), self.weight)
        sine = torch.sqrt((1.0 - cosine.float() ** 2).clamp(min=1e-4))
        phi = cosine * self.cos_m - sine * self.sin_m
        hot = F.one_hot(label, cosine.shape[1])
        return self.scale * torch.where(hot.bool(), phi, cosine)


class Retrieval(pl.LightningModule):
    def __init__(self, backbone, classes):
        super().__init__()
        self.backbone, self.margin = backbone, ArcMargin(512, classes)

    def training_step(self, batch, batch_idx):
        image, label = batch
        return F.cross_entropy(self.margin(self.backbone(image), label), label)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-4)


def fit(backbone, loader):
    pl.Trainer(accelerator="gpu", precision="16-mixed").fit(Retrieval(backbone, 81313), loader)
