"""One file, from its bytes to what is found in it, and back to bytes with the fixes made."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from ampconvert.findings import Finding
from ampconvert.lint import engine
from ampconvert.lint.cache import digest
from ampconvert.lint.catalogue import selected
from ampconvert.lint.config import Config, begins
from ampconvert.lint.files import NOTEBOOK, ChangedError, File, decoded, encoded, write
from ampconvert.lint.notebooks import Notebook, named
from ampconvert.lint.parsing import UNREADABLE, parses
from ampconvert.lint.results import Change, FileReport
from ampconvert.lint.rule import Rule
from ampconvert.lint.suppressions import UNUSED, kept

_COLLECTED_AFTER = 20_000_000  # bytes of sources


@dataclass(frozen=True)
class How:
    """What to do about findings: `fix` them, the `unsafe` ones too, and `write` the files."""

    fix: bool = False
    unsafe: bool = False
    write: bool = True


class Linted(NamedTuple):
    """A file's report, and the file as it lies there now; `content` is the digest of what the
    findings are of, "" if they are not to be remembered.
    """

    report: FileReport
    file: File
    content: str = ""


class _TooLargeError(ValueError):
    """A file is larger than the configuration allows."""


def lint_all(files: Iterable[File], how: How) -> Iterator[Linted]:
    """Lint files one after the other. Collecting garbage is put off: a tree goes without it, and
    the collector would walk each several times while it grows.
    """
    was_on = gc.isenabled()
    gc.disable()
    since = 0
    try:
        for file in files:
            yield lint(file, how)
            since += file.size
            if since > _COLLECTED_AFTER:
                gc.collect()
                since = 0
    finally:
        if was_on:
            gc.enable()


def lint(file: File, how: How, given: bytes | None = None) -> Linted:
    """Lint one file, or `given` in its place. Whatever goes wrong is in the report."""
    try:
        return _linted(file, how, given)
    except Exception as error:
        bug = _told(f"checking {file.path} failed", error)
        return Linted(FileReport(file.path, bugs=(bug,), given=given), file)


def _linted(file: File, how: How, given: bytes | None) -> Linted:
    rules = _rules_of(file)
    try:
        if file.error is not None:
            raise file.error
        data = _read(file) if given is None else given
    except OSError as error:
        unread = engine.unread(rules, file.path, "", error)
        return Linted(FileReport(file.path, tuple(unread)), file)
    work = _notebook if file.path.endswith(NOTEBOOK) else _module
    bugs: dict[str, str] = {}
    while True:
        try:
            good = [rule for rule in rules if rule.CODE not in bugs]
            done = work(file, how, data, good)
            break
        except engine.RuleError as error:
            # Unknown to `rules`: one that the rule on suppressions runs.
            code = error.code if error.code not in bugs else UNUSED
            bugs[code] = _told(str(error), error.__cause__ or error)
    return _written(file, how, data, given, done, tuple(dict.fromkeys(bugs.values())))


@dataclass(frozen=True)
class _Done:
    """What is left, what was made, what changed, and the new bytes; None: the old ones."""

    left: Sequence[Finding] = ()
    made: Sequence[Finding] = ()
    changes: tuple[Change, ...] = ()
    after: str | None = None
    data: bytes | None = None


def _module(file: File, how: How, data: bytes, rules: Sequence[Rule]) -> _Done:
    """The work on a Python file."""
    config, path = file.config, file.path
    asked = engine.concerned(rules, data, config.settings)
    if not asked:
        return _Done()
    text = ""
    try:
        _check_size(len(data), config)
        text, encoding = decoded(data)
    except UNREADABLE as error:
        return _Done(engine.unread(asked, path, text, error))
    if not how.fix:
        return _Done(_checked(text, asked, file))
    fixed = _fixed(text, rules, file, how)
    if fixed.text == text:
        return _Done(fixed.left)
    try:
        new = encoded(fixed.text, encoding)
        same = encoded(text, encoding) == data
    except UnicodeEncodeError:
        same = False
    if not same:  # an encoding with several spellings of one text, or without a fix's characters
        return _Done(_checked(text, asked, file))
    return _Done(fixed.left, fixed.made, (Change(path, text, fixed.text),), fixed.text, new)


def _notebook(file: File, how: How, data: bytes, rules: Sequence[Rule]) -> _Done:
    """The work on a notebook."""
    config, path = file.config, file.path
    try:
        notebook = Notebook(data)
        text = notebook.text.encode("utf-8", "surrogatepass")
        asked = engine.concerned(rules, text, config.settings)
        if asked:
            _check_size(len(text), config)
    except UNREADABLE as error:
        asked = engine.concerned(rules, data, config.settings)
        return _Done(engine.unread(asked, path, "", error))
    if not asked:
        return _Done()
    broken = _broken(notebook, file, rules)
    if how.fix:
        fixed = _fixed(notebook.text, rules, file, how)
        sources = notebook.sources(fixed.text)
        if fixed.made and sources is not None:
            return _changed(notebook, sources, fixed.made, file, rules)
    found = _checked(notebook.text, asked, file)
    return _Done([*broken, *notebook.located(path, found)])


def _changed(
    notebook: Notebook,
    sources: dict[int, str],
    made: Sequence[Finding],
    file: File,
    rules: Sequence[Rule],
) -> _Done:
    """What is left in a notebook that got these sources."""
    changes = tuple(
        Change(named(file.path, cell.number), cell.source, sources[cell.number])
        for cell in notebook.cells
        if sources[cell.number] != cell.source
    )
    data = notebook.rewritten(sources)
    new = Notebook(data)
    broken = _broken(new, file, rules)
    left = new.located(file.path, _checked(new.text, rules, file))
    made = notebook.located(file.path, made)
    return _Done([*broken, *left], made, changes, decoded(data)[0], data)


def _broken(notebook: Notebook, file: File, rules: Sequence[Rule]) -> list[Finding]:
    """What is to say of the cells that can't be parsed; the others are checked without them."""
    if parses(notebook.text):
        return []
    return [
        found
        for error, path, source in notebook.broken(file.path)
        for found in kept(source, engine.unread(rules, path, source, error))
    ]


def _written(
    file: File, how: How, data: bytes, given: bytes | None, done: _Done, bugs: tuple[str, ...]
) -> Linted:
    """The report, after the new content was written if there is one and that is wanted."""
    unwritten = ""
    content = "" if bugs or given is not None else digest(data)
    if done.data is not None and how.write and given is None:
        try:
            write(file.absolute, data, done.data)
            stat = os.stat(file.absolute)
            file = file._replace(size=stat.st_size, mtime=stat.st_mtime_ns)
            content = "" if bugs else digest(done.data)
        except ChangedError:
            unwritten = f"{file.path}: changed while it was checked; run again to fix it"
        except OSError as error:
            unwritten = f"{file.path}: could not be written: {error.strerror}"
    if unwritten or (done.data is not None and not how.write):
        content = ""
    left, made = tuple(done.left), tuple(done.made)
    report = FileReport(file.path, left, made, done.changes, done.after, bugs, unwritten, given)
    return Linted(report, file, content)


def _checked(text: str, rules: Sequence[Rule], file: File) -> list[Finding]:
    config = file.config
    found = engine.check(text, rules, file.path, config.settings)
    return [config.allowed(one) for one in found]


def _fixed(text: str, rules: Sequence[Rule], file: File, how: How) -> engine.Fixed:
    config = file.config
    return engine.fix(
        text, rules, file.path, config.settings, unsafe=how.unsafe, allowed=config.allowed
    )


def _told(what: str, error: BaseException) -> str:
    """What failed, how and where: one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{what}: {type(error).__name__}: {error}{place}"


def _rules_of(file: File) -> tuple[Rule, ...]:
    config = file.config
    ignored = config.ignored_in(file.absolute)
    return _selected(config.select, config.ignore, config.extend_select, ignored)


@cache
def _selected(
    select: tuple[str, ...] | None,
    ignore: tuple[str, ...],
    extend: tuple[str, ...],
    ignored: tuple[str, ...],
) -> tuple[Rule, ...]:
    found = selected(select, ignore, extend)
    return tuple(rule for rule in found if not begins(rule.CODE, ignored))


def _check_size(size: int, config: Config) -> None:
    if size > config.max_file_size:
        raise _TooLargeError(
            f"it has {size:,} bytes, more than max-file-size ({config.max_file_size:,})"
        )


def _read(file: File) -> bytes:
    with open(file.absolute, "rb") as opened:
        return opened.read()
