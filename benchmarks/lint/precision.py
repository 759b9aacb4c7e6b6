"""How many findings in published code are true, as read and judged by hand (judged/*.toml)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

JUDGED = Path(__file__).parent / "judged"


@dataclass(frozen=True)
class Judgment:
    """One finding in published code, read by a person: is it what the rule says?"""

    code: str
    package: str
    file: str
    line: int
    true: bool
    why: str


def judgments() -> list[Judgment]:
    """Every finding that was read, by code."""
    return [
        Judgment(path.stem, **entry)
        for path in sorted(JUDGED.glob("AMP*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["finding"]
    ]


def shares() -> dict[str, tuple[int, int]]:
    """For each code how many findings are true, and how many were read."""
    found: dict[str, tuple[int, int]] = {}
    for one in judgments():
        true, read = found.get(one.code, (0, 0))
        found[one.code] = (true + one.true, read + 1)
    return found
