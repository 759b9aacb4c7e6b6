"""Core graphs from text, for tests that need no framework: `graph("y = matmul(x, w)",
outputs="y")`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ampconvert.graph import Graph, Node, Value

SHAPE = (512, 512)
_CALL = re.compile(r"(?P<made>[\w, ]+) = (?P<op>[\w:.]+)\((?P<read>[^;)]*)(?:; (?P<attrs>.*))?\)$")


def graph(
    *calls: str,
    inputs: str = "x",
    outputs: str,
    weights: Mapping[str, Any] | None = None,
    types: Mapping[str, str] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    operands: Mapping[str, str] | None = None,
) -> Graph:
    """One node per call, named after its first result; values are float32 of SHAPE unless told.

    `types` and `shapes` speak of values by name, `operands` names a node's operands ("self mask").
    """
    types, shapes = types or {}, shapes or {}
    values: dict[str, Value] = {}

    def add(name: str, kind: Any, data: Any = None) -> None:
        array = None if data is None else np.asarray(data, dtype=np.float32)
        shape = shapes.get(name, SHAPE if array is None else array.shape)
        load = None if array is None else lambda: array
        values[name] = Value(name, types.get(name, "float32"), shape, kind, load)

    for name in inputs.split():
        add(name, "input")
    for name, data in (weights or {}).items():
        add(name, "weight", data)
    nodes = []
    for call in calls:
        match = _CALL.match(call)
        assert match, call
        made = [name.strip() for name in match["made"].split(",")]
        read = [name.strip() or None for name in match["read"].split(",")] if match["read"] else []
        pairs = (pair.split("=") for pair in (match["attrs"] or "").split(", ") if pair)
        for name in made:
            add(name, "computed")
        op, _, overload = match["op"].partition(".")
        nodes.append(
            Node(
                made[0],
                op if "::" in op else f"aten::{op}",
                tuple(None if name in (None, "None") else name for name in read),
                tuple(made),
                tuple((operands or {}).get(made[0], " ".join("self" for _ in read)).split()),
                {key: ast.literal_eval(value) for key, value in pairs},
                overload,
            )
        )
    built = Graph(tuple(nodes), values, tuple(inputs.split()), tuple(outputs.split()))
    built.check()
    return built
