"""Which layer each parameter of forward meets first, read from forward's own source.

`forward(self, user, item): u = self.user_table(user)` says that `user` wants what `user_table`
takes. This only suggests shapes to try: whether they fit is settled by running the model.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

KNOWN = (
    nn.Linear, _ConvNd, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, _BatchNorm,
    _InstanceNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.MultiheadAttention, nn.Bilinear,
)  # fmt: skip
# torch's own blocks, whose attention is the first thing inside that knows the width.
_BLOCKS = (
    nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)  # fmt: skip
_DEPTH = 12


@dataclass(frozen=True)
class Layer:
    """A layer that takes an input, and under which of its own parameter names."""

    module: nn.Module
    operand: str = "input"

    def __str__(self) -> str:
        text = " ".join(repr(self.module).split())
        return text if len(text) <= 60 else text[:57] + "..."


def first_layer(model: nn.Module, parameter: str) -> Layer | None:
    """The first layer of a known kind that `parameter` of model.forward reaches, if any."""
    return _enter(model, parameter, 0)


def linear_width(module: nn.Module) -> int | None:
    """How wide a row a linear layer takes; also of the look-alikes that other packages define."""
    if isinstance(module, nn.Linear):
        return module.in_features
    if not type(module).__name__.endswith("Linear"):
        return None
    width = getattr(module, "in_features", getattr(module, "in_channels", None))
    return width if isinstance(width, int) and width > 0 else None


def _is_known(module: nn.Module) -> bool:
    return isinstance(module, KNOWN) or linear_width(module) is not None


def any_layer(model: nn.Module) -> Layer | None:
    """The first layer of a known kind in order of definition: mostly the one inputs meet first."""
    for module in model.modules():
        if _is_known(module):
            return Layer(module)
    return None


def _enter(module: nn.Module, parameter: str, depth: int) -> Layer | None:
    if _is_known(module):
        return Layer(module, parameter)
    if isinstance(module, _BLOCKS):
        return any_layer(module)
    if depth > _DEPTH:
        return None
    if isinstance(module, nn.Sequential):
        found = (_enter(child, _first_parameter(child), depth + 1) for child in module)
        return next((layer for layer in found if layer is not None), None)
    return _follow(module, type(module).forward, parameter, depth)


def _first_parameter(module: nn.Module) -> str:
    return next(iter(inspect.signature(module.forward).parameters), "input")


def _follow(module: nn.Module, function: Any, parameter: str, depth: int) -> Layer | None:
    """The first call in `function`'s source that hands `parameter` to a layer or a method."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        return None
    scope = _Scope(module, {parameter})
    for node in _in_order(definition.body):
        if isinstance(node, ast.Call):
            callee = scope.resolve(node.func)
            operand = scope.operand(node, callee)
            if operand is None:
                continue
            if isinstance(callee, nn.Module):
                layer = _enter(callee, operand, depth + 1)
            else:
                layer = _follow(module, callee, operand, depth + 1) if depth < _DEPTH else None
            if layer is not None:
                return layer
        else:
            scope.note(node)
    return None


@dataclass
class _Scope:
    """What names stand for inside one function: the tensors that come from the parameter."""

    module: nn.Module
    derived: set[str]
    modules: dict[str, nn.Module] = field(default_factory=dict)

    def note(self, node: ast.AST) -> None:
        """Learn from an assignment (`h = f(x)`) or a loop (`for layer in self.layers`)."""
        if isinstance(node, ast.For):
            layers = self.resolve(node.iter)
            listed = isinstance(layers, nn.ModuleList | nn.Sequential) and len(layers) > 0
            if listed and isinstance(node.target, ast.Name):
                self.modules[node.target.id] = layers[0]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if self.mentions(node.value):
                for target in targets:
                    self.derived.update(n.id for n in ast.walk(target) if isinstance(n, ast.Name))

    def mentions(self, node: ast.AST) -> bool:
        """Whether an expression reads something that comes from the parameter.

        `x.shape` and `len(x)` do not count: they carry no data.
        """
        if isinstance(node, ast.Attribute) and node.attr in ("shape", "device", "dtype", "ndim"):
            return False
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("size", "dim", "len", "numel"):
                return False
        if isinstance(node, ast.Name):
            return node.id in self.derived
        return any(self.mentions(child) for child in ast.iter_child_nodes(node))

    def resolve(self, node: ast.AST) -> Any:
        """The module, or the method of the module's class, that an expression names; else None."""
        if isinstance(node, ast.Name):
            return self.module if node.id == "self" else self.modules.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.resolve(node.value)
            if not isinstance(owner, nn.Module):
                return None
            found = getattr(owner, node.attr, None)
            if isinstance(found, nn.Module):
                return found
            return getattr(found, "__func__", None) if owner is self.module else None
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            owner, key = self.resolve(node.value), node.slice.value
            if isinstance(owner, nn.ModuleList | nn.Sequential) and isinstance(key, int):
                return owner[key] if -len(owner) <= key < len(owner) else None
            if isinstance(owner, nn.ModuleDict) and isinstance(key, str) and key in owner:
                return owner[key]
        return None

    def operand(self, node: ast.Call, callee: Any) -> str | None:
        """The name under which `callee` takes what comes from the parameter; None if not at all."""
        if callee is None or not callable(callee):
            return None
        function = callee.forward if isinstance(callee, nn.Module) else callee
        try:
            names = [n for n in inspect.signature(function).parameters if n != "self"]
        except (TypeError, ValueError):
            return None
        for position, argument in enumerate(node.args):
            if self.mentions(argument):
                return names[min(position, len(names) - 1)] if names else None
        return next((k.arg for k in node.keywords if k.arg and self.mentions(k.value)), None)


def _in_order(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Calls, assignments and loops as they run: what a call is given comes before the call."""
    for statement in body:
        yield from _node_in_order(statement)


def _node_in_order(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.For):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _node_in_order(child)
    if isinstance(node, ast.Call | ast.Assign | ast.AnnAssign):
        yield node
