"""Arguments of functions that break down at zero: logarithms, roots, quotients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from ampconvert import functions
from ampconvert.dtypes import FLOAT32
from ampconvert.functions import Call
from ampconvert.ranges.calibrate import Range
from ampconvert.ranges.transfer import State

DEVIATIONS = 6.0  # of the error that low arithmetic puts into an argument


@dataclass(frozen=True)
class DomainCheck:
    """Whether one argument stays in the domain of its function under any rounding.

    `lo` and `hi` are its bounds: proved ones, else those seen on data, widened by DEVIATIONS times
    the error that the low type is predicted to put into it.
    """

    node: str
    operand: str
    lo: float
    hi: float
    clear: bool
    reason: str
    evidence: Literal["proved", "seen", ""] = ""


def domain_checks(
    state: State,
    calls: Mapping[str, Call],
    seen: Mapping[str, Range],
    errors: Mapping[str, float],
) -> list[DomainCheck]:
    """One check per argument that has a domain to leave; constants that are clear are left out."""
    found: list[DomainCheck] = []
    for call in calls.values():
        for name, kind in _arguments(call):
            check = _check(state, call, name, kind, seen, errors)
            constant = state.graph.values[name].kind == "weight"
            if not (constant and check.clear):
                found.append(check)
    return found


def _arguments(call: Call) -> Iterator[tuple[str, str]]:
    """Arguments and what they must not be: "negative", "positive" (zero nor negative), "zero"."""
    kinds = {
        "sqrt": "negative", "log": "positive", "log2": "positive", "log10": "positive",
        "log_sum": "positive", "rsqrt": "positive", "reciprocal": "zero",
    }  # fmt: skip
    place = 0
    kind = kinds.get(call.function, "")
    if call.function == "div":
        place, kind = 1, "zero"
    if call.function == "pow":
        exponent = call.number(1)
        if exponent is not None and not exponent.is_integer():
            kind = "positive" if exponent < 0 else "negative"
        elif exponent is not None and exponent < 0:
            kind = "zero"
    name = call.name(place)
    if kind and name is not None and call.graph.values[name].is_float32:
        yield name, kind


def _check(
    state: State,
    call: Call,
    name: str,
    kind: str,
    seen: Mapping[str, Range],
    errors: Mapping[str, float],
) -> DomainCheck:
    known = state.of(name).shown()
    lo, hi = known.worst
    least = 0.0 if kind == "negative" else state.low.smallest
    if kind != "negative" and state.stays_float32(name):
        least = FLOAT32.tiny
    if _inside(lo, hi, least, kind):
        return DomainCheck(call.node.name, name, lo, hi, True, "its bounds stay clear", "proved")
    reason = _why(call, lo, hi, least, kind)
    shown = seen.get(name)
    if shown is None or shown.elements == 0:
        return DomainCheck(call.node.name, name, lo, hi, False, reason)
    error = DEVIATIONS * errors.get(name, _error(state, name, seen))
    lo, hi = shown.minimum - error, shown.maximum + error
    clear = _inside(lo, hi, least, kind)
    told = f"seen from {shown.minimum:.3g} to {shown.maximum:.3g}, with {DEVIATIONS:g} standard "
    told += f"deviations of {state.low.name}'s error being {error:.2g}"
    return DomainCheck(
        call.node.name, name, lo, hi, clear, told if clear else f"{told}; {reason}",
        "seen" if clear else "",
    )  # fmt: skip


def _inside(lo: float, hi: float, least: float, kind: str) -> bool:
    if kind == "negative":
        return lo >= 0
    return lo >= least or (kind == "zero" and hi <= -least)


def _why(call: Call, lo: float, hi: float, least: float, kind: str) -> str:
    """In words, what is known of an argument that is not clear."""
    if not math.isfinite(lo) and not math.isfinite(hi):
        return "nothing bounds it"
    what = "negative" if kind == "negative" else "zero"
    if 0 <= lo < least:
        return f"it may be as small as {lo:.3g}, which rounds to zero below {least:.3g}"
    return f"it lies between {lo:.3g} and {hi:.3g}, so it may become {what}"


def _error(state: State, name: str, seen: Mapping[str, Range]) -> float:
    """The error of a value as rounding makes it, in itself and in what it is the sum of.

    A sum or difference hands on the errors of its terms at their own size: where they cancel, that
    is all there is (Higham, section 1.7).
    """
    unit = state.low.unit
    total = unit * _size(state, name, seen)
    call = functions.maker(state.graph, name)
    if call is not None and call.function in ("add", "sub"):
        terms = (call.name(0), call.name(1))
        total += sum(unit * _size(state, term, seen) for term in terms if term is not None)
        for term in terms:
            inner = functions.maker(state.graph, term)
            if inner is not None and inner.function in ("add", "sub") and term is not None:
                total += _error(state, term, seen)
    return total


def _size(state: State, name: str, seen: Mapping[str, Range]) -> float:
    """The largest magnitude seen, or where nothing was, the proved one."""
    shown = seen.get(name)
    if shown is not None and shown.elements:
        return shown.absmax
    found = state.of(name).largest
    return found if math.isfinite(found) else 0.0
