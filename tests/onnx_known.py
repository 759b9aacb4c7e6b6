"""Defects that are known, as expected failures: one that is mended makes its test fail here, so
that its line goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import pytest

# The test and its parameters, as patterns -> what is wrong.
KNOWN: dict[str, str] = {}


def params(test: str, *choices: Iterable[str]) -> list[Any]:
    """Every combination of a test's parameters, those of known defects as expected failures."""
    made = []
    for chosen in itertools.product(*choices):
        name = "/".join((test, *chosen))
        reason = next((why for pattern, why in KNOWN.items() if fnmatch(name, pattern)), "")
        marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
        made.append(pytest.param(*chosen, marks=marks, id="-".join(chosen)))
    return made
