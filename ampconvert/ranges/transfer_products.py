"""Transfer functions of matrix products: intervals, balls, weights that add up to one, images."""

from __future__ import annotations

from typing import Any

import numpy as np

from ampconvert.dtypes import FloatType
from ampconvert.functions import Call
from ampconvert.ranges.domain import (
    Abstract,
    Array,
    Dims,
    Image,
    Norm,
    build,
    matrix_of,
    radius_along,
    size_of,
)
from ampconvert.ranges.rounding import (
    OUTWARD,
    PRODUCT,
    frobenius,
    gamma,
    outward,
    row_norms,
    spectral,
    sqrt_up,
    times,
)
from ampconvert.ranges.transfer import Results, State, result_dims, transfer
from ampconvert.ranges.transfer_arithmetic import add, scale
from ampconvert.ranges.transfer_moves import permute


@transfer("matmul")
def _matmul(state: State, call: Call) -> Results:
    a, b = state.plain(call, 0), state.plain(call, 1)
    return None if a is None or b is None else product(a, b, result_dims(call), state.low)


@transfer("linear")
def _linear(state: State, call: Call) -> Results:
    x, weight, bias = state.plain(call, 0), state.plain(call, 1), state.plain(call, 2)
    if x is None or weight is None or weight.dims is None or len(weight.dims) != 2:
        return None
    dims = result_dims(call)
    made = product(x, _turned(weight), dims, state.low)
    return made if made is None or bias is None else add(made, bias, dims)


@transfer("addmm")
def _addmm(state: State, call: Call) -> Results:
    """beta * self + alpha * (mat1 @ mat2)."""
    bias, a, b = (state.plain(call, i) for i in range(3))
    alpha, beta = call.attr("alpha", default=1), call.attr("beta", default=1)
    numbers = isinstance(alpha, int | float) and isinstance(beta, int | float)
    if bias is None or a is None or b is None or not numbers:
        return None
    dims = result_dims(call)
    made = product(a, b, dims, state.low)
    if made is None:
        return None
    return add(scale(made, float(alpha)), scale(bias, float(beta)), dims)


@transfer("gemm")
def _gemm(state: State, call: Call) -> Results:
    """alpha * A' B' + beta * C of ONNX, with transposed operands where the attributes say so."""
    a, b, c = (state.plain(call, i) for i in range(3))
    if a is None or b is None or a.dims is None or b.dims is None:
        return None
    if len(a.dims) != 2 or len(b.dims) != 2:
        return None
    a = _turned(a) if call.attr("transA", default=0) else a
    b = _turned(b) if call.attr("transB", default=0) else b
    dims = result_dims(call)
    made = product(a, b, dims, state.low)
    if made is None:
        return None
    made = scale(made, float(call.attr("alpha", default=1.0)))
    return made if c is None else add(made, scale(c, float(call.attr("beta", default=1.0))), dims)


def _turned(x: Abstract) -> Abstract:
    assert x.dims is not None
    return permute(x, [1, 0], x.dims[::-1])


def product(a: Abstract, b: Abstract, dims: Dims, low: FloatType) -> Abstract | None:
    """Bounds of a @ b: the tightest of what the facts about either operand give.

    Sums are taken to be float32 in any order, with operands that a device may read as TF32.
    """
    if a.dims is None or b.dims is None or not a.dims or not b.dims:
        return None
    left = (1, *a.dims) if len(a.dims) == 1 else a.dims
    right = (*b.dims, 1) if len(b.dims) == 1 else b.dims
    flat = (len(a.dims) == 1, len(b.dims) == 1)
    terms = left[-1] if isinstance(left[-1], int) else right[-2]
    error = PRODUCT + gamma(size_of(terms))
    factors = _Factors(a, b, terms, flat, low)
    bounds = [factors.interval(error), factors.cauchy_schwarz(error), factors.convex(error)]
    image, found = factors.image(error)
    if found is not None:
        bounds.append(found)
    lo = _join(np.maximum, [lo for lo, _ in bounds])
    hi = _join(np.minimum, [hi for _, hi in bounds])
    if flat[0]:
        lo, hi = np.squeeze(lo, -2), np.squeeze(hi, -2)
    if flat[1]:
        lo, hi = np.squeeze(lo, -1), np.squeeze(hi, -1)
    ball = None if flat[1] else factors.ball(error, image)
    return build(dims, *outward(lo, hi, OUTWARD), ball=ball, image=image)


def _join(ufunc: Any, arrays: list[Array]) -> Array:
    found = arrays[0]
    for array in arrays[1:]:
        found = ufunc(found, array)
    return np.asarray(found)


class _Factors:
    """Both operands of one product, as centers and radii of their elements."""

    def __init__(
        self, a: Abstract, b: Abstract, terms: Any, flat: tuple[bool, bool], low: FloatType
    ) -> None:
        self.a, self.b, self.terms, self.flat = a, b, terms, flat
        self.center_a, self.radius_a = matrix_of(a, low)
        self.center_b, self.radius_b = matrix_of(b, low)
        if flat[1]:
            self.center_b, self.radius_b = (
                x[..., None] if x.ndim else x for x in (self.center_b, self.radius_b)
            )
        self.magnitude_a = _magnitude(a, self.center_a, self.radius_a)
        magnitude_b = _magnitude(b, self.center_b, self.radius_b)
        self.magnitude_b = magnitude_b

    def interval(self, error: float) -> tuple[Array, Array]:
        """From the intervals of the elements alone."""
        a, b = self.magnitude_a, self.magnitude_b
        if not np.isfinite(a).all() or not np.isfinite(b).all():
            return np.full((1, 1), -np.inf), np.full((1, 1), np.inf)
        center = self._dot(self.center_a, self.center_b)
        total = self._dot(a, b)
        spread = total - self._dot(np.abs(self.center_a), np.abs(self.center_b))
        radius = np.maximum(spread, 0.0) + total * (error + OUTWARD)
        return center - radius, center + radius

    def _dot(self, x: Array, y: Array) -> Array:
        """x @ y where a size of 1 along the common axis stands for `terms` equal elements."""
        x = x.reshape((1,) * (2 - x.ndim) + x.shape) if x.ndim < 2 else x
        y = y.reshape((1,) * (2 - y.ndim) + y.shape) if y.ndim < 2 else y
        if x.shape[-1] == y.shape[-2] == 1:
            return np.asarray(np.matmul(x, y) * float(size_of(self.terms)))
        if x.shape[-1] == 1:
            return np.asarray(x * y.sum(axis=-2, keepdims=True))
        if y.shape[-2] == 1:
            return np.asarray(x.sum(axis=-1, keepdims=True) * y)
        return np.asarray(np.matmul(x, y))

    def cauchy_schwarz(self, error: float) -> tuple[Array, Array]:
        """|x . y| <= ||x|| ||y||."""
        radius = times(self.norm_a, self.norm_b) * (1 + error)
        return -radius, radius

    @property
    def norm_a(self) -> Array:
        """The L2 norm of the rows of `a`."""
        found = radius_along(self.a, -1, self.terms)
        if self.a.data is not None:
            found = np.minimum(found, row_norms(self.magnitude_a)[..., None])
        return found.reshape((1,) * (2 - found.ndim) + found.shape) if found.ndim < 2 else found

    @property
    def norm_b(self) -> Array:
        """The L2 norm of the columns of `b`."""
        if self.b.data is not None and self.magnitude_b.ndim >= 2:
            return sqrt_up(np.square(self.magnitude_b).sum(axis=-2, keepdims=True))
        if self.flat[1]:
            return radius_along(self.b, -1, self.terms)[..., None]
        found = radius_along(self.b, -2, self.terms)
        return found.reshape((1,) * (2 - found.ndim) + found.shape) if found.ndim < 2 else found

    def convex(self, error: float) -> tuple[Array, Array]:
        """Rows of `a` whose magnitudes add up to a known sum: a mean of what `b` holds."""
        mass = self.a.mass
        if mass is None or mass.axis != -1 or self.flat[0]:
            return np.full((1, 1), -np.inf), np.full((1, 1), np.inf)
        radius = mass.radius * (1 + error)
        radius = radius.reshape((1,) * (2 - radius.ndim) + radius.shape)
        low_b, high_b = self.center_b - self.radius_b, self.center_b + self.radius_b
        if low_b.ndim >= 2:
            low_b, high_b = low_b.min(axis=-2, keepdims=True), high_b.max(axis=-2, keepdims=True)
        if self.b.data is None:
            low_b, high_b = self._ends()
        if float(self.a.lo.min()) < 0:
            high_b = np.maximum(np.abs(low_b), np.abs(high_b))
            low_b = -high_b
        # Rounding in the sum is a share of the magnitudes, so it may cross zero.
        slack = times(radius * error, np.maximum(np.abs(low_b), np.abs(high_b)))
        return (
            times(radius, np.minimum(low_b, 0.0)) - slack,
            times(radius, np.maximum(high_b, 0.0)) + slack,
        )

    def _ends(self) -> tuple[Array, Array]:
        """The bounds of `b` over the common axis; infinities have no center to be made from."""
        lo, hi = self.b.lo, self.b.hi
        if self.flat[1]:
            return np.asarray(lo.min()), np.asarray(hi.max())
        return lo.min(axis=-2, keepdims=True), hi.max(axis=-2, keepdims=True)

    def image(self, error: float) -> tuple[Image | None, tuple[Array, Array] | None]:
        """What the product makes of an image, and the bounds of its elements."""
        image = self.a.image
        if image is None or self.center_b.ndim != 2 or self.flat[0] or self.flat[1]:
            return None, None
        if self.center_b.shape[0] != image.center.size or not np.isfinite(self.center_b).all():
            return None, None
        weight = np.ascontiguousarray(self.center_b.T)
        doubt = np.broadcast_to(self.radius_b, self.center_b.shape).T
        rows = image.times(weight)
        length = float(np.max(radius_along(self.a, -1, self.terms)))
        if not np.isfinite(length):
            return None, None
        center = weight @ image.center
        norms = row_norms(weight)
        loose = row_norms(doubt) * length + norms * (image.fuzz + error * length)
        radius = image.radius * row_norms(rows) + loose
        whole = frobenius(weight)
        fuzz = (image.fuzz + error * length) * whole + frobenius(doubt) * length
        made = Image(
            center, lambda: rows_of(image, weight), lambda matrix: image.times(matrix @ weight),
            image.radius, fuzz,
        )  # fmt: skip
        margin = OUTWARD * (np.abs(center) + radius)
        return made, (center - radius - margin, center + radius + margin)

    def ball(self, error: float, image: Image | None) -> Norm | None:
        """The L2 norm of the rows of the product."""
        a, b, terms = self.a, self.b, self.terms
        mass = a.mass
        flat = self.flat[0]
        weight = self.center_b if self.center_b.ndim == 2 and min(self.center_b.shape) > 1 else None
        doubt = self.radius_b
        if image is None and weight is None and (mass is None or flat or b.ball is None):
            return None
        if b.dims is None:
            return None
        width = b.dims[-1]

        def radius() -> Array:
            bounds: list[Array] = []
            if image is not None:
                center = float(np.linalg.norm(image.center)) * (1 + OUTWARD)
                spread = image.radius * spectral(image.rows()) + image.fuzz
                bounds.append(np.asarray(center + spread))
            elif weight is not None:
                gain = spectral(weight) + frobenius(np.broadcast_to(doubt, weight.shape))
                gain += error * frobenius(weight)
                length = radius_along(a, -1, terms)
                bounds.append(times(length[0] if flat and length.ndim else length, gain))
            if mass is not None and mass.axis == -1 and not flat:
                longest = radius_along(b, -1, width)
                longest = longest.max(axis=-2, keepdims=True) if longest.ndim >= 2 else longest
                weights = mass.radius
                # Errors of the sum: at most a share of the sum of |p| |v| in every element.
                bounds.append(times(weights, longest) * (1 + error))
            return _join(np.minimum, bounds)

        return Norm(-1, radius)


def rows_of(image: Image, weight: Array) -> Array:
    """The matrix of the image behind a linear layer."""
    return image.times(weight)


def _magnitude(x: Abstract, center: Array, radius: Array) -> Array:
    if x.data is not None:
        return np.asarray(np.abs(center) + radius)
    magnitude = x.magnitude
    return magnitude[..., None] if magnitude.shape != center.shape and magnitude.ndim else magnitude
