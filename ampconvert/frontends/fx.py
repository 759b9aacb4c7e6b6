"""A captured PyTorch program as a core Graph. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from ampconvert.frontends.fx_nodes import (
    arguments,
    is_getitem,
    is_tensor,
    operands,
    results,
    returned,
)
from ampconvert.frontends.stack_trace import source_line
from ampconvert.graph import Dim, Graph, Kind, Node, Value

_WEIGHTS = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)


def read(program: ExportedProgram) -> Graph:
    """The Graph of `program`: one Value per tensor, one Node per call, FX names throughout.

    A buffer that the model updates counts as an input: it is state, and its type is the owner's.
    """
    values: dict[str, Value] = {}
    inputs: list[str] = []
    nodes: list[Node] = []
    kinds = weight_targets(program)
    state = program.graph_signature.inputs_to_buffers
    for node in program.graph.nodes:
        if node.op == "placeholder" and is_tensor(node):
            target = kinds.get(node.name)
            values[node.name] = core_value(
                node.name,
                node.meta["val"],
                "weight" if target else "input",
                const=_loader(program, target) if target else None,
                label=target or state.get(node.name, node.name),
            )
            if not target:
                inputs.append(node.name)
        elif node.op == "call_function" and not is_getitem(node):
            values |= {name: core_value(name, fake) for name, _, fake in results(node)}
            nodes.append(core_node(node))
    graph = Graph(tuple(nodes), values, tuple(inputs), tuple(output_names(program)))
    graph.check()
    return graph


def weight_targets(program: ExportedProgram) -> dict[str, str]:
    """Placeholder name to state_dict key (or constant's name) of each weight that never changes."""
    mutated = set(program.graph_signature.buffers_to_mutate.values())
    return {
        spec.arg.name: spec.target
        for spec in program.graph_signature.input_specs
        if spec.kind in _WEIGHTS and spec.target is not None and spec.target not in mutated
    }


def weight(program: ExportedProgram, target: str) -> torch.Tensor:
    """The tensor behind a parameter's, buffer's or constant's name."""
    held: Any = program.state_dict if target in program.state_dict else program.constants
    found: torch.Tensor = held[target]
    return found


def output_names(program: ExportedProgram) -> list[str]:
    """The tensors that the program returns or writes back, one entry per output that is a
    tensor.
    """
    return [arg.name for arg in returned(program.graph) if is_tensor(arg)]


def user_outputs(program: ExportedProgram) -> list[str]:
    """The tensors that the caller gets, in order."""
    tensors = set(output_names(program))
    return [
        spec.arg.name
        for spec in program.graph_signature.output_specs
        if spec.kind == OutputKind.USER_OUTPUT and spec.arg.name in tensors
    ]


def output_labels(program: ExportedProgram) -> list[str]:
    """What to call each of `user_outputs`: its key or attribute where the model returns those, else
    its own name. Two outputs never share one.
    """
    tensors = set(output_names(program))
    kept = [s.arg for s in program.graph_signature.output_specs if s.kind == OutputKind.USER_OUTPUT]
    spec = program.call_spec.out_spec
    paths: list[Any] = [()] * len(kept)
    if spec is not None and spec.num_leaves == len(kept):
        tree = pytree.tree_unflatten(list(range(len(kept))), spec)
        paths = [path for path, _ in pytree.tree_leaves_with_path(tree)]
    labels: list[str] = []
    for arg, path in zip(kept, paths, strict=True):
        if arg.name in tensors:
            keys = [str(k) for step in path for k in [_key(step)] if k is not None]
            label = "_".join(keys) if keys and not keys[0].isdigit() else arg.name
            labels.append(label if label not in labels else f"{label}_{len(labels)}")
    return labels


def _key(step: Any) -> Any:
    """The key, attribute name or index in one step of a pytree path."""
    for name in ("key", "name", "idx"):
        if hasattr(step, name):
            return getattr(step, name)
    return None


def core_value(
    name: str,
    fake: torch.Tensor,
    kind: Kind = "computed",
    const: Callable[[], np.ndarray[Any, Any]] | None = None,
    label: str = "",
) -> Value:
    """The Value of a tensor with the type and the sizes of `fake`."""
    shape: tuple[Dim, ...] = tuple(d if isinstance(d, int) else str(d) for d in fake.shape)
    hint = tuple(d if isinstance(d, int) else _example_size(d) for d in fake.shape)
    return Value(name, str(fake.dtype).removeprefix("torch."), shape, kind, const, hint, label)


def _example_size(dim: torch.SymInt) -> int:
    """The size that the example had; 1 for one that depends on data."""
    hint = dim.node.hint
    return int(hint) if hint is not None else 1


def _loader(program: ExportedProgram, target: str) -> Callable[[], np.ndarray[Any, Any]]:
    return lambda: array(weight(program, target))


def array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor's data as numpy's; low types as float32."""
    tensor = tensor.detach().cpu()
    return np.asarray(tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy())


def core_node(node: fx.Node) -> Node:
    """The Node of a call: its operands by number, its arguments, and where it stands."""
    taken = operands(node)
    made = results(node)
    return Node(
        name=node.name,
        op=operator_name(node),
        overload=getattr(node.target, "_overloadname", ""),
        inputs=tuple(o.node.name if o.node is not None else None for o in taken),
        operands=tuple(o.name for o in taken),
        outputs=tuple(name for name, _, _ in made),
        attrs=_attributes(node),
        scope=_scope(node),
        where=source_line(node.meta.get("stack_trace") or ""),
        bound=_bound(node, [fake for _, _, fake in made]),
    )


def operator_name(node: fx.Node) -> str:
    """`aten::softmax`, `higher_order::cond`, or `python::add` for arithmetic on sizes."""
    target: Any = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order::{target._name}"
    return f"python::{getattr(target, '__name__', target)}"


def _attributes(node: fx.Node) -> dict[str, Any]:
    """Every argument that is no tensor; sizes that are computed appear by name."""
    schema = getattr(node.target, "_schema", None)
    found: dict[str, Any] = {}
    if schema is not None:
        found = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    for name, value in arguments(node):
        items = value if isinstance(value, list | tuple) else (value,)
        if any(is_tensor(item) for item in items):
            found.pop(name, None)
        else:
            found[name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value).removeprefix("torch.")


def _scope(node: fx.Node) -> str:
    """The path of the innermost module; nodes that torch.export added itself have none."""
    stack = node.meta.get("nn_module_stack")
    path = str(list(stack.values())[-1][0]) if stack else ""
    return "" if path.startswith("_empty_nn_module_stack") else path


def _bound(node: fx.Node, made: list[torch.Tensor]) -> str:
    """Why the result can be nothing but float32: a body of its own, or integers and no type
    argument.
    """
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return (
            "The types inside its bodies are fixed, and so are those of what goes in and comes out."
        )
    schema = getattr(node.target, "_schema", None)
    makes = any(fake.dtype == torch.float32 for fake in made)
    reads = any(
        o.node is not None and o.node.meta["val"].is_floating_point() for o in operands(node)
    )
    if (
        not makes
        or reads
        or (schema is not None and any(a.name == "dtype" for a in schema.arguments))
    ):
        return ""
    return "It makes float32 out of integers and has no argument to make anything else."
