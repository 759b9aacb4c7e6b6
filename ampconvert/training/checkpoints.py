"""Activation checkpoints in graphs that PyTorch runs call by call.

Dynamo's operator for them is meant for compilers, which recompute by their own means: called as it
is, it would draw other random numbers the second time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import checkpoint

CHECKPOINT = torch.ops.higher_order.tag_activation_checkpoint
_OPTIONS = ("determinism_check", "debug", "early_stop", "preserve_rng_state")


def checkpoint_eagerly(module: fx.GraphModule) -> fx.GraphModule:
    """`module` with torch.utils.checkpoint called for its checkpoints, as the model did. It is
    changed itself; bodies stay as they are.
    """
    for node in module.graph.find_nodes(op="call_function", target=CHECKPOINT):
        node.target = checkpointed
    module.recompile()
    return module


def checkpointed(body: fx.GraphModule, *operands: Any, **options: Any) -> Any:
    """What `body` gives; on the way back it is run again instead of keeping what it computed."""
    kept = {name: value for name, value in options.items() if name in _OPTIONS}
    if "_checkpoint_context_fn" in body.meta:
        kept["context_fn"] = body.meta["_checkpoint_context_fn"]
    # What was computed is saved, and checked for updates; what the model holds it finds by itself,
    # and may have updated meanwhile.
    saved = [i for i, value in enumerate(operands) if _is_computed(value)]

    def run(*values: Any) -> Any:
        new = dict(zip(saved, values, strict=True))
        return body(*(new.get(i, value) for i, value in enumerate(operands)))

    return checkpoint(run, *(operands[i] for i in saved), use_reentrant=False, **kept)


def _is_computed(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.requires_grad and not value.is_leaf
