"""Random small ONNX models, drawn as ONNX text, with inputs that they run on.

Two kinds. An exact model computes with small integers only, held as float32: every stored number
fits float16 and bfloat16, so a right conversion gives the same answers bit for bit, comparisons and
casts to integers included. A smooth model has softmax, tanh and their like, and nothing that jumps.
Every value comes with a bound on its magnitude, which steps keep small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st

SHAPE = (2, 3)
LARGEST = 128.0  # of an exact value; sums of two stay among bfloat16's exact integers, up to 256
NUMPY = {"float": np.float32, "double": np.float64, "int64": np.int64, "bool": np.bool_}


@dataclass(frozen=True)
class Val:
    """A tensor of the model in the making, its elements within `bound` of zero."""

    name: str
    kind: str
    shape: tuple[int, ...]
    bound: float = 1.0

    def declared(self) -> str:
        """As ONNX text; `float[]` would be of unknown rank, a single number is `float`."""
        return f"{_type(self.kind, self.shape)} {self.name}"


def _type(kind: str, shape: tuple[int, ...]) -> str:
    return f"{kind}[{', '.join(map(str, shape))}]" if shape else kind


@dataclass(frozen=True)
class Sample:
    """A model with two batches of inputs; `bounds` are those of its outputs."""

    text: str
    model: onnx.ModelProto = field(repr=False)
    feeds: tuple[dict[str, np.ndarray[Any, Any]], ...] = field(repr=False)
    exact: bool
    bounds: dict[str, float]


@dataclass
class _Scope:
    """One graph: what stands in it so far, and all that may be read there, outer values too."""

    depth: int
    pool: list[Val]
    lines: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    own: list[Val] = field(default_factory=list)
    used: int = 0

    def fresh(self) -> str:
        """A name that sibling graphs have too: only an outer graph's may not come again."""
        self.used += 1
        return f"{'tbn'[self.depth]}{self.used}"

    def add(self, value: Val) -> Val:
        self.pool.append(value)
        self.own.append(value)
        return value


class _Writer:
    """Draws steps and writes them down."""

    def __init__(self, draw: st.DrawFn, exact: bool) -> None:
        self.draw = draw
        self.exact = exact
        self.large = 8.0 if exact else 1.0  # what factors are limited to

    def call(
        self, scope: _Scope, op: str, inputs: Sequence[Val], like: Val, attributes: str = ""
    ) -> Val:
        """Write one node whose result has the type, shape and bound of `like`."""
        made = Val(scope.fresh(), like.kind, like.shape, like.bound)
        read = ", ".join(value.name for value in inputs)
        scope.lines.append(f"{made.name} = {op} {f'<{attributes}> ' if attributes else ''}({read})")
        return scope.add(made)

    def weight(self, scope: _Scope, shape: tuple[int, ...], numbers: Sequence[float],
               kind: str = "float") -> Val:  # fmt: skip
        """An initialiser, or for floats a Constant node, filled with `numbers` over and over."""
        count = int(np.prod(shape, dtype=int))
        filled = np.resize(np.array(numbers), count)
        cast = float if kind == "float" else int
        data = ", ".join(str(cast(n)) for n in filled)
        value = Val(scope.fresh(), kind, shape, float(np.abs(filled).max(initial=0.0)))
        written = _type(kind, shape)
        if kind == "float" and self.draw(st.booleans()):
            scope.lines.append(f"{value.name} = Constant <value = {written} {{{data}}}> ()")
        else:
            scope.weights.append(f"{written} {value.name} = {{{data}}}")
        scope.pool.append(value)
        return value

    def pick(
        self, scope: _Scope, kind: str = "float", shape: tuple[int, ...] | None = SHAPE
    ) -> Val:
        """Any value of that kind; of any shape with None. Newer ones come first when shrinking."""
        fitting = [v for v in scope.pool if v.kind == kind and shape in (None, v.shape)]
        return self.draw(st.sampled_from(fitting[::-1]))

    def small(self, scope: _Scope, value: Val, most: float) -> Val:
        """`value`, clipped where its bound is over `most`."""
        if value.bound <= most:
            return value
        limits = [self.weight(scope, (), [n]) for n in (-most, most)]
        return self.call(scope, "Clip", [value, *limits], Val("", "float", value.shape, most))

    def numbers(self) -> list[float]:
        """What fills a weight: small integers, or thirds for a smooth model."""
        whole = self.draw(st.lists(st.integers(-2, 2), min_size=1, max_size=9))
        return [float(n) if self.exact else n / 6 for n in whole]

    def condition(self, scope: _Scope) -> Val:
        """A single bool: the model's input, or a comparison where that can't jump by rounding."""
        if not self.exact or self.draw(st.booleans()):
            return next(v for v in scope.pool if v.name == "flag")
        total = self.call(
            scope, "ReduceMax", [self.pick(scope)], Val("", "float", (), LARGEST), "keepdims = 0"
        )
        zero = self.weight(scope, (), [0.0])
        return self.call(scope, "Greater", [total, zero], Val("", "bool", ()))


Step = Callable[[_Writer, _Scope], None]


def _unary(w: _Writer, s: _Scope) -> None:
    x = w.pick(s, shape=None)
    ops = ["Relu", "Abs", "Neg", "Identity"] if w.exact else ["Relu", "Abs", "Neg", "Tanh"]
    w.call(s, w.draw(st.sampled_from(ops)), [x], x)


def _sum(w: _Writer, s: _Scope) -> None:
    a, b = (w.small(s, w.pick(s), LARGEST / 2) for _ in range(2))
    op = w.draw(st.sampled_from(["Add", "Sub", "Sum"] if w.exact else ["Add", "Sum"]))
    w.call(s, op, [a, b], Val("", "float", SHAPE, a.bound + b.bound))


def _product(w: _Writer, s: _Scope) -> None:
    a, b = (w.small(s, w.pick(s), w.large) for _ in range(2))
    w.call(s, "Mul", [a, b], Val("", "float", SHAPE, a.bound * b.bound))


def _extreme(w: _Writer, s: _Scope) -> None:
    a, b = w.pick(s), w.pick(s)
    like = Val("", "float", SHAPE, max(a.bound, b.bound))
    w.call(s, w.draw(st.sampled_from(["Max", "Min"])), [a, b], like)


def _matmul(w: _Writer, s: _Scope) -> None:
    shared = [v for v in s.pool if v.kind == "float" and v.shape == (3, 3)]
    new = not shared or w.draw(st.booleans())
    weight = w.weight(s, (3, 3), w.numbers()) if new else w.draw(st.sampled_from(shared))
    x = w.small(s, w.pick(s), 2 * w.large)
    like = Val("", "float", SHAPE, 3 * x.bound * weight.bound)
    if w.draw(st.booleans()):
        w.call(s, "MatMul", [x, weight], like)
    else:
        bias = w.weight(s, (3,), w.numbers())
        like = Val("", "float", SHAPE, like.bound + bias.bound)
        w.call(s, "Gemm", [x, weight, bias], like)


def _reduce(w: _Writer, s: _Scope) -> None:
    """A reduction, spread over the rows again."""
    x, y = w.small(s, w.pick(s), LARGEST / 8), w.small(s, w.pick(s), LARGEST / 2)
    axes = w.weight(s, (1,), [1], "int64")
    op = w.draw(st.sampled_from(["ReduceSum", "ReduceMax"] if w.exact else ["ReduceMean"]))
    bound = x.bound * (3 if op == "ReduceSum" else 1)
    r = w.call(s, op, [x, axes], Val("", "float", (2, 1), bound), "keepdims = 1")
    w.call(s, "Add", [r, y], Val("", "float", SHAPE, bound + y.bound))


def _concat_split(w: _Writer, s: _Scope) -> None:
    a, b = w.pick(s), w.pick(s)
    bound = max(a.bound, b.bound)
    both = w.call(s, "Concat", [a, b], Val("", "float", (4, 3), bound), "axis = 0")
    parts = [Val(s.fresh(), "float", SHAPE, bound) for _ in range(2)]
    names = ", ".join(p.name for p in parts)
    s.lines.append(f"{names} = Split <axis = 0, num_outputs = 2> ({both.name})")
    for part in parts:
        s.add(part)


def _move(w: _Writer, s: _Scope) -> None:
    """Transpose and back, or Reshape and back, or Gather of the rows in another order."""
    x = w.pick(s)
    turned = Val("", "float", (3, 2), x.bound)
    op = w.draw(st.sampled_from(["Transpose", "Reshape", "Gather"]))
    if op == "Transpose":
        w.call(s, op, [w.call(s, op, [x], turned)], x)
    elif op == "Reshape":
        there, back = (w.weight(s, (2,), shape, "int64") for shape in ((3, 2), SHAPE))
        w.call(s, op, [w.call(s, op, [x, there], turned), back], x)
    else:
        w.call(s, op, [x, w.weight(s, (2,), [1, 0], "int64")], x)


def _sequence(w: _Writer, s: _Scope) -> None:
    a, b = w.pick(s), w.pick(s)
    sequence, index = s.fresh(), w.weight(s, (), [1], "int64")
    s.lines.append(f"{sequence} = SequenceConstruct ({a.name}, {b.name})")
    w.call(s, "SequenceAt", [Val(sequence, "seq", ()), index], b)


def _detour(w: _Writer, s: _Scope) -> None:
    """By way of another type, with something computed there."""
    x = w.small(s, w.pick(s), LARGEST / 2)
    to, kind = w.draw(st.sampled_from([(11, "double"), (7, "int64"), (10, "float16")]))
    if kind == "int64" and not w.exact:
        return
    there = w.call(s, "Cast", [x], Val("", kind, SHAPE, x.bound), f"to = {to}")
    there = w.call(s, "Add", [there, there], Val("", kind, SHAPE, 2 * x.bound))
    w.call(s, "Cast", [there], Val("", "float", SHAPE, 2 * x.bound), "to = 1")


def _where(w: _Writer, s: _Scope) -> None:
    a, b, x, y = (w.pick(s) for _ in range(4))
    op = w.draw(st.sampled_from(["Greater", "Less", "Equal", "LessOrEqual"]))
    c = w.call(s, op, [a, b], Val("", "bool", SHAPE))
    w.call(s, "Where", [c, x, y], Val("", "float", SHAPE, max(x.bound, y.bound)))


def _size(w: _Writer, s: _Scope) -> None:
    """A number made from a shape: integers becoming floats."""
    x, y = w.pick(s, shape=None), w.small(s, w.pick(s), LARGEST / 2)
    size = w.call(s, "Size", [x], Val("", "int64", (), 12))
    number = w.call(s, "Cast", [size], Val("", "float", (), 12), "to = 1")
    w.call(s, "Add", [number, y], Val("", "float", SHAPE, 12 + y.bound))


def _curve(w: _Writer, s: _Scope) -> None:
    x = w.small(s, w.pick(s), 2.0)
    op, bound = w.draw(st.sampled_from(
        [("Softmax", 1.0), ("Exp", 7.4), ("Sigmoid", 1.0), ("Erf", 1.0), ("Softplus", 2.2)]
    ))  # fmt: skip
    w.call(s, op, [x], Val("", "float", SHAPE, bound))


def _ratio(w: _Writer, s: _Scope) -> None:
    """x / (1 + |y|), or x / sqrt(1 + |y|)."""
    x, y = w.pick(s), w.small(s, w.pick(s), 8.0)
    one = w.weight(s, (), [1.0])
    magnitude = w.call(s, "Abs", [y], y)
    under = w.call(s, "Add", [magnitude, one], Val("", "float", SHAPE, 1 + y.bound))
    if w.draw(st.booleans()):
        under = w.call(s, "Sqrt", [under], under)
    w.call(s, "Div", [x, under], x)


def _if(w: _Writer, s: _Scope) -> None:
    condition = w.condition(s)
    count = w.draw(st.integers(1, 2))
    bodies, bounds = [], [0.0] * count
    for name in ("then_branch", "else_branch"):
        inner = _Scope(s.depth + 1, list(s.pool))
        _steps(w, inner, w.draw(st.integers(1, 3)))
        results = _results(w, inner, count)
        bounds = [max(b, r.bound) for b, r in zip(bounds, results, strict=True)]
        bodies.append(f"{name} = {_graph(name, [], results, inner)}")
    made = [Val(s.fresh(), "float", SHAPE, b) for b in bounds]
    names = ", ".join(v.name for v in made)
    s.lines.append(f"{names} = If ({condition.name}) <{', '.join(bodies)}>")
    for value in made:
        s.add(value)


def _loop(w: _Writer, s: _Scope) -> None:
    """Two or three turns with one or two float states, and perhaps a result of every turn."""
    turns = w.draw(st.integers(2, 3))
    starts = [w.small(s, w.pick(s), w.large) for _ in range(w.draw(st.integers(1, 2)))]
    trips, going = w.weight(s, (), [turns], "int64"), w.weight(s, (), [1], "bool")
    inner = _Scope(s.depth + 1, list(s.pool))
    number, again = Val(inner.fresh(), "int64", ()), Val(inner.fresh(), "bool", ())
    states = [Val(inner.fresh(), "float", SHAPE, w.large) for _ in starts]
    inner.pool += states
    _steps(w, inner, w.draw(st.integers(1, 3)))
    kept = w.call(inner, "Identity", [again], again)
    after = [w.small(inner, w.pick(inner), w.large) for _ in starts]
    after = [w.call(inner, "Identity", [v], v) for v in after]
    each = []
    if w.draw(st.booleans()):
        seen = w.pick(inner)
        each.append(w.call(inner, "Identity", [seen], seen))
    body = _graph("body", [number, again, *states], [kept, *after, *each], inner)
    made = [Val(s.fresh(), "float", SHAPE, w.large) for _ in starts]
    stacked = [Val(s.fresh(), "float", (turns, *SHAPE), v.bound) for v in each]
    names = ", ".join(v.name for v in (*made, *stacked))
    read = ", ".join(v.name for v in (trips, going, *starts))
    s.lines.append(f"{names} = Loop ({read}) <body = {body}>")
    for value in made:
        s.add(value)
    for value in stacked:
        first = w.weight(s, (1,), [0], "int64")
        w.call(s, "ReduceMax", [value, first], Val("", "float", SHAPE, value.bound), "keepdims = 0")


EVERY: tuple[Step, ...] = (
    _unary, _sum, _product, _extreme, _matmul, _matmul, _reduce, _concat_split, _move, _sequence,
    _detour,
)  # fmt: skip
EXACT: tuple[Step, ...] = (*EVERY, _where, _size)
SMOOTH: tuple[Step, ...] = (*EVERY, _curve, _curve, _ratio)
CONTROL: tuple[Step, ...] = (_if, _loop)


def _steps(w: _Writer, s: _Scope, count: int) -> None:
    kinds = (EXACT if w.exact else SMOOTH) + (CONTROL if s.depth < 2 else ())
    for _ in range(count):
        w.draw(st.sampled_from(kinds))(w, s)


def _results(w: _Writer, s: _Scope, count: int) -> list[Val]:
    """Values that the graph itself makes, no two the same: ONNX Runtime gives noise for a body's
    result that comes twice.
    """
    found: list[Val] = []
    for _ in range(count):
        made = [v for v in s.own if v.kind == "float" and v.shape == SHAPE and v not in found]
        last = made[-1] if made and w.draw(st.booleans()) else None
        if last is None:
            x = w.pick(s)
            last = w.call(s, "Identity", [x], x)
        found.append(last)
    return found


def _graph(name: str, inputs: Sequence[Val], outputs: Sequence[Val], scope: _Scope) -> str:
    """The text of a graph."""
    given = ", ".join(v.declared() for v in inputs)
    made = ", ".join(v.declared() for v in outputs)
    weights = f" <{', '.join(scope.weights)}>" if scope.weights else ""
    lines = "\n".join(scope.lines)
    return f"{name} ({given}) => ({made}){weights} {{\n{lines}\n}}"


@st.composite
def samples(draw: st.DrawFn, exact: bool | None = None, steps: int = 8) -> Sample:
    """A model of up to `steps` steps; exact, smooth, or with None either of them."""
    chosen = draw(st.booleans()) if exact is None else exact
    w = _Writer(draw, chosen)
    inputs = [
        Val("x", "float", SHAPE, 4.0 if chosen else 1.0),
        Val("z", "float", SHAPE, 4.0 if chosen else 1.0),
        Val("flag", "bool", ()),
    ]
    scope = _Scope(0, list(inputs))
    _steps(w, scope, draw(st.integers(1, steps)))
    made = [v for v in scope.own if v.kind in NUMPY]
    more = draw(st.lists(st.sampled_from(made[::-1]), max_size=2)) if made else []
    outputs = list(dict.fromkeys([*_results(w, scope, 1), *more]))
    opset = draw(st.sampled_from([18, 20, 22]))
    graph = _graph("drawn", inputs, outputs, scope)
    text = f'<ir_version: 10, opset_import: ["" : {opset}]> {graph}'
    model = onnx.parser.parse_model(text)
    _name_nodes(model.graph, "")
    feeds = tuple(_feed(inputs, seed, chosen) for seed in range(2))
    return Sample(text, model, feeds, chosen, {v.name: v.bound for v in outputs})


def _feed(inputs: Sequence[Val], seed: int, exact: bool) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(seed)
    feed: dict[str, np.ndarray[Any, Any]] = {}
    for value in inputs:
        if value.kind == "bool":
            feed[value.name] = np.array(seed == 0)
        elif exact:
            feed[value.name] = random.integers(-4, 5, value.shape).astype(np.float32)
        else:
            feed[value.name] = random.uniform(-1, 1, value.shape).astype(np.float32)
    return feed


def _name_nodes(graph: onnx.GraphProto, scope: str) -> None:
    """Give every node a name that tells its place, so that rules can name it."""
    for i, node in enumerate(graph.node):
        node.name = f"{scope}{node.op_type}{i}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _name_nodes(attribute.g, f"{node.name}.{attribute.name}/")
