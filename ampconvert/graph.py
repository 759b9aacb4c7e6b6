"""Value, Node and Graph: a model as the classifier and the planner see it.

Front ends build these from a framework's own graph and never the other way round; a `Plan` refers
to them by name. Everything is frozen: what is decided about a graph lives in the `Plan`, not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

Kind = Literal["input", "weight", "computed"]
Dim = int | str  # a dynamic dimension is its name


@dataclass(frozen=True)
class Value:
    """One tensor.

    `dtype` is spelled as in numpy and ml_dtypes ("float32", "bfloat16", "int64", "bool").
    `shape` is None when the rank is unknown. `hint` is the same shape with the example's size for
    every dynamic dimension: what costs are counted with. `const` loads a weight's data on demand,
    so that a graph never holds a second copy of the model.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None = None
    kind: Kind = "computed"
    const: Callable[[], np.ndarray[Any, Any]] | None = field(
        default=None, compare=False, repr=False
    )
    hint: tuple[int, ...] | None = None
    label: str = ""  # the name its owner knows it by: "encoder.layer.0.output.dense.weight"

    @property
    def is_float32(self) -> bool:
        """Only these are ever planned: integers, booleans, complex and float64 stay as they are."""
        return self.dtype == "float32"

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The shape in numbers: the example's where known, 1 for a dynamic dimension without
        one.
        """
        if self.hint is not None:
            return self.hint
        return tuple(d if isinstance(d, int) else 1 for d in self.shape or ())

    @cached_property
    def numel(self) -> int:
        """Elements, by `sizes`."""
        return math.prod(self.sizes)


@dataclass(frozen=True)
class Node:
    """One operator call.

    `inputs` are value names in argument order, lists flattened; None marks an operand that is left
    out. `operands` gives the schema name of each input ("input", "weight", "tensors"), so rules can
    speak of operands by name. `attrs` holds every argument that is no tensor, by schema name.

    What a format says of types: `fixed_inputs` and `fixed_outputs` are the positions whose float32
    can't become the low type; operands and results with one entry in `input_types` and
    `output_types` have to be of one type ("" goes with nothing).
    """

    name: str
    op: str  # "aten::softmax", "onnx::Softmax", "com.microsoft::Gelu"
    inputs: tuple[str | None, ...]
    outputs: tuple[str, ...]
    operands: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    overload: str = ""  # ATen overload: "Tensor", "int", "default"
    scope: str = ""  # module path: "encoder.layer.0.attention"
    where: str = ""  # source line: "model.py:42"
    bound: str = ""  # why its result can be nothing but float32, when a front end knows that
    bodies: tuple[Graph, ...] = ()
    fixed_inputs: tuple[int, ...] = ()
    fixed_outputs: tuple[int, ...] = ()
    input_types: tuple[str, ...] = ()
    output_types: tuple[str, ...] = ()

    def operand(self, name: str) -> list[int]:
        """Positions of the inputs that fill the schema's operand `name`."""
        return [i for i, operand in enumerate(self.operands) if operand == name]


class GraphError(ValueError):
    """A graph that breaks its own rules: a front end's bug, never the user's."""


@dataclass(frozen=True)
class Graph:
    """A model: nodes in execution order over named values.

    `ties` are groups of nodes that have to run in one type: those that hand on one loop's state, or
    make and read one sequence.
    """

    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""
    ties: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def producers(self) -> dict[str, Node]:
        """The node that makes each computed value."""
        return {out: node for node in self.nodes for out in node.outputs}

    @cached_property
    def readers(self) -> dict[str, list[tuple[Node, int]]]:
        """Each value's readers as (node, input position), in execution order."""
        table: dict[str, list[tuple[Node, int]]] = {name: [] for name in self.values}
        for node in self.nodes:
            for position, name in enumerate(node.inputs):
                if name is not None:
                    table[name].append((node, position))
        return table

    def input_values(self, node: Node) -> list[Value | None]:
        """The values that `node` reads, None where an operand is left out."""
        return [None if name is None else self.values[name] for name in node.inputs]

    def output_values(self, node: Node) -> list[Value]:
        """The values that `node` makes."""
        return [self.values[name] for name in node.outputs]

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Every node with the graph that holds it, bodies of control flow included."""
        for node in self.nodes:
            yield self, node
            for body in node.bodies:
                yield from body.walk()

    def check(self) -> None:
        """Raise GraphError unless every name is known, made once and made before it is read."""
        known = set(self.inputs) | {n for n, v in self.values.items() if v.kind == "weight"}
        seen: set[str] = set()
        for node in self.nodes:
            if node.name in seen:
                raise GraphError(f"two nodes are named {node.name!r}")
            seen.add(node.name)
            if len(node.operands) not in (0, len(node.inputs)):
                raise GraphError(
                    f"{node.name}: {len(node.operands)} operand names for {len(node.inputs)} inputs"
                )
            for name in node.inputs:
                if name is not None and name not in known:
                    raise GraphError(f"{node.name} reads {name!r} before it is made")
            for name in node.outputs:
                if name in known:
                    raise GraphError(f"{node.name} makes {name!r}, which exists already")
                if name not in self.values:
                    raise GraphError(f"{node.name} makes {name!r}, which has no Value")
                known.add(name)
            for body in node.bodies:
                body.check()
        for name in self.outputs:
            if name not in known:
                raise GraphError(f"output {name!r} is made by no node")
        for name in (name for tie in self.ties for name in tie):
            if name not in seen:
                raise GraphError(f"{name!r} is tied to others and is no node")
