"""Training on several processes: with DistributedDataParallel, or sharded with FSDP2.

    torchrun --nproc-per-node 2 examples/train_ddp.py
    torchrun --nproc-per-node 2 examples/train_ddp.py --fsdp

Each process takes a GPU where there are enough, else they share the CPU. Either all processes take
a step or none does: a gradient that is not finite on one of them is known to all.
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import ampconvert

STEPS, BATCH = 40, 64


def main() -> None:
    """Train, and print from the first process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dtype", choices=("fp16", "bf16"), default="fp16")
    parser.add_argument("--fsdp", action="store_true", help="shard parameters with fully_shard")
    options = parser.parse_args()

    rank, device = start()
    torch.manual_seed(0)  # the same weights everywhere
    model = network().to(device)
    model = ampconvert.prepare_training(model, dtype=options.dtype)  # before it is wrapped
    model = shard(model) if options.fsdp else DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)  # after
    guard = ampconvert.skip_nonfinite_steps(optimizer, model)

    batches = torch.Generator().manual_seed(rank)  # other data on each
    for _ in range(STEPS):
        x, y = batch(batches, device)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    mean = loss.detach() / dist.get_world_size()
    dist.all_reduce(mean)
    if rank == 0:
        print(f"{dist.get_world_size()} processes, last loss {mean.item():.4f}")
        print(f"loss scale {guard.scale:g}, {guard.skipped} of {guard.steps} steps skipped")
    dist.destroy_process_group()


def start() -> tuple[int, torch.device]:
    """Join the other processes; this one's number and device."""
    on_gpu = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    dist.init_process_group("nccl" if on_gpu else "gloo")
    if not on_gpu:
        return dist.get_rank(), torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return dist.get_rank(), device


def network() -> nn.Sequential:
    """Four residual blocks between two linear layers; which of 8 corners is a point close to?"""
    return nn.Sequential(nn.Linear(3, 64), *(Block(64) for _ in range(4)), nn.Linear(64, 8))


class Block(nn.Module):
    """A norm, two linear layers, and the way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


def shard(model: nn.Sequential) -> nn.Module:
    """Every process keeps its part of each parameter."""
    for block in model:
        if isinstance(block, Block):
            fully_shard(block)
    return fully_shard(model)


def batch(generator: torch.Generator, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Points float32[BATCH, 3] and the number of the corner that each is close to, int64[BATCH]."""
    x = torch.randn(BATCH, 3, generator=generator).to(device)
    return x, (x > 0).long() @ torch.tensor([4, 2, 1], device=device)


if __name__ == "__main__":
    main()
