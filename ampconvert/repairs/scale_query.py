"""A product that is scaled down right after, as in softmax(q k^T / 8): scale q first.

The scores of long heads pass float16's largest number before the division brings them back. A power
of two moves onto the operand exactly, in float32 and in the low type; what is left of the factor
stays where it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ampconvert import functions
from ampconvert.classify import HEADROOM
from ampconvert.cost import Target
from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.functions import Call
from ampconvert.graph import Graph
from ampconvert.ranges.calibrate import Range
from ampconvert.repairs.repair import Become, Bypass, Declined, Edit, Insert, Names, Read, Repair
from ampconvert.repairs.shapes import VIEWS, read_once, same_rank

KIND = "scale-query"
_PRODUCTS = ("matmul", "einsum")  # linear in their first operand, and nothing is added


def examine(
    graph: Graph, low: Low, ranges: Mapping[str, Range], target: Target | None = None
) -> Iterator[Repair | Declined]:
    """Every product that leaves `low`'s range, was it seen in `ranges`, and is scaled down next."""
    names = Names(graph)
    for node in graph.nodes:
        scaling = functions.call(graph, node)
        if scaling is None:
            continue
        factor = _factor(scaling)
        if factor is None or not 0 < abs(factor) < 1:
            continue
        product = _product(graph, scaling)
        if product is not None:
            found = _judge(scaling, factor, product, low, ranges, names)
            if found is not None:
                yield found


def _judge(
    scaling: Call,
    factor: float,
    product: Call,
    low: Low,
    ranges: Mapping[str, Range],
    names: Names,
) -> Repair | Declined | None:
    """None where the product was not seen, or fits."""
    limits = FLOAT_TYPES[low]
    scores, query = ranges.get(product.result.name), ranges.get(product.name(0) or "")
    if scores is None or query is None or scores.absmax * HEADROOM < limits.overflow:
        return None
    power = _power(factor)
    nodes = (product.node.name, scaling.node.name)
    where = product.node.where
    largest = math.ldexp(scores.absmax, power)
    if largest * HEADROOM >= limits.overflow:
        return Declined(
            KIND, nodes, f"scaled by 2^{power} first, its product of {scores.absmax:.4g} is still "
            f"{largest:.4g}: within {HEADROOM:g} times of {low}'s {limits.max:.5g}", where,
        )  # fmt: skip
    if math.ldexp(query.absmax, power) < limits.tiny:
        return Declined(
            KIND, nodes, f"its first operand never exceeds {query.absmax:.3g}: times 2^{power} it "
            f"would be below {low}'s smallest normal number, {limits.tiny:.3g}", where,
        )  # fmt: skip
    return Repair(
        KIND, nodes,
        {"power": power, "factor": factor, "seen": scores.absmax, "after": largest},
        f"The product was seen at {scores.absmax:.4g} and is scaled by {factor:.4g} after it: with "
        f"2^{power} on its first operand it stays at {largest:.4g}, exactly.",
        _edits(scaling, factor, product, power, names),
        allows=(product.node.name,), where=where,
    )  # fmt: skip


def _edits(
    scaling: Call, factor: float, product: Call, power: int, names: Names
) -> tuple[Edit, ...]:
    node = product.node
    scaled = names.fresh(f"{node.name}_query_scaled")
    query = product.name(0)
    insert = Insert(scaled, "mul", (query, 2.0**power), node.name)
    read = Read(node.name, _position(product), scaled)
    place = _data_place(scaling)
    data = scaling.operands[place]
    rest = math.ldexp(factor, -power)
    if rest == 1.0:
        assert isinstance(data, str)
        return insert, read, Bypass(scaling.node.name, data)
    if scaling.function == "mul":
        constant = scaling.number(1 - place)
        assert constant is not None
        operands = [data, data]
        operands[1 - place] = math.ldexp(constant, -power)
        return insert, read, Become(scaling.node.name, "mul", tuple(operands))
    constant = scaling.number(1)
    assert constant is not None
    new = Become(scaling.node.name, "div", (data, math.ldexp(constant, power)))
    return insert, read, new


def _factor(call: Call) -> float | None:
    """What `call` multiplies its operand with: mul or div by a number; else None."""
    if call.function not in ("mul", "div") or call.attr("rounding_mode") is not None:
        return None
    place = _data_place(call)
    data, number = call.value(place), call.number(1 - place)
    if data is None or number is None or not math.isfinite(number) or number == 0:
        return None
    if place == 1 and call.function == "div":
        return None
    if not (data.is_float32 and call.result.is_float32 and same_rank(data, call.result)):
        return None
    return number if call.function == "mul" else 1 / number


def _data_place(call: Call) -> int:
    """Where the tensor stands beside a number; a product's constant may stand first."""
    return 1 if call.number(0) is not None else 0


def _product(graph: Graph, scaling: Call) -> Call | None:
    """The product that `scaling` alone reads, through changes of shape at most."""
    name = scaling.name(_data_place(scaling))
    if scaling.result.name in graph.outputs:
        return None  # an output keeps the node that makes it
    made = functions.maker(graph, name)
    while made is not None and read_once(graph, made.result.name):
        if made.function in _PRODUCTS:
            return made if made.name(0) is not None else None
        if made.function not in VIEWS:
            return None
        made = functions.maker(graph, made.name(0))
    return None


def _power(factor: float) -> int:
    """The power of two in `factor`: what is left is in 1..2."""
    return math.frexp(abs(factor))[1] - 1


def _position(call: Call) -> int:
    """Where among its node's inputs the call's first operand stands."""
    return call.node.inputs.index(call.name(0))
