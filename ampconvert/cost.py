"""What a node and a cast cost on a target: a roofline, max(FLOPs over rate, bytes over bandwidth).

The numbers are one small table per target (`rules/targets/*.toml`); no device is needed. How many
FLOPs an operator does is named by its rule (`work = "matmul"`), so that this file knows formulas
and no operator. What a target has no kernels for, `targets` says. Roofline model: Williams,
Waterman, Patterson, CACM 52(4), 2009.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.graph import Graph, Node, Value
from ampconvert.rules import data_directory
from ampconvert.targets import Kernels, kernels_in

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Target:
    """Where a model is to run: the machine's roofline (FLOP/s per type, bytes/s, seconds per kernel
    launch) and what its runtime has no kernels for.

    `overhead` is the seconds that every product takes more in a type, whatever its size, `rates`
    the FLOP/s of kinds of work whose kernels have others. `notes` say, by low type, what its user
    should know of it. `float32_outputs` are the products that can read `low` operands and hand on
    float32 results there.
    """

    name: str
    bandwidth: float
    launch: float
    rate: Mapping[str, float]
    vector: Mapping[str, float]
    source: str
    kernels: Kernels = field(default_factory=Kernels)
    notes: Mapping[str, str] = field(default_factory=dict)
    overhead: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    float32_outputs: frozenset[str] = frozenset()

    def refuses(self, op: str, low: Low, insisted: bool = False, opset: int | None = None) -> str:
        """Why `op` has to stay float32 here, "" where it has not: `Kernels.refuses`."""
        return self.kernels.refuses(op, low, insisted, opset)

    def cast_seconds(self, value: Value) -> float:
        """Time of one Cast between float32 and a 2-byte type: it reads one and writes the other."""
        return 6 * value.numel / self.bandwidth + self.launch

    def node_seconds(self, graph: Graph, node: Node, work: str, dtype: str) -> float:
        """Time of `node` with its float32 tensors held in `dtype`; launches are the same in both
        types.
        """
        return self.seconds_in(graph, node, work, (dtype,))[0]

    def launch_seconds(self, work: str) -> float:
        """Time to start the kernel of an operator, the same in every type; a view has none."""
        return 0.0 if work == "view" else self.launch

    def seconds_in(
        self, graph: Graph, node: Node, work: str, dtypes: tuple[str, ...]
    ) -> tuple[float, ...]:
        """`node_seconds` for each of `dtypes`."""
        if work == "view":
            return (0.0,) * len(dtypes)
        multiplies = work in CONTRACTIONS
        rates = self.rates.get(work, self.rate if multiplies else self.vector)
        extra = self.overhead if multiplies else {}
        operations, moved = flops(graph, node, work), _numbers(graph, node) / self.bandwidth
        return tuple(
            max(operations / rates[d], BYTES[d] * moved) + extra.get(d, 0.0) for d in dtypes
        )


@lru_cache
def load_target(name: str = "h100") -> Target:
    """The target of that name among `rules/targets`; UserError names the ones there are."""
    if name not in target_names():
        raise UserError(f"no target is named {name!r}: there are {', '.join(target_names())}")
    table = _table(name)
    device = _table(table["device"]) if "device" in table else table
    figures = {key: device[key] for key in ("bandwidth", "launch", "rate", "vector", "source")}
    return Target(
        name,
        **figures,
        kernels=kernels_in(table),
        notes=table.get("notes", {}),
        overhead=device.get("overhead", {}),
        rates=device.get("rates", {}),
        float32_outputs=frozenset(table.get("float32_outputs", ())),
    )


def target_named(name: str | None) -> Target:
    """The table of a target, the default one for None. UserError where none has the name."""
    return load_target(name) if name else load_target()


def target_names() -> tuple[str, ...]:
    """Every target that `load_target` knows, in alphabetical order."""
    return tuple(sorted(path.stem for path in (data_directory() / "targets").glob("*.toml")))


def _table(name: str) -> dict[str, Any]:
    path = data_directory() / "targets" / f"{name}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def flops(graph: Graph, node: Node, work: str) -> float:
    """Floating point operations of one call; a multiply and an add count as two."""
    return float(_FORMULAS.get(work, _elementwise)(graph, node))


def _numbers(graph: Graph, node: Node) -> int:
    """How many float32 numbers a call reads and writes."""
    read = {name for name in node.inputs if name is not None}
    values = [graph.values[name] for name in read] + graph.output_values(node)
    return sum(v.numel for v in values if v.is_float32)


def _elementwise(graph: Graph, node: Node) -> int:
    values = [v for v in graph.input_values(node) if v is not None] + graph.output_values(node)
    return max((v.numel for v in values if v.is_float32), default=0)


def _matmul(graph: Graph, node: Node) -> int:
    """Two operations per output element and inner index, taken from the left matrix's last
    dimension.
    """
    left = _matrices(graph, node)[0]
    return 2 * graph.values[node.outputs[0]].numel * (left.sizes[-1] if left.sizes else 1)


def _matrices(graph: Graph, node: Node) -> list[Value]:
    """The operands of a product: an addmm's accumulator ("self", where "mat1" exists) is none."""
    pairs = zip(node.operands or ("",) * len(node.inputs), graph.input_values(node), strict=True)
    accumulates = any(operand in ("mat1", "batch1") for operand in node.operands)
    return [v for operand, v in pairs if v is not None and not (accumulates and operand == "self")]


def _conv(graph: Graph, node: Node) -> int:
    """Every weight is used once per position: of the output, or of the input when transposed."""
    data, weight = (v for v in graph.input_values(node)[:2])
    if data is None or weight is None:
        return 0
    out = graph.values[node.outputs[0]]
    spatial = max(0, len(weight.sizes) - 2)
    widest = max(out, data, key=lambda v: math.prod(v.sizes[len(v.sizes) - spatial :]))
    transposed = bool(node.attrs.get("transposed")) or "transpose" in node.op.lower()
    positions_of = data if transposed else out
    positions = math.prod(positions_of.sizes[len(positions_of.sizes) - spatial :]) if spatial else 1
    batch = widest.sizes[0] if len(widest.sizes) == len(weight.sizes) else 1
    return 2 * weight.numel * positions * batch


def _attention(graph: Graph, node: Node) -> int:
    """Scores and their product with the values: two products over the key positions."""
    values = [v for v in graph.input_values(node) if v is not None]
    if len(values) < 3 or min(len(v.sizes) for v in values[:3]) < 2:
        return 0
    query, key, value = values[:3]
    return (
        2 * query.numel * key.sizes[-2]
        + 2 * (query.numel // query.sizes[-1]) * key.sizes[-2] * value.sizes[-1]
    )


def _recurrent(graph: Graph, node: Node) -> int:
    """Every weight is used once per time step and sample."""
    weights = sum(v.numel for v in graph.input_values(node) if v is not None and v.kind == "weight")
    sequence = graph.values[node.inputs[0] or ""]
    return 2 * weights * math.prod(sequence.sizes[:-1])


def _einsum(graph: Graph, node: Node) -> int:
    """Two operations per point of the space that all the indices span."""
    equation = str(node.attrs.get("equation", "")).replace(" ", "")
    sizes: dict[str, int] = {}
    terms = equation.split("->")[0].split(",")
    for term, value in zip(terms, graph.input_values(node), strict=False):
        if value is not None and "..." not in term:
            sizes.update(zip(term, value.sizes, strict=False))
    return 2 * math.prod(sizes.values()) if sizes else _elementwise(graph, node)


CONTRACTIONS = frozenset({"matmul", "conv", "attention", "recurrent", "einsum"})
_FORMULAS: dict[str, Callable[[Graph, Node], int]] = {
    "matmul": _matmul,
    "conv": _conv,
    "attention": _attention,
    "recurrent": _recurrent,
    "einsum": _einsum,
}
