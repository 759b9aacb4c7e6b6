"""What a lint rule is: a class with a code, a page, examples and a check."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from ampconvert.findings import Edit, Finding, Fix, Location, Severity
from ampconvert.lint import modes
from ampconvert.lint.settings import Settings

if TYPE_CHECKING:
    from ampconvert.lint.source import Source


class Words(Protocol):
    """Bytes, or what tells as they do whether a word is among them."""

    def __contains__(self, word: bytes, /) -> bool: ...


FixSafety = Literal["safe", "unsafe", "sometimes safe", "none"]


@dataclass(frozen=True)
class Case:
    """An example. In INVALID each line at which a finding begins ends with `# AMPnnn`.

    `fixed` is the text after this rule's fixes, unsafe ones too, were made until nothing changes;
    None says that the rule offers no fix for it.
    """

    text: str
    fixed: str | None = None
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True)
class Judged:
    """How many of the findings in published code were read, and how many of them are true."""

    true: int
    read: int


class Rule:
    """One mistake. The docstring is its page: what is wrong, why with the number that matters,
    when it is not found or found wrongly, and the source.

    `check` must find something in every INVALID case, at the lines marked, and nothing in VALID.
    """

    CODE: ClassVar[str]
    NAME: ClassVar[str]
    SEVERITY: ClassVar[Severity] = "warning"
    ADVICE: ClassVar[str]
    # A rule that is off runs only where --select or the configuration names its code.
    DEFAULT: ClassVar[bool] = True
    # Whether the fix is safe, and why; "" where there is none.
    FIX: ClassVar[FixSafety] = "none"
    FIX_SAFETY: ClassVar[str] = ""
    # A file without one of these words can't hold what the rule looks for: it is not parsed.
    # Several groups: one of each.
    WORDS: ClassVar[tuple[tuple[bytes, ...], ...]]
    # Whether it speaks only where a low type is at work (source.modes). A file without one of
    # modes.WORDS is skipped then too, unless the settings assume a mode.
    NEEDS_MODE: ClassVar[bool] = False
    # None: no finding in the code that was read.
    JUDGED: ClassVar[Judged | None] = None
    VALID: ClassVar[tuple[Case, ...]]
    INVALID: ClassVar[tuple[Case, ...]]

    def check(self, source: Source) -> Iterator[Finding]:
        """Every place in `source` that this rule describes."""
        raise NotImplementedError

    def unread(self, path: str, text: str, error: Exception) -> Iterator[Finding]:
        """What to say of a file that can't be parsed, and why it can't. Most rules say nothing."""
        return iter(())

    def may_concern(self, data: Words, settings: Settings | None = None) -> bool:
        """Whether a file with these bytes can hold what the rule looks for."""
        assumed = settings is not None and bool(settings.assume)
        # Asked first: most files have none of these, and the other words need not be sought.
        if self.NEEDS_MODE and not assumed and not any(word in data for word in modes.WORDS):
            return False
        return all(any(word in data for word in group) for group in self.WORDS)

    def finding(
        self,
        source: Source,
        node: ast.AST,
        message: str,
        fix: Fix | None = None,
        severity: Severity | None = None,
    ) -> Finding:
        """A finding of this rule at `node`, an expression, statement, keyword or alias."""
        return self.finding_at(source, *source.span(node), message, fix, severity)

    def finding_at(
        self,
        source: Source,
        start: int,
        end: int,
        message: str,
        fix: Fix | None = None,
        severity: Severity | None = None,
    ) -> Finding:
        """A finding of this rule at the bytes [start, end), which need be no node: a comment."""
        where = Location("", "", "", source.path, *source.position(start), *source.position(end))
        return Finding(
            self.CODE, message, where, severity or self.SEVERITY, self.ADVICE, "", self.NAME,
            fix=fix,
        )  # fmt: skip

    @staticmethod
    def fix(message: str, edits: Sequence[Edit | None], *, safe: bool) -> Fix | None:
        """A fix of these edits; None if one of them could not be made."""
        made = [edit for edit in edits if edit is not None]
        return Fix(message, tuple(made), safe) if made and len(made) == len(edits) else None
