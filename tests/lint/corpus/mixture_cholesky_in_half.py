# Thread: https://github.com/ldeecke/gmm-torch/issues/27
# Title: RuntimeError: "cholesky_cusolver" not implemented for 'Half'
# Wrong: The covariance comes out of a half matmul under autocast and goes to cholesky, which has no half kernel on CUDA.
import torch
from torch import nn


class GaussianHead(nn.Module):
    def __init__(self, channels, components=3):
        super().__init__()
        self.project = nn.Linear(channels, components * 8)
        self.components = components

    def forward(self, features):
        z = self.project(features).view(-1, self.components, 8)
        centred = z - z.mean(dim=0)
        cov = torch.einsum("nkd,nke->kde", centred, centred) / z.shape[0]
        cov = cov + 0.01 * torch.eye(8, device=z.device, dtype=z.dtype)
        factor = torch.linalg.cholesky(cov)  # expect: AMP307
        return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(64, 256)
        self.density = GaussianHead(256)

    def forward(self, x):
        return self.density(torch.relu(self.stem(x)))


def run_iteration(network, batch):
    with torch.autocast("cuda", dtype=torch.float16):
        return network(batch.cuda()).mean()
