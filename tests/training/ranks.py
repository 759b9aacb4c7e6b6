"""Scenes that several processes play together: models on many ranks, beside one process alone.

Each scene is a function that gives plain values; `play` runs some of them in processes of their
own. Two laws are used. Where all ranks get the same rows, the mean of their gradients is the
gradient of each, exactly, since their number is a power of two: training must give the bits of one
process. Where they get parts of one batch it must give the same within rounding: each rank rounds
its part of a gradient to the low type, one process the sum. What the low type does to one process,
beside float32, is the yardstick: two that are each so far from float32 are at most twice as far
from each other. SGD, since Adam divides by gradients that may be nothing but rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ampconvert.training.prepare import prepare_training, trainings_of
from ampconvert.training.steps import skip_nonfinite_steps

Outcome = dict[str, Any]
Batches = Sequence[tuple[Tensor, Tensor]]
Wrap = Callable[[nn.Module, torch.dtype], nn.Module]

LOW = torch.float16
ROWS, STEPS, WIDTH, CLASSES = 8, 10, 16, 3  # rows per rank


class Block(nn.Module):
    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x and its update."""
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Net(nn.Module):
    """Blocks in a loop, between layers of torch."""

    def __init__(self, width: int = WIDTH, make: Callable[[int], nn.Module] = Block) -> None:
        super().__init__()
        self.first = nn.Linear(5, width)
        self.blocks = nn.ModuleList(make(width) for _ in range(2))
        self.last = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        return self.last(h)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8)
        self.last = nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of rows of 5 numbers."""
        return self.last(F.relu(self.norm(self.conv(x.unsqueeze(1)))).flatten(1))


class Transformer(Net):
    """Layers of torch in a loop. A row of 5 numbers is a sequence of 5 tokens."""

    def __init__(self) -> None:
        super().__init__(WIDTH, lambda w: nn.TransformerEncoderLayer(w, 2, 2 * w, dropout=0.0))
        self.first = nn.Linear(1, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        h = self.first(x.t().unsqueeze(2))
        for block in self.blocks:
            h = block(h)
        return self.last(h.mean(0))


class Recomputed(Net):
    """Blocks that compute again what they need on the way back."""

    def __init__(self) -> None:
        super().__init__(make=lambda width: Again(width))


class Again(Block):
    def forward(self, x: Tensor) -> Tensor:
        """As a Block."""
        return checkpoint(super().forward, x, use_reentrant=False)


class Loud(nn.Module):
    """Products of its inputs, too large for float16 where they are large."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores by attention over the batch."""
        return (self.q(x) @ self.k(x).t()).softmax(1) @ self.v(x / 1000)


def prepared(model: nn.Module, dtype: torch.dtype, **options: Any) -> nn.Module:
    return prepare_training(model, dtype, prefer="memory", **options)


def ddp(model: nn.Module, **options: Any) -> nn.Module:
    return DistributedDataParallel(model, **options)


def shard(model: nn.Module, mesh: Any = None, **options: Any) -> nn.Module:
    """Every block by itself, and the rest."""
    mesh = mesh or init_device_mesh(device().type, (dist.get_world_size(),))
    for block in getattr(model, "blocks", ()):
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def device() -> torch.device:
    on_gpu = "nccl" in str(dist.get_backend())
    return torch.device("cuda", dist.get_rank()) if on_gpu else torch.device("cpu")


def batches(rank: int | None, steps: int = STEPS) -> Batches:
    """A batch per step, two in turn: a rank's rows of it, or all of them."""
    ranks = dist.get_world_size()
    found = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step % 2)
        x = torch.randn(ranks * ROWS, 5, generator=generator)
        y = (x[:, :CLASSES].argmax(1) + x[:, 4].gt(0)) % CLASSES
        own = slice(None) if rank is None else slice(rank * ROWS, (rank + 1) * ROWS)
        found.append((x[own].to(device()), y[own].to(device())))
    return found


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().to(device())


def train(
    model: nn.Module,
    data: Batches,
    optimizer: Any = None,
    *,
    rounded: torch.dtype | None = None,
) -> list[float]:
    """The losses of a plain loop; gradients are `rounded` to a type first where one is given."""
    optimizer = optimizer or guarded(model)[0]
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        for p in model.parameters() if rounded else ():
            p.grad = p.grad.to(rounded).float()  # type: ignore[union-attr]
        if isinstance(model, FullyShardedDataParallel):
            model.clip_grad_norm_(0.5)  # its parameters know nothing of the other ranks
        else:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses


def guarded(model: nn.Module, watched: nn.Module | None = None, **options: Any) -> tuple[Any, Any]:
    """An optimizer of a model and its guard, which may be told of the model in its wrapper."""
    optimizer = _sgd(model)
    return optimizer, skip_nonfinite_steps(optimizer, watched or model, **options)


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def flat(model: nn.Module) -> Tensor:
    """All parameters and buffers, float64, of a whole model."""
    found = [*model.parameters(), *model.buffers()]
    return torch.cat([whole(t).detach().flatten().double() for t in found])


def whole(tensor: Any) -> Tensor:
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def local(tensor: Any) -> Tensor:
    own: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return own.detach().clone()


def low_calls(model: nn.Module) -> list[int]:
    """The calls in the low type, by graph."""
    graphs = [graph.whole for training in trainings_of(model) for graph in training.subgraphs]
    return [
        sum(t != "float32" for part in (g, *g.bodies.values()) for t in part.plan.compute.values())
        for g in graphs
    ]


def beside_one_process(
    wrap: Wrap,
    make: Callable[[], nn.Module] = Net,
    dtype: torch.dtype = torch.float16,
    *,
    same: bool = False,
    bare: bool = False,
    rounded: torch.dtype | None = None,
) -> Outcome:
    """Train a model on all ranks, each on its part of the rows or all on the `same` ones, and one
    that each process has for itself on all of them. The guard may get the `bare` model.

    "off" is how far apart they are, "low off" how far the one is from float32, both relative to the
    way that training went.
    """
    rank = dist.get_rank()
    own = batches(0 if same else rank)
    alone = prepared(made(make), dtype)
    start, reference = flat(alone), made(make)
    train(reference, batches(0 if same else None), _sgd(reference), rounded=rounded)
    losses = train(alone, batches(0 if same else None), guarded(alone, process_group=False)[0],
                   rounded=rounded)  # fmt: skip
    inside = made(make)
    model = wrap(inside, dtype)
    optimizer, guard = guarded(model, inside if bare else None)
    mine = torch.tensor(train(model, own, optimizer), dtype=torch.float64)
    dist.all_reduce(mean := mine.to(device()))
    moved = (flat(alone) - start).norm()
    return {
        "off": float((flat(model) - flat(alone)).norm() / moved),
        "low off": float((flat(reference) - flat(alone)).norm() / moved),
        "equal": torch.equal(flat(model), flat(alone)),
        "losses off": float(
            (mean.cpu() / dist.get_world_size() - torch.tensor(losses)).abs().max()
        ),
        "learnt": losses[0] - losses[-2],  # of one batch
        "all": flat(model).tolist(),
        "low": sorted(low_calls(model)),
        "guard": [guard.scale, guard.steps, guard.skipped],
        "device": device().type,
    }


def state(optimizer: Any) -> list[Tensor]:
    """What this rank has of the parameters and of the optimizer's state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [v for p in parameters for v in optimizer.state[p].values() if isinstance(v, Tensor)]
    return [local(t) for t in (*parameters, *kept)]


def one_bad_rank(wrap: Wrap, make: Callable[[], nn.Module] = Net) -> Outcome:
    """The last rank's rows of the third step of five hold an infinity."""
    model = wrap(made(make), torch.float16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    guard = skip_nonfinite_steps(optimizer, model)
    bits, scales = [], []
    for step, (x, y) in enumerate(batches(dist.get_rank(), 5)):
        if step == 2 and dist.get_rank() == dist.get_world_size() - 1:
            x[0, 0] = torch.inf
        before = state(optimizer)
        train(model, [(x, y)], optimizer)
        after = state(optimizer)
        same = len(before) == len(after) and all(map(torch.equal, before, after))
        bits.append(same)
        scales.append(guard.scale)
    counts = {int(s["step"]) for s in optimizer.state.values()}
    return {"same bits": bits, "scales": scales, "skipped": guard.skipped, "counts": counts,
            "finite": bool(flat(model).isfinite().all()), "kept": kept_full(model)}  # fmt: skip


def forward_overflow(wrap: Any) -> Outcome:
    """The last rank's scores are beyond float16, in every step."""
    model = wrap(made(Loud))
    optimizer, guard = guarded(model)
    last = dist.get_rank() == dist.get_world_size() - 1
    for x, y in batches(dist.get_rank(), 6):
        train(model, [(1000 * x if last else x, y)], optimizer)
    trainings = trainings_of(model)
    return {
        "kept": kept_full(model),
        "graphs": [part.kept_full == trainings[0].kept_full for part in trainings],
        "guard": [guard.scale, guard.steps, guard.skipped],
        "all": flat(model).tolist(),
    }


def kept_full(model: nn.Module) -> dict[str, str]:
    return {place: why for t in trainings_of(model) for place, why in t.kept_full.items()}


def play(
    scenes: Iterable[Callable[[], Outcome]], ranks: int, folder: Path, backend: str = "gloo"
) -> list[dict[str, Outcome]]:
    """What each scene gave by name, by rank."""
    mp.spawn(_work, (list(scenes), ranks, str(folder), backend), nprocs=ranks)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _work(
    rank: int, scenes: list[Callable[[], Outcome]], ranks: int, folder: str, backend: str
) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(
        backend, init_method=f"file://{folder}/meet", rank=rank, world_size=ranks,
        timeout=timedelta(seconds=120),
    )  # fmt: skip
    found = {}
    for scene in scenes:
        torch._dynamo.reset()
        found[scene.__name__] = scene()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
