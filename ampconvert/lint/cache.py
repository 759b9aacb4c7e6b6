"""What was found in files that have not changed since.

A folder `.ampconvert_cache` beside the pyproject.toml that configures a file, or in the working
directory, holds one file: a line for the version of the rules, then one line per configuration.
Whatever is wrong with it, it is as if it were not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

from ampconvert.findings import Edit, Finding, Fix, Location
from ampconvert.lint.config import Config
from ampconvert.lint.files import File

FOLDER = ".ampconvert_cache"
_NAME = "findings"
_FORMAT = 1
_MOST_SECTIONS = 8  # configurations remembered
_RACY = 2_000_000_000  # nanoseconds in which a file may change twice and look the same
_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This folder is a cache of ampconvert lint, and may be removed at any time.\n"
    "# About this file: https://bford.info/cachedir/\n"
)

# Size, time of change in nanoseconds, digest of the content, findings.
_Entry = list[Any]


class Caches:
    """The caches of all projects of a run. Off, they know nothing and keep nothing."""

    def __init__(self, *, on: bool = True) -> None:
        self._on = on
        self._known: dict[str, _Cache] = {}

    def knows(self, config: Config) -> bool:
        """Whether files were checked under this configuration, by these rules."""
        return self._on and self._of(config).has(config.key)

    def found(self, file: File) -> tuple[Finding, ...] | None:
        """What was found in `file` when it had the content that it has; None if that is unknown."""
        return self._of(file.config).found(file) if self._on else None

    def keep(self, file: File, findings: Iterable[Finding], content: str) -> None:
        """Remember the findings in a file whose content has the digest `content`."""
        if self._on:
            self._of(file.config).keep(file, findings, content)

    def save(self) -> None:
        """Write what is new; what can't be written is not cached."""
        for one in self._known.values():
            with contextlib.suppress(OSError):
                one.save()

    def _of(self, config: Config) -> _Cache:
        folder = config.root if config.file else os.getcwd()
        found = self._known.get(folder)
        if found is None:
            found = self._known[folder] = _Cache(folder)
        return found


def digest(data: bytes) -> str:
    """A name for this content."""
    return hashlib.sha256(data).hexdigest()[:32]


class _Cache:
    """The cache of one project."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folder = os.path.join(root, FOLDER)
        # Sections by key: as they were read, until they are needed.
        self._raw: dict[str, bytes] = {}
        self._sections: dict[str, dict[str, _Entry]] = {}
        self._used: dict[str, None] = {}
        self._changed = False
        self._read()

    def has(self, key: str) -> bool:
        name = _short(key)
        return name in self._raw or name in self._sections

    def found(self, file: File) -> tuple[Finding, ...] | None:
        entry = self._section(file.config.key).get(self._name(file))
        try:
            if entry is None:
                return None
            size, mtime, content, findings = entry
            if size != file.size or mtime != file.mtime:
                with open(file.absolute, "rb") as opened:
                    if digest(opened.read()) != content:
                        return None
                self._put(file, content, findings)
            return tuple(_finding(file.path, one) for one in findings) if findings else ()
        except (OSError, ValueError, TypeError):
            return None

    def keep(self, file: File, findings: Iterable[Finding], content: str) -> None:
        self._put(file, content, [_jsonable(file.path, found) for found in findings])

    def save(self) -> None:
        if not self._changed:
            return
        lines = [_header()]
        order = [*self._used, *(name for name in self._raw if name not in self._used)]
        for name in order[:_MOST_SECTIONS]:
            section = self._sections.get(name)
            data = self._raw[name] if section is None else _dumped(self._present(section))
            lines.append(name.encode() + b" " + data)
        self._make_folder()
        part = os.path.join(self._folder, f"{_NAME}.{os.getpid()}.part")
        try:
            with open(part, "wb") as opened:
                opened.write(b"\n".join(lines) + b"\n")
            os.replace(part, os.path.join(self._folder, _NAME))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(part)
            raise

    def _read(self) -> None:
        try:
            with open(os.path.join(self._folder, _NAME), "rb") as opened:
                first, *lines = opened.read().split(b"\n")
        except OSError:
            return
        if first == _header():
            for line in lines:
                name, _, data = line.partition(b" ")
                if data:
                    self._raw[name.decode("ascii", "replace")] = data

    def _section(self, key: str) -> dict[str, _Entry]:
        name = _short(key)
        found = self._sections.get(name)
        if found is None:
            try:
                found = json.loads(self._raw.get(name, b"{}"))
            except (ValueError, RecursionError):
                found = {}
            self._sections[name] = found = found if isinstance(found, dict) else {}
            self._used[name] = None
        return found

    def _put(self, file: File, content: str, findings: list[Any]) -> None:
        racy = time.time_ns() - file.mtime < _RACY
        entry = [file.size, 0 if racy else file.mtime, content, findings]
        self._section(file.config.key)[self._name(file)] = entry
        self._changed = True

    def _name(self, file: File) -> str:
        """The file's path in the project, so that the project may be moved."""
        inside = file.absolute.startswith(self._root + os.sep)
        return file.absolute[len(self._root) + 1 :] if inside else file.absolute

    def _present(self, section: dict[str, _Entry]) -> dict[str, _Entry]:
        """The entries of files that are still there."""
        return {
            name: entry
            for name, entry in section.items()
            if os.path.exists(os.path.join(self._root, name))
        }

    def _make_folder(self) -> None:
        if os.path.isdir(self._folder):
            return
        os.mkdir(self._folder)
        for name, text in {".gitignore": "*\n", "CACHEDIR.TAG": _TAG}.items():
            with open(os.path.join(self._folder, name), "w", encoding="utf-8") as opened:
                opened.write(text)


@cache
def _header() -> bytes:
    """What all entries depend on: the code of the rules and of what they stand on, and Python."""
    package = os.path.dirname(os.path.abspath(__file__))
    told = hashlib.sha256(f"{_FORMAT} {sys.version_info[:3]} ".encode())
    files = [
        os.path.join(os.path.dirname(package), name) for name in ("__init__.py", "findings.py")
    ]
    for folder, names in ((package, (".py",)), (os.path.join(package, "rules"), (".py",)),
                          (os.path.join(package, "data"), (".toml",))):  # fmt: skip
        with os.scandir(folder) as entries:
            files += [entry.path for entry in entries if entry.name.endswith(names)]
    for file in sorted(files):
        with open(file, "rb") as opened:
            data = opened.read()
        told.update(f"{os.path.basename(file)} {len(data)} ".encode() + data)
    return f"ampconvert lint {told.hexdigest()}".encode()


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _dumped(section: dict[str, _Entry]) -> bytes:
    return json.dumps(section, separators=(",", ":")).encode("ascii")


def _jsonable(path: str, found: Finding) -> list[Any]:
    """A finding without its file's path, which depends on how the file was named."""
    where, fix = found.where, found.fix
    return [
        found.code, found.name, found.severity, found.message, found.advice,
        where.path.removeprefix(path), where.line, where.column, where.end_line, where.end_column,
        fix and [fix.message, fix.safe, [[e.start, e.end, e.text] for e in fix.edits]],
    ]  # fmt: skip


def _finding(path: str, given: list[Any]) -> Finding:
    code, name, severity, message, advice, cell, line, column, end_line, end_column, fix = given
    where = Location("", "", "", path + cell, line, column, end_line, end_column)
    made = None
    if fix is not None:
        told, safe, edits = fix
        made = Fix(told, tuple(Edit(*edit) for edit in edits), safe)
    return Finding(code, message, where, severity, advice, "", name, fix=made)
