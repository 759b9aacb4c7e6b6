"""Regions of a graph: where gradients are on, and where torch.autocast is."""

from __future__ import annotations

import torch
from torch import fx

_ENTER = torch.amp.autocast_mode._enter_autocast
_EXIT = torch.amp.autocast_mode._exit_autocast


def grad_modes(graph: fx.Graph) -> dict[fx.Node, bool]:
    """Whether each node runs with gradients on; the graph starts as it is now."""
    enabled = torch.is_grad_enabled()
    modes: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        if node.target is torch._C._set_grad_enabled:
            enabled = bool(node.args[0])
        modes[node] = enabled
    return modes


def autocasts(graph: fx.Graph) -> dict[fx.Node, bool]:
    """The nodes inside a torch.autocast of the model's own: whether the innermost is enabled."""
    found: dict[fx.Node, bool] = {}
    open_regions: list[fx.Node] = []
    for node in graph.nodes:
        if node.target is _ENTER:
            open_regions.append(node)
        elif node.target is _EXIT:
            open_regions.remove(node.args[0])
        elif open_regions:
            found[node] = _is_enabled(open_regions[-1])
    return found


def sets_mode(node: fx.Node) -> bool:
    """Whether a call only switches gradients or autocast."""
    return node.target in (_ENTER, _EXIT, torch._C._set_grad_enabled)


def _is_enabled(enter: fx.Node) -> bool:
    names = ("device_type", "dtype", "enabled", "cache_enabled")
    given = dict(zip(names, enter.args, strict=False)) | enter.kwargs
    return bool(given.get("enabled", True))
