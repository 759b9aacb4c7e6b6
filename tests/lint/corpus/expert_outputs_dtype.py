# Thread: https://github.com/hiyouga/LlamaFactory/issues/5943
# Title: deepseek: Index put requires the source and destination dtypes match, got Float for the destination and BFloat16 for the source.
# Wrong: The buffer for the experts' results is float32 by default while the experts answer in bfloat16 under autocast: the indexed write raises.
import torch
from torch import nn


class Expert(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden), nn.Linear(dim, hidden)
        self.down = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class SparseMoE(nn.Module):
    def __init__(self, dim=512, n_experts=8):
        super().__init__()
        self.router = nn.Linear(dim, n_experts)
        self.experts = nn.ModuleList(Expert(dim, 2 * dim) for _ in range(n_experts))

    def forward(self, x):
        flat = x.flatten(0, 1)
        weight, chosen = self.router(flat).softmax(dim=-1).max(dim=-1)
        y = torch.empty(flat.shape, device=flat.device)
        for number, expert in enumerate(self.experts):
            y[chosen == number] = expert(flat[chosen == number])  # expect: AMP306
        return (y * weight[:, None]).view_as(x)


def pretrain_step(model, head, optimizer, ids):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits = head(model(ids[:, :-1]))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
