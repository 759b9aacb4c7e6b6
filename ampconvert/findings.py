"""What is reported about a model or a source line: one shape for hazards, lint and all else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# error: it does go wrong, on data or constants at hand; warning: it can; info: worth knowing.
Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Location:
    """A node of a model, a place in a source file, or both; what is unknown stays empty.

    `scope` is the module path ("encoder.layer.0"), `line` and `column` count from 1, 0 is unknown;
    (`end_line`, `end_column`) is the first character that does not belong to the place any more.
    """

    node: str = ""
    op: str = ""
    scope: str = ""
    path: str = ""
    line: int = 0
    column: int = 0
    end_line: int = 0
    end_column: int = 0

    @property
    def source(self) -> str:
        """The place in a source file as editors take it: "model.py:42:7"."""
        numbers = [str(n) for n in (self.line, self.column if self.line else 0) if n]
        return ":".join([self.path, *numbers]) if self.path else ""

    def __str__(self) -> str:
        """The most telling of what is known: "encoder.layer.0 (model.py:42)"."""
        place = self.scope or self.node
        if place and self.source:
            return f"{place} ({self.source})"
        return place or self.source


@dataclass(frozen=True)
class Edit:
    """The bytes [start, end) of a source in UTF-8 are to be replaced by `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Fix:
    """How a source is mended. All of `edits` belong together: either all are made or none.

    `safe`: nothing but what the finding is about changes, float32 results least of all. What may
    change numbers or behaviour is unsafe, and made only where that was asked for.
    """

    message: str
    edits: tuple[Edit, ...]
    safe: bool


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    `code` is that of the hazard or rule ("AMP601"), `name` its word ("epsilon-below-range").
    `message` says what is wrong, with the number, `advice` what to do. `nodes` are the operators
    that would go wrong, `values` the tensors in question where those are the matter. `handled`
    says how a plan has dealt with it already; "" while it is open. `fix` mends a source line.
    """

    code: str
    message: str
    where: Location
    severity: Severity = "warning"
    advice: str = ""
    handled: str = ""
    name: str = ""
    nodes: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    fix: Fix | None = None

    @property
    def is_open(self) -> bool:
        """Whether something is left to do."""
        return not self.handled
