"""Why an op runs in FP32, in words."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def described(place: str, where: Mapping[str, str] = MappingProxyType({})) -> str:
    """A place for people: "blocks.3.attn/matmul (model.py:42)", and its number if not the first."""
    line = where.get(place, "")
    name = place.replace("#0", "")
    return f"{name} ({line})" if line else name


def with_reasons(
    moved: Mapping[str, str], name: str, places: tuple[str, ...], reason: str, reads: str = ""
) -> dict[str, str]:
    """`moved` with these places: the first for the reason itself, the others because they make or
    read the same value.
    """
    new = dict(moved)
    for place in places:
        own = place == name or name.startswith(f"{place}:")
        if own or place not in new:
            new[place] = reason if own else reads or f"reads {described(name)}, which {reason}"
    return new


def figure(number: float) -> str:
    """A magnitude in two digits: 8.1e4."""
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def count(number: int, noun: str) -> str:
    """A number of things: 1 gradient, 2 gradients."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
