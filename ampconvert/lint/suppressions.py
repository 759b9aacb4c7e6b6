"""Comments that silence findings: "noqa: AMP204", "ampconvert: ignore[AMP204]" and their like."""

from __future__ import annotations

import re
import tokenize
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ampconvert.findings import Edit, Finding

UNUSED = "AMP900"  # the rule on comments that silence nothing: only its own code silences it

NOQA = (b"noqa", b"NOQA", b"NoQA", b"Noqa")  # its spellings

_CODE = r"[A-Za-z]+[0-9]+(?!\w)"
_COMMENT = re.compile(
    rf"""\#[ \t]*
    (?: (?P<file>ampconvert:[ \t]*)? (?:noqa|NOQA|NoQA|Noqa) (?![\w-])
        (?P<colon> [ \t]*:[ \t]* (?P<codes>{_CODE}(?:[ \t]*[, \t][ \t]*{_CODE})*)? )?
      | (?P<ignore>ampconvert:[ \t]*ignore) (?![\w-])
        (?P<brackets> \[[ \t]*(?P<within>{_CODE}(?:[ \t]*,[ \t]*{_CODE})*)?[ \t]*\] )? (?!\[)
    )""",
    re.VERBOSE,
)
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
# The interpreter reads an encoding from a comment in one of the first two lines.
_CODING = re.compile(r"[ \t\f]*#.*?coding[:=]")


@dataclass(frozen=True)
class Suppression:
    """One comment that silences findings, or a part of one.

    `codes` are those it names, foreign ones too; none: it silences every rule. `start` and `end`
    are its place in the text in characters, `span` that of its codes. It stands on line `row`; the
    statement before it, if there is one, begins at line `statement`. It covers what begins on one
    of `lines`, and what of that statement ends on `row`; `lines` None: the whole file. `ours`:
    nobody but ampconvert reads it.
    """

    codes: tuple[str, ...]
    start: int
    end: int
    span: tuple[int, int]
    row: int
    statement: int
    lines: range | None
    ours: bool

    def covers(self, found: Finding) -> bool:
        """Whether `found` is at a place for which this comment stands, whatever its rule."""
        if self.lines is None or found.where.line in self.lines:
            return True
        return found.where.end_line == self.row and found.where.line >= self.statement

    def silences(self, found: Finding) -> bool:
        """Whether `found` is not to be reported."""
        if found.code == UNUSED:
            return UNUSED in self.codes and self.covers(found)
        named = not self.codes or any(found.code.startswith(code) for code in self.codes)
        return named and self.covers(found)


def kept(text: str, findings: Iterable[Finding]) -> list[Finding]:
    """The findings that no comment in `text` silences.

    Those that share their fix with a silenced one lose it: it would change the silenced place too.
    """
    given = list(findings)
    comments = suppressions(text) if given else ()
    silenced = {f for f in given if any(comment.silences(f) for comment in comments)}
    held = {f.fix for f in silenced} - {None}
    return [replace(f, fix=None) if f.fix in held else f for f in given if f not in silenced]


@lru_cache(maxsize=2)  # of one text, whoever asks
def suppressions(text: str) -> tuple[Suppression, ...]:
    """The comments in `text` that silence findings, in its order. Strings are no comments.

    A comment on the first or last line of a statement stands for all of it, one on a line between
    for that line. On a line of its own `ampconvert: ignore` stands for what comes next, up to the
    colon of a compound statement, with its decorators; `ampconvert: noqa` for the file.
    """
    if not _COMMENT.search(text):
        return ()
    return tuple(_found(_Lines(text)))


def without(text: str, comment: Suppression, codes: Iterable[str]) -> Edit:
    """The edit that takes `codes` out of a comment, and the comment where none is left."""
    gone = set(codes)
    left = [code for code in comment.codes if code not in gone]
    if left:
        return _edit(text, *comment.span, ", ".join(left))
    return _removed(text, comment)


class _Lines:
    """A text's physical and logical lines, and its comments, as far as it can be split."""

    def __init__(self, text: str) -> None:
        self.physical = _LINE.findall(text)
        self.starts = [0]
        for line in self.physical:
            self.starts.append(self.starts[-1] + len(line))
        self.comments: list[_Token] = []
        self.firsts: list[int] = []  # of logical lines: the first physical one, the last, the text
        self.lasts: list[int] = []
        self.words: list[str] = []
        self._read(text)

    def logical(self, row: int) -> tuple[int, int] | None:
        """First and last physical line of the statement or header that holds line `row`."""
        at = bisect_right(self.firsts, row) - 1
        return (self.firsts[at], self.lasts[at]) if at >= 0 and row <= self.lasts[at] else None

    def next_logical(self, row: int) -> range:
        """The lines of what follows line `row`, from the first decorator to the header."""
        at = first = bisect_left(self.firsts, row)
        if at == len(self.firsts):
            return range(row, row + 1)
        while self.words[at] == "@" and at + 1 < len(self.words):
            at += 1
        return range(self.firsts[first], self.lasts[at] + 1)

    def next_code(self, row: int, last: int) -> range:
        """The first line after `row`, inside brackets, that is more than a comment."""
        for number in range(row + 1, last + 1):
            if self.physical[number - 1].strip() and number not in self._own:
                return range(number, number + 1)
        return range(row, row + 1)

    def stands_alone(self, token: _Token) -> bool:
        """Whether a comment has its line to itself."""
        return not self.physical[token.row - 1][: token.column].strip()

    def _read(self, text: str) -> None:
        first = 0
        word = ""
        for token in _tokens(self.physical):
            if token.type == tokenize.COMMENT:
                self.comments.append(_Token(token.string, *token.start))
            elif token.type == tokenize.NEWLINE:
                if first:
                    self._add(first, token.start[0], word)
                first = 0
            elif token.type not in _NO_CODE and not first:
                first, word = token.start[0], token.string
        if first:
            self._add(first, len(self.physical), word)
        self._own = {token.row for token in self.comments if self.stands_alone(token)}

    def _add(self, first: int, last: int, word: str) -> None:
        self.firsts.append(first)
        self.lasts.append(last)
        self.words.append(word)


@dataclass(frozen=True)
class _Token:
    """A comment's text, its line from 1 and its column in characters from 0."""

    text: str
    row: int
    column: int
    length: int = field(default=0, compare=False)


_NO_CODE = (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)


def _tokens(lines: list[str]) -> Iterator[tokenize.TokenInfo]:
    """Tokens up to the first that can't be read."""
    # The tokenizer knows no lone carriage return; a line feed takes as much room.
    plain = (line[:-1] + "\n" if line.endswith("\r") else line for line in lines)
    try:
        yield from tokenize.generate_tokens(lambda: next(plain, ""))
    except (tokenize.TokenError, SyntaxError):
        return


def _found(lines: _Lines) -> Iterator[Suppression]:
    for token in lines.comments:
        for match in _COMMENT.finditer(token.text):
            has_list = match["colon"] is not None or match["brackets"] is not None
            codes = match["codes"] or match["within"]
            if codes is None and has_list:
                continue  # a colon and no code after it: nothing is silenced
            group = "codes" if match["codes"] else "within"
            at = lines.starts[token.row - 1] + token.column
            begins, covered = _covered(lines, token, match)
            yield Suppression(
                tuple(re.findall(_CODE, codes or "")),
                at + match.start(),
                at + match.end(),
                (at + match.start(group), at + match.end(group)) if codes else (0, 0),
                token.row,
                begins,
                covered,
                ours=bool(match["file"] or match["ignore"]),
            )


def _covered(lines: _Lines, token: _Token, match: re.Match[str]) -> tuple[int, range | None]:
    """Where the statement that a comment follows begins, and the lines for which it stands."""
    row = token.row
    around = lines.logical(row)
    if lines.stands_alone(token):
        if match["file"]:
            return row + 1, None
        if match["ignore"]:
            return row + 1, lines.next_code(row, around[1]) if around else lines.next_logical(row)
        return row + 1, range(row, row + 1)
    if around is None:
        return row, range(row, row + 1)
    first, last = around
    return first, range(first, last + 1) if row in around else range(row, row + 1)


def _removed(text: str, comment: Suppression) -> Edit:
    """The comment cut out, with the space before it, and with its line if nothing else is there."""
    start_of_line = max(text.rfind("\n", 0, comment.start), text.rfind("\r", 0, comment.start)) + 1
    ends = [at for at in (text.find("\n", comment.end), text.find("\r", comment.end)) if at >= 0]
    end_of_line = min(ends, default=len(text))
    before = text[start_of_line : comment.start]
    after = text[comment.end : end_of_line].strip()
    if after:
        space = "" if after.startswith("#") else "# "
        after = space + after.lstrip(",;:-. \t") if space else after
        return _edit(text, comment.start, end_of_line, after)
    if before.strip():
        return _edit(text, start_of_line + len(before.rstrip()), end_of_line, "")
    if _moves_coding(text, start_of_line):
        return _edit(text, comment.start, end_of_line, "")
    past = re.compile(r"\r\n|\r|\n|$").match(text, end_of_line)
    return _edit(text, start_of_line, past.end() if past else end_of_line, "")


def _moves_coding(text: str, start_of_line: int) -> bool:
    """Whether a comment that names an encoding would come to stand where it counts."""
    lines = _LINE.findall(text[:4096])[:3]
    above = sum(len(line) for line in lines[:2])
    return start_of_line < above and len(lines) > 2 and bool(_CODING.match(lines[2]))


def _edit(text: str, start: int, end: int, new: str) -> Edit:
    def offset(at: int) -> int:
        return len(text[:at].encode("utf-8", "surrogatepass"))

    return Edit(offset(start), offset(end), new)
