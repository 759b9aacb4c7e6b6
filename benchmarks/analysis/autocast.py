"""torch.autocast's rule as a planner over the core Graph: its op lists, and promotion for the rest.

The lists are read from the header that torch itself is built from and ships,
`ATen/autocast_mode.h`; the documentation of torch.amp lists the same operators. What stands in
neither runs in the type of its inputs, the widest where they differ. A weight is a float32 input
like any other there, because autocast casts weights only for operators of the first list.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ampconvert.graph import Graph, Node
from ampconvert.plan import FLOAT32, touches_float32

Key = tuple[str, str]  # ATen operator and overload
LOW_MACROS = ("LOWER_PRECISION_FP",)
FULL_MACROS = ("FP32", "FP32_SET_OPT_DTYPE")
NORM: frozenset[Key] = frozenset({("norm", "Scalar"), ("norm", "ScalarOpt_dim")})
OWN_PARAMETERS = "batch_norm"  # its kernel takes float32 statistics beside a low input


@dataclass(frozen=True)
class Lists:
    """The operators that autocast runs in the low type, and those that it runs in float32."""

    low: frozenset[Key]
    full: frozenset[Key]


@cache
def lists() -> Lists:
    """The lists of the installed torch. Raises ValueError where the header has another form."""
    import torch

    header = Path(torch.__file__).parent / "include" / "ATen" / "autocast_mode.h"
    return read_lists(header.read_text(encoding="utf-8"))


def read_lists(header: str) -> Lists:
    """The lists that a text of `autocast_mode.h` defines."""
    low = frozenset(key for macro in LOW_MACROS for key in _macro(header, macro))
    full = frozenset(key for macro in FULL_MACROS for key in _macro(header, macro))
    return Lists(low, full | NORM)  # norm has a macro of another form


def compute_types(graph: Graph, low: str, known: Lists | None = None) -> dict[str, str]:
    """What each node that touches float32 runs in under autocast to `low`."""
    known = known or lists()
    held: dict[str, str] = {}  # by value: the type it has when it is made
    chosen: dict[str, str] = {}
    for node in graph.nodes:
        if not touches_float32(graph, node):
            continue
        key = (node.op.removeprefix("aten::"), node.overload or "default")
        if key in known.low:
            chosen[node.name] = low
        elif key in known.full:
            chosen[node.name] = FLOAT32
        else:
            chosen[node.name] = _widest(graph, node, held)
        held |= dict.fromkeys(node.outputs, chosen[node.name])
    return chosen


def _macro(header: str, name: str) -> list[Key]:
    """The entries `_(op)` and `_(op, overload)` of AT_FORALL_<name>."""
    found = re.search(rf"#define AT_FORALL_{name}\(_\)(.*?)\n\n", header, re.DOTALL)
    if found is None:
        raise ValueError(f"autocast_mode.h has no AT_FORALL_{name}")
    entries = re.findall(r"_\((\w+)(?:,\s*(\w+))?\)", found[1])
    return [(op, overload or "default") for op, overload in entries]


def _widest(graph: Graph, node: Node, held: Mapping[str, str]) -> str:
    """float32 where any input has it, by torch's type promotion: tensors without dimensions count
    only where there are no others.
    """
    values = [v for v in graph.input_values(node) if v is not None and v.is_float32]
    if OWN_PARAMETERS in node.op:
        values = values[:1]
    with_dims = [v for v in values if v.shape != ()]
    types = {held.get(v.name, FLOAT32) for v in with_dims or values}
    return types.pop() if len(types) == 1 else FLOAT32
