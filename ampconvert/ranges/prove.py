"""Proofs that no op overflows in the low type, for every input within declared ranges.

The claim: take any plan that keeps every op that is not proved in float32, and that rounds any of
the other values, inputs and weights to the low type or does not. In a run of it in which no float32
operation overflows float32 or gives NaN, no result and no operand of a proved op reaches the low
type's overflow threshold. Elements that a mask hides may become minus infinity, which is what they
mean. A dynamic dimension is taken to be at most `domain.LONGEST` where a bound depends on it.

One pass over the graph in order of execution: a transfer function gives bounds of each result from
bounds of the operands (`transfer`), contracts narrow them, and rounding to the low type, which any
plan may add, widens them again. An operator without a transfer function gives a result that is
unknown, never a guess. Everything is float64 with outward margins (`rounding`).
"""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ampconvert import functions
from ampconvert.dtypes import FLOAT_TYPES, FloatType, Low
from ampconvert.functions import Call
from ampconvert.graph import Graph, Node, Value

# Each registers its transfer functions.
from ampconvert.ranges import transfer_arithmetic as transfer_arithmetic
from ampconvert.ranges import transfer_einsum as transfer_einsum
from ampconvert.ranges import transfer_elementwise as transfer_elementwise
from ampconvert.ranges import transfer_indexing as transfer_indexing
from ampconvert.ranges import transfer_joins as transfer_joins
from ampconvert.ranges import transfer_moves as transfer_moves
from ampconvert.ranges import transfer_norms as transfer_norms
from ampconvert.ranges import transfer_products as transfer_products
from ampconvert.ranges import transfer_recurrent as transfer_recurrent
from ampconvert.ranges import transfer_reductions as transfer_reductions
from ampconvert.ranges import transfer_windows as transfer_windows
from ampconvert.ranges.calibrate import Range
from ampconvert.ranges.domain import Abstract, Norm, build, size_of, top, within
from ampconvert.ranges.domain_checks import DomainCheck, domain_checks
from ampconvert.ranges.rounding import stored
from ampconvert.ranges.transfer import KNOWS_MASKS, TABLE, State, dims_of
from ampconvert.ranges.transfer_indexing import integer_limits
from ampconvert.ranges.weights import weight_bounds

# Functions whose results are elements of their operands, or as large.
_EXACT = frozenset(
    {"identity", "cast", "reshape", "squeeze", "unsqueeze", "transpose", "expand", "tile", "slice"}
    | {"select", "split", "concat", "stack", "flip", "depth_to_space", "gather", "where", "relu"}
    | {"neg", "abs", "amax", "amin", "maximum", "minimum", "max_pool", "phi"}
)


@dataclass(frozen=True)
class Assumption:
    """A user's contract: no element of what `pattern` names exceeds `limit` in magnitude.

    `pattern` is the name or label of a value, the name of a node, a module path, or a glob on
    these; a module path stands for all that is computed in the module and below it.
    """

    pattern: str
    limit: float


@dataclass(frozen=True)
class Bound:
    """What no element of a value leaves. `hidden` elements of a mask may lie lower, down to that
    number.
    """

    lo: float
    hi: float
    hidden: float | None = None

    @property
    def magnitude(self) -> float:
        """The largest magnitude."""
        return max(-self.lo, self.hi, -(self.hidden or 0.0), 0.0)


@dataclass(frozen=True)
class Proof:
    """What was proved for one low type. Values of which nothing is known are absent from `bounds`.

    `assumed` lists the values that each contract narrowed, by pattern. `inner` holds, by node, the
    largest number that its kernel may store inside, such as the scores of an attention.
    """

    low: Low
    bounds: Mapping[str, Bound]
    domains: tuple[DomainCheck, ...] = ()
    assumed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    inner: Mapping[str, float] = field(default_factory=dict)

    def proved(self, graph: Graph, node: Node) -> bool:
        """Whether no result and no float operand of `node` can reach the overflow threshold."""
        return self.obstacle(graph, node) == ""

    def fitting(self, graph: Graph) -> frozenset[str]:
        """The float32 values that were shown to stay below the overflow threshold."""
        return frozenset(v.name for v in graph.values.values()
                         if v.is_float32 and self.fits(graph, v.name))  # fmt: skip

    def obstacle(self, graph: Graph, node: Node) -> str:
        """Why `node` is not proved; "" when it is."""
        limit = FLOAT_TYPES[self.low]
        for value, role in stored_values(graph, node):
            if not self.fits(graph, value.name):
                bound = self.bounds.get(value.name)
                name = value.label or value.name
                if bound is None:
                    return f"nothing bounds its {role} {name}"
                if bound.magnitude < limit.overflow:
                    return f"its {role} {name} holds masked elements that not every reader absorbs"
                return f"its {role} {name} is only known to stay below {bound.magnitude:.3g}"
        if self.inner.get(node.name, 0.0) >= limit.overflow:
            return "nothing bounds what it computes inside"
        for name, number in _numbers(graph, node):
            if math.isfinite(number) and number >= limit.overflow:
                return f"its constant {name}={number:.3g} is beyond {limit.max:.5g}"
        return ""

    def fits(self, graph: Graph, name: str) -> bool:
        """Whether the value stays below the threshold; masked elements where all absorb them."""
        limit = FLOAT_TYPES[self.low]
        bound = self.bounds.get(name)
        if bound is None or bound.magnitude >= limit.overflow:
            return False
        if bound.hidden is None:
            return True
        return name not in graph.outputs and all(
            self._absorbs(graph, node) for node, _ in graph.readers[name]
        )

    def _absorbs(self, graph: Graph, node: Node) -> bool:
        """Whether minus infinity in an operand of `node` does no harm."""
        function = functions.function_of(node)
        if function is not None and function.name in KNOWS_MASKS:
            return True
        made = (v for v in graph.output_values(node) if v.is_float32)
        return all(v.name in self.bounds for v in made)


def prove(
    graph: Graph,
    declared: Mapping[str, tuple[float, float]],
    low: Low,
    assumptions: Sequence[Assumption] = (),
    seen: Mapping[str, Range] | None = None,
    *,
    kept: Collection[str] = (),
    errors: Mapping[str, float] | None = None,
) -> Proof:
    """Bounds of every value of `graph` that hold under any rounding to `low`, and what they prove.

    `declared` gives the range of model inputs by name or label. Integers without one may be
    anything, as indices anything valid; floats without one are unknown, which is noted. `kept`
    names nodes that every plan in question keeps in float32. `seen` and `errors` (the predicted
    standard deviation of each value's error, absolute) serve only for the checks of domains, and
    `seen` to notice a contract or a declared range that does not hold.
    """
    start = time.perf_counter()
    with np.errstate(all="ignore"):
        run = _Pass(graph, declared, FLOAT_TYPES[low], assumptions, kept)
        run.walk()
        checks = domain_checks(run.state, run.calls, seen or {}, errors or {})
    bounds = {}
    for name, found in run.state.known.items():
        lo, hi = found.worst
        if math.isfinite(lo) and math.isfinite(hi):
            bounds[name] = Bound(lo, hi, found.hidden)
    run.notes += _contradictions(graph, bounds, seen or {})
    for assumption in assumptions:
        if assumption.pattern not in run.assumed:
            run.notes.append(f"the contract {assumption.pattern!r} names nothing in this model")
    return Proof(
        low, bounds, tuple(checks), {p: tuple(n) for p, n in run.assumed.items()},
        tuple(run.notes), time.perf_counter() - start, run.state.inner,
    )  # fmt: skip


def _contradictions(
    graph: Graph, bounds: Mapping[str, Bound], seen: Mapping[str, Range]
) -> Iterator[str]:
    """Values seen beyond their bounds: a declared range or a contract does not hold on the data."""
    for name, bound in bounds.items():
        shown = seen.get(name)
        if shown is None or not shown.elements or not graph.values[name].is_float32:
            continue
        low_enough = bound.hidden is None and shown.minimum < bound.lo
        if low_enough or shown.maximum > bound.hi:
            where = graph.values[name].label or name
            yield (
                f"{where} was seen from {shown.minimum:.4g} to {shown.maximum:.4g}, outside its "
                f"bounds {bound.lo:.4g} to {bound.hi:.4g}: a declared range or a contract is wrong"
            )


class _Pass:
    """One walk over the graph."""

    def __init__(
        self,
        graph: Graph,
        declared: Mapping[str, tuple[float, float]],
        low: FloatType,
        assumptions: Sequence[Assumption],
        kept: Collection[str],
    ) -> None:
        self.graph, self.low = graph, low
        self.declared, self.assumptions = declared, assumptions
        self.state = State(graph, low, kept)
        self.calls = functions.calls(graph)
        self.assumed: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def walk(self) -> None:
        self._inputs()
        for value in self.graph.values.values():
            if value.kind == "weight" and value.const is not None:
                found = weight_bounds(value, self.state)
                self.state.known[value.name] = self._contracted(found, value, None)
        unknown: dict[str, int] = {}
        for node in self.graph.nodes:
            call = self.calls.get(node.name)
            nameless = call is None or call.function not in TABLE
            if nameless and any(v.is_float32 for v in self.graph.output_values(node)):
                unknown[node.op] = unknown.get(node.op, 0) + 1
            results = self._results(call)
            for number, name in enumerate(node.outputs):
                found_here = results[number] if number < len(results) else None
                value = self.graph.values[name]
                made = top(dims_of(value)) if found_here is None else found_here
                made = self._contracted(made, value, node)
                self.state.known[name] = self._settled(made, value)
        self.notes += [
            f"{op} ({times} of them) has no transfer function: its results are unknown"
            for op, times in unknown.items()
        ]

    def _inputs(self) -> None:
        names = set()
        for name in self.graph.inputs:
            value = self.graph.values[name]
            key = name if name in self.declared else value.label
            names.add(key)
            limits = integer_limits(value.dtype)
            found = top(dims_of(value))
            if key in self.declared:
                lo, hi = self.declared[key]
                found = build(dims_of(value), lo, hi, whole=limits is not None)
            elif limits is None and value.is_float32:
                self.notes.append(f"no range is declared for the input {value.label or name}")
            self.state.known[name] = self._settled(self._contracted(found, value, None), value)
        for name in self.declared:
            if name not in names:
                self.notes.append(f"a range is declared for {name}, which is no input")

    def _results(self, call: Call | None) -> list[Abstract | None]:
        if call is None or call.function not in TABLE or not self._is_real(call):
            return []
        try:
            found = TABLE[call.function](self.state, call)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # A form of the operator that nobody thought of: unknown, and said so.
            self.notes.append(f"{call.node.name} ({call.node.op}) could not be bounded: {error}")
            return []
        return [found] if isinstance(found, Abstract) else list(found or [])

    def _is_real(self, call: Call) -> bool:
        """Whether margins for float32 hold: not for complex numbers, which functions stretch
        otherwise, nor for arithmetic that the model itself does in a shorter type.
        """
        node = call.node
        types = {self.graph.values[n].dtype for n in (*node.inputs, *node.outputs) if n is not None}
        if any(t.startswith("complex") for t in types):
            return False
        shorter = {t for t in types if "float" in t} - {"float32", "float64"}
        return not shorter or call.function in _EXACT

    def _contracted(self, found: Abstract, value: Value, node: Node | None) -> Abstract:
        """`found` under the user's contracts."""
        for assumption in self.assumptions:
            if "float" in value.dtype and names(assumption.pattern, value, node):
                self.assumed.setdefault(assumption.pattern, []).append(value.name)
                if found.largest > assumption.limit:
                    found = within(found, -assumption.limit, assumption.limit)
        return found

    def _settled(self, found: Abstract, value: Value) -> Abstract:
        """`found` as it is stored: within its type, and with what rounding to `low` may add."""
        limits = integer_limits(value.dtype)
        if limits is not None:
            lo, hi = found.worst
            if lo < limits[0] or hi > limits[1]:  # numbers outside wrap around
                found = build(found.dims, *limits)
            return replace(found, whole=True)
        if not value.is_float32 or found.largest >= self.low.overflow:
            return found
        if value.kind == "computed" and self.state.stays_float32(value.name):
            return found
        return rounded(found, self.low)


def rounded(x: Abstract, low: FloatType) -> Abstract:
    """What holds of `x` and of its rounding to `low` alike."""
    lo, hi = stored(x.lo, x.hi, low)

    def widened(norm: Norm | None, power: float) -> Norm | None:
        if norm is None:
            return None
        n = 1.0 if x.dims is None else float(size_of(x.dims[norm.axis]))
        return norm.scaled(1 + low.unit, n ** (1 / power) * low.smallest / 2)

    image = x.image
    if image is not None:
        n = image.center.size
        magnitude = np.broadcast_to(
            x.magnitude.reshape(-1, x.magnitude.shape[-1]).max(axis=0), (n,)
        )
        error = low.unit * float(np.linalg.norm(magnitude)) + math.sqrt(n) * low.smallest / 2
        image = replace(image, fuzz=image.fuzz + error)
    return replace(
        x, lo=lo, hi=hi, ball=widened(x.ball, 2), mass=widened(x.mass, 1), image=image,
        data=None if x.data is None else x.data,
    )  # fmt: skip


def names(pattern: str, value: Value, node: Node | None) -> bool:
    """Whether a pattern names the value, its maker, or a module that the maker lies in."""
    candidates = [value.name, value.label]
    if node is not None:
        parts = node.scope.split(".") if node.scope else []
        candidates += [node.name, *(".".join(parts[:n]) for n in range(1, len(parts) + 1))]
    return any(c and fnmatch.fnmatchcase(c, pattern) for c in candidates)


def stored_values(graph: Graph, node: Node) -> Iterable[tuple[Value, str]]:
    """The float32 values that a plan may give to `node` in `low`, or take from it."""
    for position, value in enumerate(graph.output_values(node)):
        used = graph.readers[value.name] or value.name in graph.outputs or position == 0
        if value.is_float32 and position not in node.fixed_outputs and used:
            yield value, "result"
    for position, operand in enumerate(graph.input_values(node)):
        if operand is not None and operand.is_float32 and position not in node.fixed_inputs:
            yield operand, "weight" if operand.kind == "weight" else "operand"


def _numbers(graph: Graph, node: Node) -> Iterable[tuple[str, float]]:
    """The numbers that stand as operands of `node`."""
    call = functions.call(graph, node)
    for place, operand in enumerate(call.operands if call is not None else ()):
        if isinstance(operand, float):
            yield f"operand {place}", operand
