"""Rounding and outward margins: what makes bounds computed in float64 hold for float32 kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigvalsh

from ampconvert.dtypes import FLOAT32, FloatType

Array = npt.NDArray[np.float64]

OUTWARD = 1e-9  # relative: more than float64 loses in any sum that stands here
STEP = 2.0**-22  # relative error of one float32 operation that is not exact, with room for fusing
CURVE = (
    1e-5  # relative error of a float32 kernel for exp, erf, tanh, rsqrt, ..., fast ones included
)
PRODUCT = 2.0**-10  # relative error of a product whose operands a device reads as TF32
FUSED = 1e-4  # relative error of a fused norm, as a share of the result's own bound
EXACT_GRAM = 1024  # the smaller side of a matrix up to which its spectral norm is computed


def gamma(terms: float) -> float:
    """The relative error of a float32 sum of `terms` terms in any order, as a share of the sum of
    magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1).
    """
    share = terms * FLOAT32.unit
    return share / (1 - share) if share < 0.5 else float("inf")


def round_to(x: Any, kind: FloatType) -> Array:
    """`x` rounded to nearest even in `kind`, as float64; beyond its range as if that had no end."""
    x = np.asarray(x, dtype=np.float64)
    finite = np.where(np.isfinite(x), x, 0.0)
    _, exponent = np.frexp(finite)
    step: Array = np.maximum(np.ldexp(2 * kind.unit, exponent - 1), kind.smallest)
    return np.asarray(np.where(np.isfinite(x), np.rint(finite / step) * step, x))


def rounding_errors(x: Array, kind: FloatType) -> Array:
    """How far the rounding to `kind` moves each of `x`, at most; faster than `round_to`.

    Dekker's splitting leaves the leading bits, rounded to nearest (Numer. Math. 18, 1971).
    """
    bits = 53 + round(np.log2(kind.unit))
    errors: Array = np.asarray(x * (2.0**bits + 1))  # in place from here on: weights are large
    errors -= errors - x
    errors -= x
    np.abs(errors, out=errors)
    errors[np.abs(x) < kind.tiny] = kind.smallest / 2
    return errors


def outward(lo: Any, hi: Any, relative: float = STEP, absolute: float = 0.0) -> tuple[Array, Array]:
    """The interval widened by a share of its ends; zero stays zero, infinities stay."""
    lo, hi = np.asarray(lo, dtype=np.float64), np.asarray(hi, dtype=np.float64)
    return lo - np.abs(lo) * relative - absolute, hi + np.abs(hi) * relative + absolute


def step(whole: bool, *bounds: Any) -> float:
    """The relative error of one operation with a result within `bounds`: none for whole numbers
    that float32 holds exactly.
    """
    largest = max(float(np.max(np.abs(b))) for b in bounds)
    return 0.0 if whole and largest <= FLOAT32.exact_integers else STEP


def stored(lo: Array, hi: Array, kind: FloatType) -> tuple[Array, Array]:
    """The interval that holds a number of [lo, hi] and its rounding to `kind`.

    Rounding is monotone, so the ends tell all. Subnormal numbers may be flushed to zero.
    """
    low, high = np.minimum(lo, round_to(lo, kind)), np.maximum(hi, round_to(hi, kind))
    low = np.where((low > 0) & (low < FLOAT32.tiny), 0.0, low)
    high = np.where((high < 0) & (high > -FLOAT32.tiny), 0.0, high)
    return low, high


def sqrt_up(x: Any) -> Array:
    """A square root that is not below the true one."""
    return np.asarray(np.sqrt(np.maximum(x, 0.0)) * (1 + OUTWARD))


def times(a: Any, b: Any) -> Array:
    """a * b with 0 * inf = 0: bounds are limits of finite numbers, and zero times those is zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.asarray(a, dtype=np.float64) * np.asarray(b, dtype=np.float64)
    return np.where(np.isnan(product), 0.0, product)


def row_norms(matrix: Array) -> Array:
    """The L2 norm of every row, not below the true one."""
    return sqrt_up(np.square(matrix).sum(axis=-1))


def frobenius(matrix: Array) -> float:
    """The Frobenius norm, not below the true one."""
    return float(sqrt_up(np.square(matrix).sum()))


def spectral(matrix: Array) -> float:
    """An upper bound on the spectral norm of a matrix: never an estimate from below.

    The largest eigenvalue of the smaller Gram matrix up to EXACT_GRAM rows; beyond that
    sqrt(||A||_1 ||A||_inf) or the Frobenius norm, whichever is smaller. inf if not finite.
    """
    if matrix.size == 0:
        return 0.0
    if not np.isfinite(matrix).all():
        return float("inf")
    whole = frobenius(matrix)
    if whole == 0.0:
        return 0.0
    if min(matrix.shape) > EXACT_GRAM:
        magnitude = np.abs(matrix)
        bound = magnitude.sum(axis=0).max() * magnitude.sum(axis=1).max()
        return min(whole, float(sqrt_up(bound)))
    scaled = matrix / whole  # keeps the squares in range
    gram = scaled @ scaled.T if matrix.shape[0] <= matrix.shape[1] else scaled.T @ scaled
    last = gram.shape[0] - 1
    value = float(eigvalsh(gram, subset_by_index=(last, last), check_finite=False)[0])
    return min(whole, float(sqrt_up(value + OUTWARD)) * whole)
