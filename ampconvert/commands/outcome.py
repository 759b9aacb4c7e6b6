"""What a command hands back: an exit code, a page for people and the same as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich would be a third of the time that --help takes
    from rich.console import RenderableType

DONE, FAILED, BAD_INPUT, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


@dataclass(frozen=True)
class Outcome:
    """`code` is 0 (done, parity held) or 1 (failed); `page` and `data` are made when printed.

    `text` is printed as it stands instead of both: what other programs read.
    """

    code: int
    page: Callable[[], RenderableType]
    data: Callable[[], Mapping[str, Any]]
    text: Callable[[], str] | None = None
