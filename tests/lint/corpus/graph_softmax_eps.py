# Thread: https://github.com/pyg-team/pytorch_geometric/pull/2106
# Title: Make EPS adjustable to the precision (e.g., fp16)
# Wrong: EPS = 1e-15 is zero in float16, so the guarded division is 0/0 for empty neighbourhoods of the half model.
import torch
from torch import nn

EPS = 1e-15  # may: AMP404


class GraphAttention(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.lin = nn.Linear(n_in, n_out)
        self.att = nn.Linear(2 * n_out, 1)

    def forward(self, x, adjacency):
        h = self.lin(x)
        n = h.shape[0]
        pairs = torch.cat([h[:, None].expand(n, n, -1), h[None].expand(n, n, -1)], dim=-1)
        score = torch.sigmoid(self.att(pairs)).squeeze(-1) * adjacency
        alpha = score / (score.sum(dim=-1, keepdim=True) + EPS)  # expect: AMP404
        return alpha @ h


@torch.no_grad()
def embed(path, x, adjacency):
    layers = nn.ModuleList([GraphAttention(128, 64), GraphAttention(64, 32)])
    layers.load_state_dict(torch.load(path))
    layers.cuda().half().eval()
    x, adjacency = x.cuda().half(), adjacency.cuda().half()
    for layer in layers:
        x = torch.relu(layer(x, adjacency))
    return x.float().cpu()
