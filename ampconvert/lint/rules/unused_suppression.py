"""AMP900: a comment that silences nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ampconvert.findings import Finding
from ampconvert.lint import engine
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.suppressions import NOQA, UNUSED, Suppression, suppressions, without

_PREFIX = "AMP"
_CODES = tuple(f"{_PREFIX}{digit}".encode() for digit in range(10))
_OWN = (UNUSED, "AMP901")  # whether they find something can't be told from a file that parses


class UnusedSuppression(Rule):
    """A comment silences a rule that finds nothing there.

    It hides the next mistake on that line, which nobody has looked at yet. The rules that a comment
    names are run to judge it, whether they are selected or not, under the settings of this run:
    what is needed under another --assume-amp or --torch alone counts as unused.

    `# noqa` without codes and codes of other tools are left alone: other tools may need them. A
    comment without codes that only ampconvert reads is judged by all rules. AMP900 itself is
    silenced by its own code alone.

    Source: https://docs.astral.sh/ruff/rules/unused-noqa/
    """

    CODE = UNUSED
    NAME = "unused-suppression"
    SEVERITY = "info"
    ADVICE = "Remove the comment, or the code from it."
    FIX = "safe"
    FIX_SAFETY = "Only a comment changes, and what it silenced was nothing."
    WORDS = ((*_CODES, b"ampconvert:"), (*NOQA, b"ampconvert:"))
    VALID = (
        Case("""\
import torch

with torch.cuda.amp.autocast():  # noqa: AMP001
    pass
"""),
        Case("""\
import os  # noqa
import sys  # noqa: F401

text = "x = 1  # noqa: AMP001"
"""),
        Case("""\
import torch as th

# ampconvert: ignore[AMP001]
with th.cuda.amp.autocast(
    enabled=True,
):
    pass
"""),
        Case("""\
# ampconvert: noqa: AMP001
import torch


def context():
    return torch.cpu.amp.autocast()
"""),
    )
    INVALID = (
        Case(
            """\
import torch

with torch.amp.autocast("cuda"):  # noqa: AMP001  # AMP900
    pass
""",
            """\
import torch

with torch.amp.autocast("cuda"):  # AMP900
    pass
""",
        ),
        Case(
            """\
import torch as th  # noqa: AMP002, E402  # AMP900
""",
            """\
import torch as th  # noqa: E402  # AMP900
""",
        ),
        Case(
            """\
# ampconvert: noqa: AMP001, AMP999  # AMP900
from torch.cuda import amp


class Trainer:
    def step(self):
        with amp.autocast():
            pass
""",
            """\
# ampconvert: noqa: AMP001  # AMP900
from torch.cuda import amp


class Trainer:
    def step(self):
        with amp.autocast():
            pass
""",
        ),
        Case(
            """\
import torch

# ampconvert: ignore  # AMP900
x = torch.zeros(3)
""",
            """\
import torch

# AMP900
x = torch.zeros(3)
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Comments of which a code, or all, silence nothing."""
        comments = [c for c in suppressions(source.text) if _concerns(c)]
        found = list(_findings(source, comments))
        for comment in comments:
            unused = _unused(comment, found)
            if unused is None:
                continue
            edit = without(source.text, comment, unused)
            message = f"the comment silences nothing: no {' or '.join(unused) or 'finding'} here"
            start, end = (len(source.text[:at].encode("utf-8", "surrogatepass"))
                          for at in (comment.start, comment.end))  # fmt: skip
            yield self.finding_at(
                source, start, end, message, self.fix("remove it", [edit], safe=True)
            )


def _concerns(comment: Suppression) -> bool:
    return any(map(_is_judged, comment.codes)) if comment.codes else comment.ours


def _is_judged(code: str) -> bool:
    return code.encode().startswith(_CODES) and code not in _OWN


def _findings(source: Source, comments: Sequence[Suppression]) -> Iterator[Finding]:
    """All that the rules named by `comments` find, silenced or not."""
    codes = {code for comment in comments for code in comment.codes or (_PREFIX,)}
    for rule in all_rules():
        named = rule.CODE not in _OWN and any(rule.CODE.startswith(code) for code in codes)
        if named and rule.may_concern(source.data, source.settings):
            yield from engine.findings(rule, source)


def _unused(comment: Suppression, found: Sequence[Finding]) -> list[str] | None:
    """The codes that silence nothing; [] if the whole comment does, None if all is used."""
    here = [f.code for f in found if comment.covers(f)]
    if not comment.codes:
        return None if here else []
    unused = [
        code
        for code in dict.fromkeys(comment.codes)
        if _is_judged(code) and not any(one.startswith(code) for one in here)
    ]
    return unused or None
