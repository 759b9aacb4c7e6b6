"""How far a candidate's arrays are from a reference's: one `Parity` per model output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ampconvert.dtypes import Low

Array = np.ndarray[Any, Any]

_TOLERANCE: dict[Low, float] = {"float16": 1e-2, "bfloat16": 8e-2}


@dataclass(frozen=True)
class Parity:
    """One output of two models, over all batches; r is the reference, c the candidate.

    Elements where both hold the same infinity (masks) are equal and left out of the error figures,
    as are elements where the reference is NaN. `note` says why `ok` is False, or what was left out.
    """

    output: str
    dtype: str  # the candidate's, as numpy and ml_dtypes spell it
    shape: tuple[int, ...]  # the first batch's
    rel_l2: float  # |c - r| / |r| in the L2 norm; |c - r| where the reference is zero throughout
    max_abs: float  # largest |c - r|
    sqnr_db: float  # 20 log10(|r| / |c - r|): signal to (quantisation) noise, inf for equal arrays
    cosine: float  # of the angle between r and c; 1 when both are zero
    finite: bool  # the candidate is finite wherever the reference is
    agree_top1: float | None  # share of rows with the same argmax; None when these are no rows
    exact: float  # share of elements that are equal; what integers and booleans are judged by
    tolerance: float  # largest rel_l2 that is accepted
    ok: bool
    samples: int  # elements compared
    reference_rel_l2: float | None = None  # the float32 reference's own error against float64
    note: str = ""


def default_tolerance(low: Low) -> float:
    """The relative L2 error accepted when the user names none: 1e-2 (float16), 8e-2 (bfloat16).

    Both are about 20 unit roundoffs (2^-11 and 2^-8). A rounding error of one store is at most one
    unit, and errors of a deep chain of stores add up like a random walk: 20 units is what some
    400 independent full-sized ones give. Errors beyond it come from a cause, not from rounding.
    """
    return _TOLERANCE[low]


def compare(
    name: str,
    references: Sequence[Array],
    candidates: Sequence[Array],
    tolerance: float,
    *,
    reference_rel_l2: float | None = None,
) -> Parity:
    """Compare one output's arrays, batch by batch, in float64.

    Accepts any numeric or boolean dtype, ml_dtypes' bfloat16 included. A shape or a kind of dtype
    (float against integer) that differs gives a Parity that is not ok and whose `note` says so.
    Values of any size are safe: norms are taken of scaled numbers.

    Raises:
        ValueError: the two sides have different numbers of batches, or none.
    """
    if len(references) != len(candidates) or not references:
        sides = f"{len(references)} reference and {len(candidates)} candidate batches"
        raise ValueError(f"{name}: {sides}")
    mismatch = _mismatch(references, candidates)
    if mismatch:
        return _failed(name, candidates[0], tolerance, mismatch, reference_rel_l2)
    kind = _kind(references[0])
    counts = _counts(references, candidates, kind)
    largest = _largest(references, candidates)
    sums = _sums(references, candidates, largest)
    rel_l2 = _ratio(sums.diff, sums.reference) if sums.reference else sums.diff
    exact = counts.equal / counts.total if counts.total else 1.0
    finite = counts.lost == 0
    note = _note(counts, kind, rel_l2, tolerance, exact)
    judged = exact == 1.0 if kind in "ibo" else rel_l2 <= tolerance
    unjudged = counts.total > 0 and counts.unknown == counts.total
    return Parity(
        output=name,
        dtype=str(candidates[0].dtype),
        shape=tuple(references[0].shape),
        rel_l2=rel_l2,
        max_abs=largest.diff,
        sqnr_db=_decibels(rel_l2) if sums.reference else (0.0 if sums.diff else math.inf),
        cosine=sums.cosine,
        finite=finite,
        agree_top1=_agree_top1(references, candidates, kind),
        exact=exact,
        tolerance=tolerance,
        ok=judged and finite and counts.infinities == 0 and not unjudged,
        samples=counts.total,
        reference_rel_l2=reference_rel_l2,
        note=note,
    )


def _mismatch(references: Sequence[Array], candidates: Sequence[Array]) -> str:
    for i, (r, c) in enumerate(zip(references, candidates, strict=True)):
        if r.shape != c.shape:
            return f"batch {i} has shape {list(c.shape)}, the reference has {list(r.shape)}"
        if _kind(r) != _kind(c):
            return f"batch {i} has dtype {c.dtype}, the reference has {r.dtype}"
    return ""


def _failed(name: str, array: Array, tolerance: float, note: str, own: float | None) -> Parity:
    nan = math.nan
    return Parity(
        name, str(array.dtype), tuple(array.shape), nan, nan, nan, nan, False, None, 0.0, tolerance,
        False, 0, own, note,
    )  # fmt: skip


def _kind(array: Array) -> str:
    """f (floating), c (complex), i (integer), b (boolean) or o (text and others)."""
    kind = str(array.dtype.kind)
    if kind in "fcb":
        return kind
    if kind in "iu":
        return "i"
    name = array.dtype.name  # ml_dtypes' types are of numpy's kind V
    return "f" if name.startswith(("bfloat16", "float")) else "i" if "int" in name else "o"


@dataclass
class _Counts:
    total: int = 0
    equal: int = 0  # the same infinity, or NaN on both sides, included
    lost: int = 0  # finite in the reference, not in the candidate
    infinities: int = 0  # infinite in the reference, something else in the candidate
    unknown: int = 0  # NaN in the reference


def _counts(references: Sequence[Array], candidates: Sequence[Array], kind: str) -> _Counts:
    counts = _Counts()
    for r, c in zip(references, candidates, strict=True):
        counts.total += r.size
        if kind not in "fc":
            counts.equal += int(np.count_nonzero(r == c))
            continue
        r, c = _wide(r), _wide(c)
        unknown = np.isnan(r)
        counts.equal += int(np.count_nonzero((r == c) | (unknown & np.isnan(c))))
        counts.lost += int(np.count_nonzero(np.isfinite(r) & ~np.isfinite(c)))
        counts.infinities += int(np.count_nonzero(np.isinf(r) & (r != c)))
        counts.unknown += int(np.count_nonzero(unknown))
    return counts


@dataclass
class _Largest:
    """Largest finite magnitudes; `diff` is infinite where the candidate lost finite values."""

    reference: float = 0.0
    candidate: float = 0.0
    diff: float = 0.0


def _largest(references: Sequence[Array], candidates: Sequence[Array]) -> _Largest:
    largest = _Largest()
    for r, c in _finite_pairs(references, candidates):
        largest.reference = max(largest.reference, _peak(r))
        largest.candidate = max(largest.candidate, _peak(c))
        with np.errstate(over="ignore"):  # two huge numbers of opposite sign: infinitely apart
            largest.diff = max(largest.diff, _peak(c - r))
    return largest


@dataclass
class _Sums:
    """L2 norms and the cosine."""

    reference: float
    diff: float
    cosine: float


def _sums(references: Sequence[Array], candidates: Sequence[Array], largest: _Largest) -> _Sums:
    """Norms of numbers scaled by powers of two to at most 1: no square over- or underflows."""
    if math.isinf(largest.candidate) or math.isinf(largest.diff):
        return _Sums(_norm(references, candidates, largest), math.inf, 0.0)
    r_shift, c_shift, d_shift = (
        _shift(x) for x in (largest.reference, largest.candidate, largest.diff)
    )
    rr = cc = dd = rc = 0.0
    for r, c in _finite_pairs(references, candidates):
        d = np.ldexp(c - r, d_shift)
        r, c = np.ldexp(r, r_shift), np.ldexp(c, c_shift)
        rr, cc, dd, rc = rr + float(r @ r), cc + float(c @ c), dd + float(d @ d), rc + float(r @ c)
    if rr and cc:
        cosine = max(-1.0, min(1.0, rc / (math.sqrt(rr) * math.sqrt(cc))))
    else:
        cosine = 1.0 if rr == cc else 0.0
    return _Sums(_unshift(rr, r_shift), _unshift(dd, d_shift), cosine)


def _norm(references: Sequence[Array], candidates: Sequence[Array], largest: _Largest) -> float:
    shift = _shift(largest.reference)
    total = 0.0
    for r, _ in _finite_pairs(references, candidates):
        r = np.ldexp(r, shift)
        total += float(r @ r)
    return _unshift(total, shift)


def _finite_pairs(
    references: Sequence[Array], candidates: Sequence[Array]
) -> Iterator[tuple[Array, Array]]:
    """Flat float64 arrays of the elements to compare: where the reference is finite.

    A candidate that is not finite there stays in as an infinity (NaN too), so that every figure
    shows it.
    """
    for r, c in zip(references, candidates, strict=True):
        if _kind(r) == "o":
            continue
        r, c = _wide(r).ravel(), _wide(c).ravel()
        keep = np.isfinite(r)
        r, c = r[keep], c[keep]
        yield r, np.where(np.isfinite(c), c, np.inf)


def _wide(array: Array) -> Array:
    """As float64; complex numbers as pairs."""
    if array.dtype.kind == "c":
        return np.ascontiguousarray(array).astype(np.complex128).view(np.float64)
    return array.astype(np.float64)


def _peak(array: Array) -> float:
    return float(np.max(np.abs(array))) if array.size else 0.0


def _shift(largest: float) -> int:
    return -math.frexp(largest)[1] if largest else 0


def _unshift(sum_of_squares: float, shift: int) -> float:
    root = math.sqrt(sum_of_squares)
    try:
        return math.ldexp(root, -shift)
    except OverflowError:
        return math.inf


def _ratio(diff: float, reference: float) -> float:
    return diff / reference if not (math.isinf(diff) and math.isinf(reference)) else math.inf


def _decibels(rel_l2: float) -> float:
    if rel_l2 == 0:
        return math.inf
    return -math.inf if math.isinf(rel_l2) else -20 * math.log10(rel_l2)


def _agree_top1(
    references: Sequence[Array], candidates: Sequence[Array], kind: str
) -> float | None:
    """Share of rows whose largest element is at the same place, for what may be logits.

    A row where either side is NaN has no largest element: it counts as disagreement.
    """
    if kind != "f" or any(r.ndim < 2 or r.shape[-1] < 2 for r in references):
        return None
    rows = agreed = 0
    for r, c in zip(references, candidates, strict=True):
        if not r.size:
            continue
        r, c = _wide(r), _wide(c)
        known = ~(np.isnan(r).any(-1) | np.isnan(c).any(-1))
        agreed += int(np.count_nonzero((r.argmax(-1) == c.argmax(-1)) & known))
        rows += known.size
    return agreed / rows if rows else None


def _note(counts: _Counts, kind: str, rel_l2: float, tolerance: float, exact: float) -> str:
    if counts.total and counts.unknown == counts.total:
        return "the reference is NaN everywhere: there is nothing to compare with"
    if counts.lost:
        lost = f"{counts.lost} of {counts.total} elements are inf or NaN"
        return f"{lost} where the reference is finite"
    if counts.infinities:
        return f"{counts.infinities} of {counts.total} elements should be infinite and are not"
    if kind in "ibo" and exact < 1.0:
        return f"{counts.total - counts.equal} of {counts.total} elements differ"
    if kind not in "ibo" and rel_l2 > tolerance:
        return f"relative error {rel_l2:.3g} is over the tolerance {tolerance:.3g}"
    if counts.unknown:
        return f"{counts.unknown} elements left out: the reference is NaN there"
    return ""
