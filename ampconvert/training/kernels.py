"""Operators that PyTorch has no kernel for in `low` on a device: found by running them once.

PyTorch keeps no table of the types that a kernel takes; whether one is there shows when it runs,
forward or on the way back. A model that trains must not stop in its first backward pass, so each
kind of call is tried on made-up data before a plan relies on it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ampconvert.frontends.fx_apply import calls
from ampconvert.graph import Graph
from ampconvert.plan import Plan

_tried: dict[tuple[Any, ...], str] = {}


def lacking(converted: fx.GraphModule, graph: Graph, plan: Plan) -> dict[str, str]:
    """Why each call that `plan` gives `low` can't have it on its device, by name.

    `converted` holds the plan's types in its nodes' "val". Calls are tried with gradients, each
    kind of operator and types once, on the smallest of its shapes; no random numbers are drawn.
    """
    named = calls(converted.graph)
    planned = [named[n] for n, dtype in plan.compute.items() if dtype == plan.low and n in named]
    missing: dict[str, str] = {}
    for node in sorted(planned, key=_size):
        if isinstance(node.target, torch._ops.OpOverload):
            key = _kind(node)
            if key not in _tried:
                _tried[key] = _try(node)
            if _tried[key]:
                missing[node.name] = _tried[key]
    return missing


def _size(node: fx.Node) -> int:
    fakes = [n.meta.get("val") for n in (node, *node.all_input_nodes)]
    return sum(int(_numel(fake)) for fake in fakes if isinstance(fake, torch.Tensor))


def _numel(fake: torch.Tensor) -> int:
    total = 1
    for size in _sizes(fake):
        total *= size
    return total


def _sizes(fake: torch.Tensor) -> list[int]:
    """The shape, dynamic dimensions as they were when the graph was captured."""
    return [d if isinstance(d, int) else int(d.node.hint or 1) for d in fake.shape]


def _kind(node: fx.Node) -> tuple[Any, ...]:
    """What decides which kernel runs: operator, types and ranks of the operands, and the device."""
    operands: list[Any] = []
    for operand in node.all_input_nodes:
        fake = operand.meta.get("val")
        if isinstance(fake, torch.Tensor):
            operands.append((fake.dtype, fake.dim(), fake.device.type))
    return (node.target, *operands)


def _try(node: fx.Node) -> str:
    """The complaint of the kernel, "" for none."""
    device = next(
        (
            v.device
            for n in node.all_input_nodes
            if isinstance(v := n.meta.get("val"), torch.Tensor)
        ),
        torch.device("cpu"),
    )
    devices = [device] if device.type == "cuda" else []
    with (
        unset_fake_temporarily(),
        torch.random.fork_rng(devices=devices),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        try:
            _run(node)
        except (NotImplementedError, RuntimeError) as error:
            text = str(error).splitlines()[0] if str(error) else ""
            if "not implemented for" in text or isinstance(error, NotImplementedError):
                return f"PyTorch has no kernel for it on {device.type}: {text}."
    return ""


def _run(node: fx.Node) -> None:
    """The call and its gradient, on ones."""

    def value(taken: fx.Node) -> Any:
        fake = taken.meta.get("val")
        if not isinstance(fake, torch.Tensor):
            return int(fake.node.hint or 1) if isinstance(fake, torch.SymInt) else fake
        data = torch.ones(_sizes(fake), dtype=fake.dtype, device=fake.device)
        return data.requires_grad_() if fake.dtype.is_floating_point else torch.zeros_like(data)

    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    made = node.target(*args, **kwargs)  # type: ignore[operator]
    results = made if isinstance(made, list | tuple) else [made]
    loss = [r.float().sum() for r in results if isinstance(r, torch.Tensor) and r.requires_grad]
    if loss:
        torch.autograd.backward(loss)
