"""Two ranks step together or not at all, however the model is spread over them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ampconvert.training import steps
from ampconvert.training.agreement import groups_of
from ampconvert.training.steps import skip_nonfinite_steps
from tests.training.guarded import Low, Net, backward, trainings_of

RANKS = 2
Outcome = dict[str, Any]


def default_group(rank: int) -> Outcome:
    """Only rank 1 overflows; nothing averages gradients."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters())
    guard = skip_nonfinite_steps(optimizer, net)
    taken = []
    for bad in (None, 1, None, 0):
        before = net.head.bias.detach().clone()
        optimizer.zero_grad()
        backward(net, 1e6 if rank == bad else 1.0)
        optimizer.step()
        taken.append(not torch.equal(before, net.head.bias))
    return {"taken": taken, "scale": guard.scale, "weights": flat(net)}


def alone(rank: int) -> Outcome:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net, process_group=False)
    backward(net, 1e6 if rank else 1.0)
    optimizer.step()
    return {"skipped": guard.skipped, "scale": guard.scale}


def without_gradients(rank: int) -> Outcome:
    """A rank whose part of the model saw no data still has to answer."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net)
    if rank == 0:
        backward(net)
        net.head.bias.grad[0] = float("nan")  # type: ignore[index]
    optimizer.step()
    return {"skipped": guard.skipped, "scale": guard.scale}


def ddp(rank: int) -> Outcome:
    torch.manual_seed(rank)
    own = dist.new_group([0, 1])
    net = Net()
    model = DistributedDataParallel(net, process_group=own)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    guard = skip_nonfinite_steps(optimizer, model)
    taken = []
    for bad in (False, True, False):
        before = net.low.weight.detach().clone()
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backward(model, 1e6 if bad and rank == 0 else 1.0)
        for p in model.parameters():
            p.grad.nan_to_num_(0.0, 0.0, 0.0)  # type: ignore[union-attr]
        optimizer.step()
        taken.append(not torch.equal(before, net.low.weight))
    found = groups_of(None, [model], optimizer)
    return {
        "taken": taken,
        "scale": guard.scale,
        "weights": flat(net),
        "own group": [group is own for group in found],
    }


def fsdp2(rank: int) -> Outcome:
    """Each rank has a shard of the gradients: a bad one that lies on rank 1 alone."""
    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (RANKS,))
    net = Net()
    fully_shard(net, mesh=mesh)
    optimizer = torch.optim.AdamW(net.parameters())
    guard = skip_nonfinite_steps(optimizer, net)
    taken = []
    for bad in (False, True, False):
        optimizer.zero_grad()
        backward(net)
        weight = net.head.bias
        assert isinstance(weight, DTensor) and isinstance(weight.grad, DTensor)
        before = weight.to_local().clone()
        if bad and rank == 1:
            weight.grad.to_local()[0] = float("inf")
        optimizer.step()
        taken.append(not torch.equal(before, weight.to_local()))
    return {
        "taken": taken,
        "scale": guard.scale,
        "groups": len(groups_of(None, [net], optimizer)),
    }


def tensor_parallel(rank: int) -> Outcome:
    """Parameters on a mesh of two dimensions, of which one has a single rank."""
    mesh = init_device_mesh("cpu", (1, RANKS), mesh_dim_names=("data", "model"))["model"]
    net = Net()
    net.wide = nn.Parameter(distribute_tensor(torch.ones(3, 2), mesh, [Shard(0)]))
    net.wide.grad = distribute_tensor(torch.tensor([[1.0, 1], [1, 1], [1, 3]]), mesh, [Shard(0)])
    if rank == 1:
        net.wide.grad.to_local().fill_(float("nan"))
    optimizer = torch.optim.SGD([net.wide], lr=0.1)
    guard = skip_nonfinite_steps(optimizer, net)
    optimizer.step()
    return {"skipped": guard.skipped, "groups": len(groups_of(None, [net], optimizer))}


def layerwise(rank: int) -> Outcome:
    """Ranks that saw other graphs have other groups."""
    net = Net("layerwise")
    net.low.name = "both"
    net.more = Low(net.state, f"of rank {rank}")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    skip_nonfinite_steps(optimizer, net)
    backward(net)
    backward(net.more, 1e6 if rank == 1 else 2.0**-8)
    optimizer.step()
    return {"scales": net.state.scaling.values(), "blamed": net.state.scaling.blamed}


def zero(rank: int) -> Outcome:
    """Each rank holds the optimizer's state for some parameters, and sends them when it stepped."""
    torch.manual_seed(0)
    net = Net()
    model = DistributedDataParallel(net)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.1)
    guard = skip_nonfinite_steps(optimizer, model)
    taken = []
    for bad in (False, True, False):
        before = flat(net)
        optimizer.zero_grad()
        backward(model, 1e6 if bad and rank else 1.0)
        optimizer.step()
        taken.append(before != flat(net))
    optimizer.consolidate_state_dict(0)
    if rank == 0:
        state = optimizer.state_dict()
        guard.load_state_dict({**guard.state_dict(), "steps": 0})
        optimizer.load_state_dict(state)
    return {"taken": taken, "weights": flat(net), "steps": guard.steps}


SCENES: tuple[Callable[[int], Outcome], ...] = (
    default_group,
    alone,
    without_gradients,
    ddp,
    fsdp2,
    tensor_parallel,
    layerwise,
    zero,
)


def flat(net: Net) -> list[float]:
    return [x for p in net.parameters() for x in p.detach().flatten().tolist()]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    steps.trainings_of = trainings_of
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS
    )
    torch.save({scene.__name__: scene(rank) for scene in SCENES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """What each scene gave, by rank."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, (str(folder),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]


def test_an_overflow_on_one_rank_skips_the_step_of_all(
    outcomes: list[dict[str, Outcome]],
) -> None:
    one, other = (outcome["default_group"] for outcome in outcomes)
    assert one["taken"] == other["taken"] == [True, False, True, False]
    assert one["scale"] == other["scale"] == 2.0**14
    assert one["weights"] == other["weights"]


def test_ranks_that_do_not_ask_each_other(outcomes: list[dict[str, Outcome]]) -> None:
    assert [o["alone"]["skipped"] for o in outcomes] == [0, 1]
    assert [o["alone"]["scale"] for o in outcomes] == [2.0**16, 2.0**15]


def test_a_rank_without_gradients_skips_too(outcomes: list[dict[str, Outcome]]) -> None:
    for outcome in outcomes:
        assert outcome["without_gradients"] == {"skipped": 1, "scale": 2.0**15}


def test_distributed_data_parallel(outcomes: list[dict[str, Outcome]]) -> None:
    """Even though the loop hides what is not finite, and only rank 0's cast saw it."""
    one, other = (outcome["ddp"] for outcome in outcomes)
    assert one == other
    assert one["taken"] == [True, False, True] and one["scale"] == 2.0**15
    assert one["own group"] == [True]


def test_shards_of_gradients(outcomes: list[dict[str, Outcome]]) -> None:
    for outcome in outcomes:
        assert outcome["fsdp2"] == {"taken": [True, False, True], "scale": 2.0**15, "groups": 1}
        assert outcome["tensor_parallel"] == {"skipped": 1, "groups": 1}


def test_layers_that_another_rank_found(outcomes: list[dict[str, Outcome]]) -> None:
    blamed = frozenset({"of rank 1"})
    assert [o["layerwise"]["blamed"] for o in outcomes] == [blamed, blamed]
    assert outcomes[0]["layerwise"]["scales"]["of rank 0"] == 2.0**16
    assert outcomes[1]["layerwise"]["scales"] == {"both": 2.0**16, "of rank 1": 2.0**15}


def test_zero_redundancy_optimizer(outcomes: list[dict[str, Outcome]]) -> None:
    one, other = (outcome["zero"] for outcome in outcomes)
    assert one["taken"] == other["taken"] == [True, False, True]
    assert one["weights"] == other["weights"] and one["steps"] == other["steps"] == 3


def test_one_process_asks_nobody() -> None:
    assert groups_of(None, [Net()], torch.optim.SGD([nn.Parameter(torch.ones(1))])) == ()
