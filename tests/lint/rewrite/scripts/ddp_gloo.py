import hashlib
import os
import tempfile

import torch
import torch.distributed as dist
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel as DDP


def setup():
    store = tempfile.NamedTemporaryFile(delete=False)
    dist.init_process_group("gloo", init_method=f"file://{store.name}", rank=0, world_size=1)


def worker():
    setup()
    torch.manual_seed(9)
    base = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1))
    model = DDP(base)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x = torch.randn(20, 16, 6)
    y = x.mean(-1, keepdim=True)
    for epoch in range(6):
        total = torch.zeros(1)
        for inp, tgt in zip(x, y):
            optimizer.zero_grad()
            prediction = model(inp)
            loss = nn.functional.mse_loss(prediction, tgt)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        if dist.get_rank() == 0:
            print("epoch", epoch, "loss", total.item() / len(x))
    print("parameters", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in base.parameters())).hexdigest())
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    worker()
