"""The words of a rule's `when`: a closed set, each a small question about one node in its graph.

A word is a function `(argument, node, graph, low) -> bool`; its docstring is its documentation. All
words of a rule must hold. What cannot be known is answered in the cautious direction, which each
docstring states. To add a word, write one decorated function here and a row in its table test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.graph import Dim, Graph, Node, Value

Question = Callable[[Any, Node, Graph, Low], bool]


@dataclass(frozen=True)
class Condition:
    """One word: its question and the check of its argument ("" or what the argument must be)."""

    word: str
    holds: Question
    complaint: Callable[[Any], str]

    @property
    def doc(self) -> str:
        """What the word asks, for `ampconvert rule` and the documentation."""
        return " ".join((self.holds.__doc__ or "").split())


CONDITIONS: dict[str, Condition] = {}


def condition(complaint: Callable[[Any], str]) -> Callable[[Question], Question]:
    """Register a word under its function's name; `complaint` says what an argument must be."""

    def register(question: Question) -> Question:
        CONDITIONS[question.__name__] = Condition(question.__name__, question, complaint)
        return question

    return register


def positive_integer(argument: Any) -> str:
    """The argument of words that count."""
    good = isinstance(argument, int) and not isinstance(argument, bool) and argument > 0
    return "" if good else "a positive whole number"


def number(argument: Any) -> str:
    """The argument of words that compare."""
    good = isinstance(argument, int | float) and not isinstance(argument, bool)
    return "" if good else "a number"


def flag(argument: Any) -> str:
    """The argument of words that ask yes or no."""
    return "" if isinstance(argument, bool) else "true or false"


def table(argument: Any) -> str:
    """The argument of `attr`."""
    good = isinstance(argument, dict) and bool(argument)
    return "" if good else "a table, such as { training = true }"


def names(argument: Any) -> str:
    """The argument of words that look for operators."""
    good = isinstance(argument, list) and argument and all(isinstance(a, str) for a in argument)
    return "" if good else 'a list of names, such as ["mean", "ReduceMean"]'


def one_of(*choices: str) -> Callable[[Any], str]:
    """An argument that is one of `choices`, or a list of them."""

    def complaint(argument: Any) -> str:
        given = argument if isinstance(argument, list) else [argument]
        return "" if given and all(a in choices for a in given) else "one of " + ", ".join(choices)

    return complaint


KINDS = ("float", "integer", "bool", "complex", "other")


@condition(table)
def attr(wanted: dict[str, Any], node: Node, graph: Graph, low: Low) -> bool:
    """Every named argument has the given value, or one of a list of values.

    An argument that is left out has the value of "" in this comparison.
    """
    return all(_among(node.attrs.get(key), value) for key, value in wanted.items())


@condition(positive_integer)
def reduces_more_than(limit: int, node: Node, graph: Graph, low: Low) -> bool:
    """Each result element is made of more than so many input elements.

    Pooling windows count by kernel size. A size that is dynamic or unknown counts as more.
    """
    kernel = node.attrs.get("kernel_size") or node.attrs.get("kernel_shape")
    if isinstance(kernel, list | tuple) and all(isinstance(k, int) for k in kernel):
        # ATen writes a square window as one number; the data has that many spatial dimensions.
        sides = list(kernel) if len(kernel) > 1 else list(kernel) * _spatial_rank(node)
        return bool(math.prod(sides) > limit)
    count = _elements_per_result(node, graph)
    return count is None or count > limit


@condition(one_of("tiny", "smallest"))
def eps_below(threshold: str, node: Node, graph: Graph, low: Low) -> bool:
    """A constant operand is nonzero and below `low`'s smallest normal ("tiny") or subnormal number.

    Scalar arguments and one-element weights count. An exact power of two that is subnormal in `low`
    is still below "tiny".
    """
    limit = float(getattr(FLOAT_TYPES[low], threshold))
    return any(0 < abs(scalar) < limit for scalar in _scalars(node, graph))


@condition(flag)
def scalar_beyond_range(wanted: bool, node: Node, graph: Graph, low: Low) -> bool:
    """A constant operand is finite and rounds to infinity in `low`.

    Scalar arguments and one-element weights count.
    """
    limit = FLOAT_TYPES[low].overflow
    found = any(math.isfinite(s) and abs(s) >= limit for s in _scalars(node, graph))
    return found is wanted


@condition(one_of(*KINDS))
def reads(kinds: str | list[str], node: Node, graph: Graph, low: Low) -> bool:
    """There are tensor operands and each is of the given kind: float, integer, bool, complex."""
    values = [v for v in graph.input_values(node) if v is not None]
    return bool(values) and all(_among(_kind(v), kinds) for v in values)


@condition(one_of(*KINDS))
def makes(kinds: str | list[str], node: Node, graph: Graph, low: Low) -> bool:
    """The first result is of the given kind: float, integer, bool, complex."""
    return bool(node.outputs) and _among(_kind(graph.values[node.outputs[0]]), kinds)


@condition(flag)
def from_integer(wanted: bool, node: Node, graph: Graph, low: Low) -> bool:
    """A float result is made of integer operands alone, so it may need more digits than `low` has.

    Booleans do not count: 0 and 1 are exact in every type.
    """
    values = [v for v in graph.input_values(node) if v is not None]
    whole = bool(values) and all(_kind(v) in ("integer", "bool") for v in values)
    found = (
        whole and any(_kind(v) == "integer" for v in values) and makes("float", node, graph, low)
    )
    return found is wanted


@condition(number)
def exponent_above(limit: float, node: Node, graph: Graph, low: Low) -> bool:
    """The magnitude of a power's exponent is above the limit; one that is computed counts as above.

    The exponent is the argument or operand `exponent`, ONNX's operand Y.
    """
    exponent = _exponent(node, graph)
    return exponent is None or abs(exponent) > limit


@condition(flag)
def exponent_negative(wanted: bool, node: Node, graph: Graph, low: Low) -> bool:
    """A power's exponent is below zero, as a reciprocal's is; a computed one counts as below."""
    exponent = _exponent(node, graph)
    return (exponent is None or exponent < 0) is wanted


@condition(names)
def read_by(ops: list[str], node: Node, graph: Graph, low: Low) -> bool:
    """Some reader of a result is one of the named operators ("mean", "ReduceMean")."""
    return any(
        reader.op.rpartition("::")[2] in ops
        for result in node.outputs
        for reader, _ in graph.readers[result]
    )


@condition(names)
def made_by(ops: list[str], node: Node, graph: Graph, low: Low) -> bool:
    """Some operand is made by one of the named operators ("pow", "Mul")."""
    makers = (graph.producers.get(name) for name in node.inputs if name is not None)
    return any(maker is not None and maker.op.rpartition("::")[2] in ops for maker in makers)


@condition(flag)
def squares(wanted: bool, node: Node, graph: Graph, low: Low) -> bool:
    """Both operands are the same value, as in x * x."""
    return (len(node.inputs) >= 2 and node.inputs[0] == node.inputs[1]) is wanted


@condition(flag)
def reads_square(wanted: bool, node: Node, graph: Graph, low: Low) -> bool:
    """Some operand is a square: a power with exponent 2, or a product of a value with itself.

    Any operator with two operands that are one value counts as a product.
    """
    makers = [graph.producers.get(name) for name in node.inputs if name is not None]
    return any(m is not None and _is_square(m, graph) for m in makers) is wanted


@condition(flag)
def factor_from_integers(wanted: bool, node: Node, graph: Graph, low: Low) -> bool:
    """Some operand is computed from integers and booleans alone, as an attention mask's 0/1 is.

    One-element weights may take part. A chain of more than 16 operators counts as no.
    """
    inputs = [name for name in node.inputs if name is not None]
    return any(_from_integers(name, graph, 16) for name in inputs) is wanted


def _among(found: Any, wanted: Any) -> bool:
    """Equality, or membership of a list; a left-out argument compares as ""."""
    value = "" if found is None else found
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(wanted, list) and not isinstance(value, list):
        return any(_among(found, choice) for choice in wanted)
    if isinstance(wanted, bool):
        # ONNX has no booleans: its flags are the integers 0 and 1, and off when left out.
        return bool(value) is wanted
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return bool(value == wanted)


def _kind(value: Value) -> str:
    name = value.dtype
    if name.startswith(("float", "bfloat")):
        return "float"
    if name.startswith(("int", "uint")):
        return "integer"
    return "bool" if name == "bool" else "complex" if name.startswith("complex") else "other"


def _spatial_rank(node: Node) -> int:
    """How many spatial dimensions a pooling operator has, from its name: avg_pool2d has two."""
    digits = [c for c in node.op if c in "123"]
    return int(digits[-1]) if digits and not node.op.startswith("onnx::") else 1


def _elements_per_result(node: Node, graph: Graph) -> float | None:
    """Input elements per result element; None when a reduced dimension has no fixed size."""
    data = next((v for v in graph.input_values(node) if v is not None), None)
    if data is None or not node.outputs:
        return None
    result = graph.values[node.outputs[0]]
    if data.shape is None or result.shape is None:
        return None
    kept = Counter(d for d in result.shape if isinstance(d, str))
    given = Counter(d for d in data.shape if isinstance(d, str))
    if given - kept:  # a dynamic dimension went into the sum
        return None
    return _fixed(data.shape) / max(1, _fixed(result.shape))


def _fixed(shape: tuple[Dim, ...]) -> int:
    return math.prod(d for d in shape if isinstance(d, int))


def _scalars(node: Node, graph: Graph) -> Iterator[float]:
    """Float arguments and one-element float weights; integers stand for sizes and axes."""
    for value in node.attrs.values():
        if isinstance(value, float):
            yield value
    for operand in graph.input_values(node):
        if operand is not None and _kind(operand) == "float":
            content = _content(operand)
            if content is not None:
                yield content


def _content(value: Value) -> float | None:
    """The number in a one-element weight, else None."""
    if value.const is None or _kind(value) not in ("float", "integer") or value.numel != 1:
        return None
    return float(value.const().reshape(()).astype("float64"))


def _exponent(node: Node, graph: Graph) -> float | None:
    """The fixed exponent of a power, None when it is computed or the node is no power.

    ATen calls it `exponent`; ONNX calls a power's operands X and Y, as no other float operator's.
    """
    given = node.attrs.get("exponent")
    if isinstance(given, int | float):
        return float(given)
    places = node.operand("exponent") or node.operand("Y")
    name = node.inputs[places[0]] if places else None
    return None if name is None else _content(graph.values[name])


def _is_square(maker: Node, graph: Graph) -> bool:
    doubled = len(maker.inputs) == 2 and maker.inputs[0] == maker.inputs[1]
    return doubled or _exponent(maker, graph) == 2


def _from_integers(name: str, graph: Graph, steps: int) -> bool:
    value = graph.values[name]
    if _kind(value) in ("integer", "bool"):
        return True
    maker = graph.producers.get(name)
    if maker is None or steps == 0:
        return False
    sources = [v for v in graph.input_values(maker) if v is not None and _content(v) is None]
    return bool(sources) and all(_from_integers(v.name, graph, steps - 1) for v in sources)
