"""How far a candidate's arrays are from a reference's: one `Parity` per model output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ampconvert.dtypes import Low
from ampconvert.verify.histogram import Histogram, Magnitudes

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
    shape: tuple[int, ...]  # the first batch's; for a sequence of tensors, how many it held
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
    histogram: Histogram | None = None  # None where nothing was compared, or no numbers


def default_tolerance(low: Low) -> float:
    """The relative L2 error accepted when the user names none: 1e-2 (float16), 8e-2 (bfloat16).

    Both are about 20 unit roundoffs (2^-11 and 2^-8). A rounding error of one store is at most one
    unit, and errors of a deep chain of stores add up like a random walk: 20 units is what some
    400 independent full-sized ones give. Errors beyond it come from a cause, not from rounding.
    """
    return _TOLERANCE[low]


def compare(
    name: str,
    references: Sequence[Any],
    candidates: Sequence[Any],
    tolerance: float,
    *,
    reference_rel_l2: float | None = None,
) -> Parity:
    """Compare one output's arrays, batch by batch, in float64.

    Accepts any numeric or boolean dtype, ml_dtypes' bfloat16 included, and text. Where an output is
    a sequence of tensors each batch is a list of arrays, and None is an optional without a value. A
    shape or a kind of dtype (float against integer) that differs gives a Parity that is not ok and
    whose `note` says so. Values of any size are safe: norms are taken of scaled numbers.

    Raises:
        ValueError: the two sides have different numbers of batches, or none.
    """
    if len(references) != len(candidates) or not references:
        sides = f"{len(references)} reference and {len(candidates)} candidate batches"
        raise ValueError(f"{name}: {sides}")
    measured = Measurement(name, tolerance)
    for reference, candidate in zip(references, candidates, strict=True):
        measured.add(reference, candidate)
    return measured.parity(reference_rel_l2)


class Measurement:
    """One output's figures, taken batch by batch; no array is kept.

    The same figures as `compare`'s, for outputs that do not fit in memory all at once.
    """

    def __init__(self, name: str, tolerance: float) -> None:
        self.name = name
        self.tolerance = tolerance
        self.batches = 0
        self._kind = ""  # until there is an array
        self._dtype = ""
        self._shape: tuple[int, ...] = ()
        self._mismatch = ""
        self._counts = _Counts()
        self._sums = _Sums()
        self._rows = _Rows()
        self._magnitudes = Magnitudes()

    def add(self, reference: Any, candidate: Any) -> None:
        """One batch: an array each; for a sequence a list of arrays, for an empty optional None."""
        batch = f"batch {self.batches}"
        left, right = _arrays(reference), _arrays(candidate)
        several = reference is None or isinstance(reference, list | tuple)
        if left and not self._kind:
            self._kind = _kind(left[0])
        if right and not self._dtype:
            self._dtype = str(right[0].dtype)
        if not self.batches:
            self._shape = (len(left),) if several else left[0].shape
        self.batches += 1
        if len(left) != len(right):
            self._differs(f"{batch} has {len(right)} tensors, the reference has {len(left)}")
            return
        for i, (r, c) in enumerate(zip(left, right, strict=True)):
            where = f"tensor {i} of {batch}" if several else batch
            if r.shape != c.shape:
                self._differs(
                    f"{where} has shape {list(c.shape)}, the reference has {list(r.shape)}"
                )
            elif _kind(r) != _kind(c):
                self._differs(f"{where} has dtype {c.dtype}, the reference has {r.dtype}")
            else:
                self._add(r, c)

    def parity(self, reference_rel_l2: float | None = None) -> Parity:
        """The figures of all batches together; `reference_rel_l2` is handed on."""
        if self._mismatch:
            nan = math.nan
            return Parity(
                self.name, self._dtype, self._shape, nan, nan, nan, nan, False, None, 0.0,
                self.tolerance, False, 0, reference_rel_l2, self._mismatch,
            )  # fmt: skip
        counts, sums, kind = self._counts, self._sums, self._kind
        norm, diff = sums.reference, sums.diff
        rel_l2 = _ratio(diff, norm) if norm else diff
        exact = counts.equal / counts.total if counts.total else 1.0
        finite = counts.lost == 0
        judged = exact == 1.0 if kind in "ibo" else rel_l2 <= self.tolerance
        unjudged = counts.total > 0 and counts.unknown == counts.total
        return Parity(
            output=self.name,
            dtype=self._dtype,
            shape=self._shape,
            rel_l2=rel_l2,
            max_abs=sums.max_abs,
            sqnr_db=_decibels(rel_l2) if norm else (0.0 if diff else math.inf),
            cosine=sums.cosine,
            finite=finite,
            agree_top1=self._rows.agree_top1 if kind == "f" else None,
            exact=exact,
            tolerance=self.tolerance,
            ok=judged and finite and counts.infinities == 0 and not unjudged,
            samples=counts.total,
            reference_rel_l2=reference_rel_l2,
            note=_note(counts, kind, rel_l2, self.tolerance, exact),
            histogram=self._magnitudes.histogram if kind in "fc" and counts.total else None,
        )

    def _differs(self, note: str) -> None:
        self._mismatch = self._mismatch or note

    def _add(self, r: Array, c: Array) -> None:
        kind = _kind(r)
        if kind not in "fc":
            self._counts.total += r.size
            self._counts.equal += int(np.count_nonzero(r == c))
        if kind == "o":
            return
        wide_r, wide_c = _wide(r), _wide(c)
        if kind in "fc":
            self._counts.add(wide_r, wide_c)
            self._magnitudes.add(wide_r, wide_c)
        if kind == "f":
            self._rows.add(wide_r, wide_c)
        self._sums.add(wide_r.ravel(), wide_c.ravel())


def _arrays(answer: Any) -> list[Array]:
    if isinstance(answer, list | tuple):
        return [array for element in answer for array in _arrays(element)]
    return [] if answer is None else [np.asarray(answer)]


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

    def add(self, r: Array, c: Array) -> None:
        """Float64 arrays of one batch."""
        unknown = np.isnan(r)
        self.total += r.size
        self.equal += int(np.count_nonzero((r == c) | (unknown & np.isnan(c))))
        self.lost += int(np.count_nonzero(np.isfinite(r) & ~np.isfinite(c)))
        self.infinities += int(np.count_nonzero(np.isinf(r) & (r != c)))
        self.unknown += int(np.count_nonzero(unknown))


@dataclass
class _Sum:
    """A sum of products of scaled numbers: it stands for `total` * 2**-shift."""

    total: float = 0.0
    shift: int = 0

    def add(self, total: float, shift: int) -> None:
        """Add total * 2**-shift; the coarser scale of both is kept, so that nothing overflows."""
        if not total:
            return
        common = min(self.shift, shift) if self.total else shift
        self.total = math.ldexp(self.total, common - self.shift) + math.ldexp(total, common - shift)
        self.shift = common

    @property
    def root(self) -> float:
        """The square root of what it stands for; the shift of a sum of squares is even."""
        try:
            return math.ldexp(math.sqrt(self.total), -self.shift // 2)
        except OverflowError:
            return math.inf


class _Sums:
    """L2 norms and the angle between the two sides, in one pass over the batches.

    Each batch is scaled by powers of two to at most 1, so that no square over- or underflows.
    """

    def __init__(self) -> None:
        self.max_abs = 0.0  # largest |c - r|
        self._lost = False  # the candidate, or the difference, is infinite somewhere
        self._rr, self._cc, self._dd, self._rc = _Sum(), _Sum(), _Sum(), _Sum()

    def add(self, r: Array, c: Array) -> None:
        """Flat float64 arrays; elements count where the reference is finite.

        A candidate that is not finite there counts as infinite (NaN too): every figure shows it.
        """
        keep = np.isfinite(r)
        if not keep.all():
            r, c = r[keep], c[keep]
        c = np.where(np.isfinite(c), c, np.inf)
        with np.errstate(over="ignore"):  # two huge numbers of opposite sign: infinitely apart
            d = c - r
        r_peak, c_peak, d_peak = _peak(r), _peak(c), _peak(d)
        self.max_abs = max(self.max_abs, d_peak)
        r_shift = _shift(r_peak)
        r = np.ldexp(r, r_shift)
        self._rr.add(float(r @ r), 2 * r_shift)
        if math.isinf(c_peak) or math.isinf(d_peak):
            self._lost = True
            return
        c_shift, d_shift = _shift(c_peak), _shift(d_peak)
        c, d = np.ldexp(c, c_shift), np.ldexp(d, d_shift)
        self._cc.add(float(c @ c), 2 * c_shift)
        self._dd.add(float(d @ d), 2 * d_shift)
        self._rc.add(float(r @ c), r_shift + c_shift)

    @property
    def reference(self) -> float:
        return self._rr.root

    @property
    def diff(self) -> float:
        return math.inf if self._lost else self._dd.root

    @property
    def cosine(self) -> float:
        if self._lost:
            return 0.0
        rr, cc, rc = self._rr, self._cc, self._rc
        if not (rr.total and cc.total):
            return 1.0 if rr.total == cc.total else 0.0
        scaled = rc.total / (math.sqrt(rr.total) * math.sqrt(cc.total))
        return max(-1.0, min(1.0, math.ldexp(scaled, (rr.shift + cc.shift) // 2 - rc.shift)))


class _Rows:
    """Rows whose largest element is at the same place, for what may be logits.

    A row where either side is NaN has no largest element: it counts as disagreement.
    """

    def __init__(self) -> None:
        self._are_rows = True
        self._all = self._agreed = 0

    def add(self, r: Array, c: Array) -> None:
        """Arrays of one batch; any without rows of two or more elements: no logits."""
        self._are_rows &= r.ndim >= 2 and r.shape[-1] >= 2
        if not self._are_rows or not r.size:
            return
        known = ~(np.isnan(r).any(-1) | np.isnan(c).any(-1))
        self._agreed += int(np.count_nonzero((r.argmax(-1) == c.argmax(-1)) & known))
        self._all += known.size

    @property
    def agree_top1(self) -> float | None:
        return self._agreed / self._all if self._are_rows and self._all else None


def _wide(array: Array) -> Array:
    """As float64; complex numbers as pairs."""
    if array.dtype.kind == "c":
        return np.ascontiguousarray(array).astype(np.complex128).view(np.float64)
    return array.astype(np.float64)


def _peak(array: Array) -> float:
    return float(np.max(np.abs(array))) if array.size else 0.0


def _shift(largest: float) -> int:
    """The power of two that scales `largest` to at most 1."""
    return -math.frexp(largest)[1] if largest else 0


def _ratio(diff: float, reference: float) -> float:
    return diff / reference if not (math.isinf(diff) and math.isinf(reference)) else math.inf


def _decibels(rel_l2: float) -> float:
    if rel_l2 == 0:
        return math.inf
    return -math.inf if math.isinf(rel_l2) else -20 * math.log10(rel_l2)


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
