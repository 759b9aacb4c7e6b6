"""What is known of one value: interval x L2 ball, as a reduced product of facts.

- `lo` and `hi`: bounds of every element, as float64 arrays that broadcast to the value's shape. A
  size of 1 stands for "alike along this axis"; dynamic dimensions always have 1.
- `ball`: the L2 norm of every vector along one axis stays within a radius.
- `mass`: the same for the L1 norm. Softmax makes it: weights that add up to one.
- `image`: the vectors along the last axis are c + G z + e with ||z|| <= r and ||e|| <= fuzz: what a
  norm layer makes of any input, and what the linear layer behind it makes of that.
- `hidden`: some elements may be "minus infinity", put there by a mask; `lo` and `hi` speak of the
  others. The number is how low a finite stand-in of minus infinity can lie in the low type.

No bound is ever NaN. A missing bound is an infinity, which says "unknown" and not "infinite".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ampconvert.graph import Dim
from ampconvert.ranges.rounding import rounding_errors, sqrt_up

Array = npt.NDArray[np.float64]
Dims = tuple[Dim, ...] | None
MOST_ELEMENTS = 2**18  # of a bound: longer ones are given for several elements together
_LONGEST_WAIT = 60
LONGEST = 2**20  # what a dynamic dimension is taken to be at most, where a bound depends on it


@dataclass(frozen=True)
class Norm:
    """A bound on the norm of every vector along `axis`, counted from the end (-1 is the last).

    The radius has size 1 along that axis; it is computed when it is first asked for, because
    spectral norms are what a proof spends its time on.
    """

    axis: int
    compute: Callable[[], Array]
    depth: int = 0  # of norms that wait for others; a long chain of them is computed at once

    @cached_property
    def radius(self) -> Array:
        """The bounds, broadcastable to the value's shape."""
        found = np.asarray(self.compute(), dtype=np.float64)
        return np.where(np.isnan(found), np.inf, found)

    def scaled(self, factor: float | Array, plus: float | Array = 0.0) -> Norm:
        """The norm times `factor`, plus something."""
        return waiting(self.axis, lambda: _times(self.radius, factor) + plus, [self])

    def moved(self, axis: int) -> Norm:
        """The same bound for everything together, along another axis."""
        return Norm(axis, lambda: np.asarray(self.radius.max(initial=0.0)))


def waiting(axis: int, compute: Callable[[], Array], others: Sequence[Norm | None]) -> Norm:
    """A Norm that is computed from `others` when it is asked for, or now if they wait in a row."""
    made = Norm(axis, compute, 1 + max((n.depth for n in others if n is not None), default=0))
    if made.depth > _LONGEST_WAIT:
        radius = made.radius
        return Norm(axis, lambda: radius)
    return made


@dataclass(frozen=True)
class Image:
    """An affine image of a ball: x = center + G z + e, ||z|| <= radius, ||e|| <= fuzz.

    `rows` gives G (one row per element of x), `times` gives W G for a matrix W.
    """

    center: Array
    rows: Callable[[], Array]
    times: Callable[[Array], Array]
    radius: float
    fuzz: float = 0.0

    def affine(self, scale: Array | float, shift: Array | float, fuzz: float) -> Image:
        """scale * x + shift, element by element, with `fuzz` on top."""
        if isinstance(scale, float) and scale == 1.0:
            return replace(self, center=self.center + shift, fuzz=self.fuzz + fuzz)
        scales = np.broadcast_to(np.asarray(scale, dtype=np.float64), self.center.shape)
        largest = float(np.abs(scales).max(initial=0.0))
        return Image(
            self.center * scales + shift,
            lambda: scales[:, None] * self.rows(),
            lambda matrix: self.times(matrix * scales),
            self.radius,
            self.fuzz * largest + fuzz,
        )

    def taken(self, index: slice | Array) -> Image:
        """Only the elements at `index`."""
        return Image(
            self.center[index], lambda: self.rows()[index],
            lambda matrix: matrix @ self.rows()[index], self.radius, self.fuzz,
        )  # fmt: skip


@dataclass(frozen=True)
class Abstract:
    """All facts about one value; see the module's text.

    `data` loads the elements of a weight, in the value's shape. `whole` says that they are
    integers, whatever type they are held in.
    """

    dims: Dims
    lo: Array
    hi: Array
    ball: Norm | None = None
    mass: Norm | None = None
    image: Image | None = None
    data: Callable[[], npt.NDArray[Any]] | None = None
    hidden: float | None = None
    whole: bool = False

    @property
    def magnitude(self) -> Array:
        """The largest magnitude of every element."""
        return np.maximum(np.abs(self.lo), np.abs(self.hi))

    @property
    def worst(self) -> tuple[float, float]:
        """The bounds of all elements together."""
        return float(self.lo.min()), float(self.hi.max())

    @property
    def largest(self) -> float:
        """The largest magnitude of all elements; inf when unknown."""
        lo, hi = self.worst
        return max(-lo, hi, 0.0)

    def shown(self) -> Abstract:
        """For a reader that knows nothing of masks: hidden elements have no lower bound."""
        if self.hidden is None:
            return self
        return Abstract(self.dims, np.full_like(self.lo, -np.inf), self.hi, whole=self.whole)

    def bare(self) -> Abstract:
        """The interval and what else is true of any rearrangement of the elements."""
        return Abstract(self.dims, self.lo, self.hi, hidden=self.hidden, whole=self.whole)


def build(dims: Dims, lo: Any, hi: Any, **facts: Any) -> Abstract:
    """An Abstract whose bounds fit `dims`; NaN becomes unknown."""
    low = conform(np.asarray(lo, dtype=np.float64), dims, np.min, -np.inf)
    high = conform(np.asarray(hi, dtype=np.float64), dims, np.max, np.inf)
    return Abstract(dims, low, high, **facts)


def top(dims: Dims) -> Abstract:
    """A value of which nothing is known."""
    return build(dims, -np.inf, np.inf)


def conform(array: Array, dims: Dims, reduce: Any, unknown: float) -> Array:
    """`array` with one axis per dimension of `dims`, never longer than those, and not too large."""
    array = np.where(np.isnan(array), unknown, array)
    if array.size == 0:
        array = np.zeros(())
    if dims is None:
        return np.asarray(reduce(array))
    if array.ndim > len(dims):
        array = reduce(array, axis=tuple(range(array.ndim - len(dims))))
    array = array.reshape((1,) * (len(dims) - array.ndim) + array.shape)
    wrong = tuple(i for i, d in enumerate(dims) if array.shape[i] > 1 and array.shape[i] != d)
    if wrong:
        array = reduce(array, axis=wrong, keepdims=True)
    for axis in range(array.ndim):
        if array.size > MOST_ELEMENTS:
            array = reduce(array, axis=axis, keepdims=True)
    return array


def size_of(dim: Dim) -> int:
    """A dimension's size; LONGEST for a dynamic one."""
    return dim if isinstance(dim, int) else LONGEST


def count(dims: Dims, axes: Iterable[int] | None) -> float:
    """Elements along `axes`, all of them with None; inf where the rank is unknown."""
    if dims is None:
        return math.inf
    chosen = range(len(dims)) if axes is None else axes
    return float(math.prod(size_of(dims[a]) for a in chosen))


def same_dim(a: Dim, b: Dim) -> bool:
    """Whether two dimensions are known to be equal; "?" is no name."""
    return a == b and (isinstance(a, int) or a not in ("", "?"))


def hull(dims: Dims, parts: Sequence[Abstract]) -> Abstract:
    """Every value that one of `parts` may have; arrays broadcast."""
    lo, hi = parts[0].lo, parts[0].hi
    for part in parts[1:]:
        lo, hi = np.minimum(lo, part.lo), np.maximum(hi, part.hi)
    return build(dims, lo, hi, hidden=hidden_of(parts), whole=all(p.whole for p in parts))


def hidden_of(parts: Iterable[Abstract]) -> float | None:
    """How low hidden elements lie where elements come from any of `parts`."""
    floors = [p.hidden for p in parts if p.hidden is not None]
    return min(floors) if floors else None


def collapse(a: Abstract, axes: Iterable[int], dims: Dims) -> Abstract:
    """`a` with one bound for all elements along `axes`, in a value of `dims` and the same rank."""
    if a.dims is None or dims is None or len(dims) != len(a.dims):
        return build(dims, *a.worst, hidden=a.hidden, whole=a.whole)
    along = tuple(axes)
    lo = a.lo.min(axis=along, keepdims=True) if along else a.lo
    hi = a.hi.max(axis=along, keepdims=True) if along else a.hi
    return build(dims, lo, hi, hidden=a.hidden, whole=a.whole)


def radius_along(a: Abstract, axis: int, size: Dim) -> Array:
    """A bound on the L2 norm along `axis` (from the end) of `a`, broadcast to `size` there."""
    magnitude = a.magnitude
    here: Dim = 1
    if a.dims is not None and len(a.dims) >= -axis:
        here = a.dims[axis]
    if magnitude.ndim >= -axis and magnitude.shape[axis] > 1:
        found = sqrt_up(np.square(magnitude).sum(axis=axis, keepdims=True))
    else:
        found = magnitude * math.sqrt(size_of(size)) * (1 + 1e-15)
    if a.ball is not None and a.ball.axis == axis and same_dim(here, size):
        found = np.minimum(found, a.ball.radius)
    if a.mass is not None and a.mass.axis == axis and same_dim(here, size):
        found = np.minimum(found, a.mass.radius)
    return found


def within(a: Abstract, lo: Any, hi: Any) -> Abstract:
    """`a` under the further bounds `lo` and `hi`; kept as it is where they would leave nothing."""
    low = np.maximum(a.lo, np.asarray(lo, dtype=np.float64))
    high = np.minimum(a.hi, np.asarray(hi, dtype=np.float64))
    empty = low > high
    if empty.any():
        low, high = np.where(empty, a.lo, low), np.where(empty, a.hi, high)
    fitted = build(a.dims, low, high)
    return replace(a, lo=fitted.lo, hi=fitted.hi)


def matrix_of(a: Abstract, low: Any) -> tuple[Array, Array]:
    """The elements of `a` at full length as centers and radii: a weight may be rounded or not."""
    if a.data is not None:
        data = np.asarray(a.data(), dtype=np.float64)
        if float(np.abs(data).max(initial=0.0)) < low.overflow:
            return data, rounding_errors(data, low)
        return data, np.zeros(())
    with np.errstate(invalid="ignore"):
        return (a.lo + a.hi) / 2, (a.hi - a.lo) / 2


def _times(a: Array, b: float | Array) -> Array:
    """a * b with 0 * inf = 0: a factor of zero leaves nothing of a finite number."""
    with np.errstate(invalid="ignore"):
        product = a * b
    return np.where(np.isnan(product), 0.0, product)
