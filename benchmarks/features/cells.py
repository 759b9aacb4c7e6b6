"""What the feature table is made of: a feature, how each tool's answer is found, what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["yes", "part", "no"]
How = Literal["command", "converted", "probe", "source", "documentation", "result file", "not run"]
FAILED, UNCLEAR, NOT_RUN = "FAILED", "UNCLEAR", "not run"


class UnmetError(Exception):
    """A check's answer where a tool does not do what is asked; its text is the evidence."""


class PartlyMetError(UnmetError):
    """The same where the tool does a part of it."""


@dataclass(frozen=True)
class Ran:
    """Commands that were run in `folder`: their exit codes and texts, in order."""

    folder: Path
    codes: tuple[int, ...]
    outs: tuple[str, ...]
    errors: tuple[str, ...]

    @property
    def out(self) -> str:
        """What the last command printed to stdout, its white space joined to single blanks."""
        return " ".join(self.outs[-1].split())

    @property
    def error(self) -> str:
        """The same of stderr."""
        return " ".join(self.errors[-1].split())

    @property
    def json(self) -> Any:
        """What the last command printed, read as JSON."""
        return json.loads(self.outs[-1])


RunCheck = Callable[[Ran], str]
FileCheck = Callable[[Path, Path, str], str]


@dataclass(frozen=True)
class Run:
    """Commands of a tool, run as they stand; `check` gives the evidence, or raises UnmetError.

    `codes`: the exit codes that are wanted; all 0 where left out. `verdict` is the answer where the
    check holds: "no" for a command that shows what a tool does not do; `figure` reads one instead.
    """

    commands: tuple[str, ...]
    check: RunCheck
    codes: tuple[int, ...] = ()
    verdict: Verdict = "yes"
    figure: RunCheck | None = None

    @property
    def wanted(self) -> tuple[int, ...]:
        """The exit code that each command has to have."""
        return self.codes or (0,) * len(self.commands)


@dataclass(frozen=True)
class Converts:
    """A peer's converter on a model of models.py; `check` judges its file (source, target, log)."""

    model: str
    check: FileCheck
    options: Mapping[str, Any] = field(default_factory=dict)
    call: str = "convert"
    blocked: str = ""  # "torch" or "network": what the process must not use


@dataclass(frozen=True)
class Call:
    """A function of peer.py that answers by itself: {"verdict": ..., "detail": ...}.

    For ampconvert it runs in this environment.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lacks:
    """The peer's own sources have no line that matches `pattern`: "no".

    A line that matches makes the answer UNCLEAR: somebody has to read it.
    """

    pattern: str


@dataclass(frozen=True)
class Documented:
    """What the peer's documentation or published source says."""

    verdict: Verdict
    says: str
    link: str


@dataclass(frozen=True)
class FromResult:
    """What a result file of another benchmark holds; `read` gives verdict, evidence and file."""

    read: Callable[[str], tuple[str, str, str]]


Cell = Run | Converts | Call | Lacks | Documented | FromResult


@dataclass(frozen=True)
class Feature:
    """A row of the table: what is asked, ampconvert's answer, and each peer's by its name."""

    name: str
    ours: Run | Call | FromResult
    peers: Mapping[str, Cell]
    models: tuple[str, ...] = ()  # of models.py, built before the commands run


@dataclass(frozen=True)
class Section:
    """Features that belong together, and the peers that they are asked of, in order."""

    title: str
    peers: tuple[str, ...]
    features: tuple[Feature, ...]


@dataclass(frozen=True)
class Found:
    """A tool's answer: a verdict or a figure, the evidence in a line, and how it is known."""

    verdict: str
    detail: str
    how: How
    source: str = ""  # a command, a link, a result file, a pattern

    @property
    def bad(self) -> bool:
        """Whether it has to be looked at: a command that does not do what the table says."""
        return self.verdict in (FAILED, UNCLEAR)
