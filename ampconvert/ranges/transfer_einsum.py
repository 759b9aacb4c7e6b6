"""Transfer function of einsum: as a matrix product where it is one, else by counting its terms."""

from __future__ import annotations

import math

import numpy as np

from ampconvert.functions import Call
from ampconvert.graph import Dim
from ampconvert.ranges.domain import Abstract, Dims, build, radius_along, size_of
from ampconvert.ranges.reshapes import reshape
from ampconvert.ranges.rounding import OUTWARD, PRODUCT, gamma
from ampconvert.ranges.transfer import Results, State, result_dims, transfer
from ampconvert.ranges.transfer_arithmetic import mul
from ampconvert.ranges.transfer_moves import permute
from ampconvert.ranges.transfer_products import product


@transfer("einsum")
def _einsum(state: State, call: Call) -> Results:
    """Letters without an ellipsis; every letter once in each operand."""
    equation = call.attr("equation")
    dims = result_dims(call)
    parts = [state.of(o).shown() for o in call.operands if isinstance(o, str)]
    if not isinstance(equation, str) or "." in equation or not parts:
        return None
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or len(terms) != len(parts) or any(len(set(t)) < len(t) for t in terms):
        return None
    if any(p.dims is None or len(p.dims) != len(t) for p, t in zip(parts, terms, strict=True)):
        return None
    if len(parts) == 2:
        found = _as_product(parts, terms, right, dims, state)
        if found is not None:
            return found
    return _by_counting(parts, terms, right, dims)


def _as_product(
    parts: list[Abstract], terms: list[str], right: str, dims: Dims, state: State
) -> Abstract | None:
    """Batch letters, one letter of rows, one of columns and one that is summed over."""
    a, b = terms
    batch = [c for c in a if c in b and c in right]
    rows = [c for c in a if c not in b]
    columns = [c for c in b if c not in a]
    summed = [c for c in a if c in b and c not in right]
    single = len(rows) <= 1 and len(columns) <= 1 and len(summed) == 1
    if not single or any(c not in right for c in rows + columns) or dims is None:
        return None
    sizes = _sizes(parts, terms)
    x = _arranged(parts[0], a, [batch, rows, summed], sizes)
    y = _arranged(parts[1], b, [batch, summed, columns], sizes)
    made_letters = [*batch, *(rows or ["1"]), *(columns or ["2"])]
    full = tuple(sizes.get(c, 1) for c in made_letters)
    made = product(x, y, full, state.low)
    if made is None:
        return None
    kept = [c for c in made_letters if c in sizes]
    made = reshape(made, tuple(sizes[c] for c in kept))
    return permute(made, [kept.index(c) for c in right], dims)


def _arranged(x: Abstract, term: str, groups: list[list[str]], sizes: dict[str, Dim]) -> Abstract:
    """`x` as matrices: batch letters, then two groups of one letter or none."""
    letters = [c for group in groups for c in group]
    turned = permute(x, [term.index(c) for c in letters], tuple(sizes[c] for c in letters))
    dims: list[Dim] = [sizes[c] for c in groups[0]]
    for group in groups[1:]:
        dims += [sizes[c] for c in group] or [1]
    return reshape(turned, tuple(dims))


def _sizes(parts: list[Abstract], terms: list[str]) -> dict[str, Dim]:
    """The dimension of each letter."""
    sizes: dict[str, Dim] = {}
    for part, term in zip(parts, terms, strict=True):
        for letter, dim in zip(term, part.dims or (), strict=True):
            if letter not in sizes or isinstance(dim, int):
                sizes[letter] = dim
    return sizes


def _by_counting(
    parts: list[Abstract], terms: list[str], right: str, dims: Dims
) -> Abstract | None:
    """|result| <= the number of terms times the largest product, or two lengths where those fit."""
    sizes = _sizes(parts, terms)
    summed = [c for c in sizes if c not in right]
    number = math.prod(size_of(sizes[c]) for c in summed)
    largest = float(np.prod([p.largest for p in parts])) * number
    if len(parts) == 2 and len(summed) == 1 and all(summed[0] in t for t in terms):
        lengths = [float(radius_along(p, t.index(summed[0]) - len(t), sizes[summed[0]]).max())
                   for p, t in zip(parts, terms, strict=True)]  # fmt: skip
        largest = min(largest, math.prod(lengths))
    if not math.isfinite(largest):
        return None
    largest *= 1 + len(parts) * PRODUCT + gamma(number) + OUTWARD
    lo = 0.0 if all(p.worst[0] >= 0 for p in parts) else -largest
    return build(dims, lo, largest)


@transfer("outer")
def _outer(state: State, call: Call) -> Results:
    a, b = state.plain(call, 0), state.plain(call, 1)
    dims = result_dims(call)
    if a is None or b is None or a.dims is None or b.dims is None or len(a.dims) != 1:
        return None
    return mul(reshape(a, (a.dims[0], 1)), reshape(b, (1, b.dims[0])), dims)
