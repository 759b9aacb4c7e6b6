"""Parts of a report's data that may be missing or null, as in the plan file of an older version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard


def number(given: Any) -> float | None:
    """A number of the JSON, where NaN and the infinities are strings; None for none."""
    return None if given is None else float(given)


def part(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object at `key`; empty where there is none."""
    found = data.get(key)
    return found if isinstance(found, Mapping) else {}


def entries(data: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    """The list of objects at `key`; empty where there is none."""
    found = data.get(key)
    return [one for one in found if isinstance(one, Mapping)] if _is_list(found) else []


def words(data: Mapping[str, Any], key: str) -> Sequence[str]:
    """The list of texts at `key`; empty where there is none."""
    found = data.get(key)
    return [str(one) for one in found] if _is_list(found) else []


def _is_list(found: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(found, Sequence) and not isinstance(found, str)
