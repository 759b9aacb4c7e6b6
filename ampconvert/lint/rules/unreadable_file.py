"""AMP901: a file that can't be read as Python."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ampconvert.findings import Finding, Location
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source


class UnreadableFile(Rule):
    """A file can't be read, so nothing in it is checked.

    It is no Python, or Python 2, or newer than the Python that runs ampconvert; it holds bytes that
    are no text in the encoding that it names; it is nested too deeply for Python's parser (about
    1,000 operators in one expression); it is larger than `max-file-size`, 2 MB unless the
    configuration says otherwise; it can't be opened.

    Reported only where another rule would look at the file: in one that holds none of their words
    nothing is missed.

    Source: https://docs.python.org/3/library/ast.html#ast.parse
    """

    CODE = "AMP901"
    NAME = "unreadable-file"
    SEVERITY = "error"
    ADVICE = "Mend the file, or name it under exclude in [tool.ampconvert.lint]."
    WORDS = ()
    VALID = (
        Case("""\
print("hello")
"""),
        Case("""\
# -*- coding: no-such-encoding -*-
print("the encoding of a text that is one already is of no account")
"""),
        Case("""\
match 1:
    case _:
        await_ = "no keyword"
"""),
    )
    INVALID = (
        Case("""\
import torch

print torch.__version__  # AMP901
"""),
        Case("""\
def forward(self, x):
return x  # AMP901
"""),
        Case("""\
from torch.cuda.amp import autocast as  # AMP901
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Nothing: this source was read."""
        return iter(())

    def unread(self, path: str, text: str, error: Exception) -> Iterator[Finding]:
        """Where reading stopped, and why."""
        line, column, end = _place(text, error)
        where = Location("", "", "", path, line, column, line, max(end, column + 1))
        yield Finding(self.CODE, _reason(error), where, self.SEVERITY, self.ADVICE, "", self.NAME)


def _place(text: str, error: Exception) -> tuple[int, int, int]:
    """Line, column and end column, from 1."""
    if isinstance(error, SyntaxError) and error.lineno:
        column = max(error.offset or 1, 1)
        same_line = error.end_lineno == error.lineno
        lines = max(text.count("\n") + text.count("\r") + 1, 1)
        return min(error.lineno, lines), column, (error.end_offset or 0) if same_line else 0
    if isinstance(error, json.JSONDecodeError):
        return error.lineno, error.colno, 0
    if isinstance(error, UnicodeDecodeError):
        before = error.object[: error.start]
        return before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1, 0
    bad = next(
        (at for at, char in enumerate(text) if char == "\0" or "\ud800" <= char <= "\udfff"), 0
    )
    before_bad = text[:bad]
    return before_bad.count("\n") + 1, len(before_bad) - (before_bad.rfind("\n") + 1) + 1, 0


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError | MemoryError):
        return "the file can't be read: it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"the notebook is no JSON: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        byte = error.object[error.start]
        return f"the file can't be read: byte 0x{byte:02x} is no {error.encoding.upper()}"
    if isinstance(error, UnicodeEncodeError):
        return "the file can't be read: it holds half a surrogate pair"
    if isinstance(error, OSError):
        return f"the file can't be opened: {error.strerror}"
    if isinstance(error, SyntaxError):
        return f"the file can't be read: {error.msg}"
    return f"the file can't be read: {error}"
