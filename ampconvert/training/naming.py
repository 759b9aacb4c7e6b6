"""Names that a model's owner knows: paths of modules, parameters and buffers.

Dynamo names both by the way from a frame's variables: `L['self']._modules['fc']._parameters['w']`,
`L['self'].layers.0`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

_ROOT = re.compile(r"^(?:[LG]\['[^']*'\]|___\w+\(.*?\)|\w+)")
_STEP = re.compile(
    r"\._(?:modules|parameters|buffers)\['([^']*)'\]"  # an entry of a module's own tables
    r"|\['([^']*)'\]|\[(\d+)\]|\.([^.\[\]]+)"
)
_WRAPPERS = ("_orig_mod",)  # torch.compile's module around a model


def path(source: str) -> str:
    """The dotted path that `source` leads along, from the module in its first variable."""
    rest = source[match.end() :] if (match := _ROOT.match(source)) else source
    steps = [next(part for part in found.groups() if part) for found in _STEP.finditer(rest)
             if any(found.groups())]  # fmt: skip
    return ".".join(step for step in steps if step not in _WRAPPERS)


def variable(source: str) -> str:
    """What to call an input: the variable that holds it, or the path to it in a module."""
    held = re.fullmatch(r"[LG]\['([^']*)'\]([^.]*)", source)
    return "".join(held.groups()) if held else path(source)


def name_places(graph: fx.Graph, inputs: Sequence[Any], root: torch.nn.Module | None) -> None:
    """Give placeholders that are parameters or buffers meta["ampconvert_state"], their path, and
    every node's module stack the paths that named_modules() spells, from `root` where it is known.
    """
    tensors, modules = _known(root)
    prefix = ""
    for node, value in zip(graph.find_nodes(op="placeholder"), inputs, strict=True):
        source = node.meta.get("ampconvert_source", "")
        if not _is_state(source, value):
            continue
        short = path(source)
        full = tensors.get(id(value), short)
        if full != short and full.endswith(f".{short}"):
            prefix = full[: -len(short)]
        node.meta["ampconvert_state"] = full
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            node.meta["nn_module_stack"] = {
                key: (modules.get(key, prefix + path(str(where))).strip("."), *rest)
                for key, (where, *rest) in stack.items()
            }
        elif prefix and node.op == "call_function":
            node.meta["nn_module_stack"] = {"": (prefix.strip("."), torch.nn.Module)}


def _known(root: torch.nn.Module | None) -> tuple[dict[int, str], dict[str, str]]:
    """Paths in `root`: of tensors by identity, of modules by what Dynamo's stacks know them by."""
    if root is None:
        return {}, {}
    tensors = {id(t): name for name, t in (*root.named_buffers(), *root.named_parameters())}
    return tensors, {str(id(module)): name for name, module in root.named_modules()}


def _is_state(source: str, value: Any) -> bool:
    owned = "_parameters[" in source or "_buffers[" in source
    return owned or isinstance(value, torch.nn.Parameter)
