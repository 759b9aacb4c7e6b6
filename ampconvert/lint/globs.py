"""Patterns of files and folders, as the configuration names them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache

from ampconvert.errors import UserError


class Globs:
    """Patterns below one folder. "*" stands for any text, "/" included; "?" for one character,
    "[ab]" for one of these, "{a,b}" for one of these texts, "**/" for any folders or none.

    A pattern fits a file or folder by its name alone ("*_pb2.py", "build") or by its path below
    `root` ("tests/data"). What fits a folder holds for all that is in it. UserError if a pattern
    is none.
    """

    def __init__(self, root: str, patterns: Iterable[str]) -> None:
        self._root = _plain(root).rstrip("/") + "/"
        given = [_plain(pattern).rstrip("/") for pattern in patterns if pattern]
        self._name = _any(pattern for pattern in given if "/" not in pattern)
        self._path = _any(given)

    def fits(self, path: str) -> bool:
        """Whether the file or folder at the absolute `path` is meant by itself."""
        if self._path is None:
            return False
        path = _plain(path)
        if self._name is not None and self._name.fullmatch(path, path.rfind("/") + 1):
            return True
        return self._below(path)

    def holds(self, path: str) -> bool:
        """Whether the absolute `path`, or a folder around it up to the root, is meant."""
        path = _plain(path)
        while True:
            if self.fits(path):
                return True
            path, _, name = path.rpartition("/")
            if not name or len(path) < len(self._root):
                return False

    def _below(self, path: str) -> bool:
        if self._path is None:
            return False
        inside = path.startswith(self._root)
        return bool(
            (inside and self._path.fullmatch(path, len(self._root))) or self._path.fullmatch(path)
        )


def _any(patterns: Iterable[str]) -> re.Pattern[str] | None:
    """One expression for all of `patterns`; None if there is none."""
    parts = []
    for pattern in patterns:
        parts.append(_expression(pattern))
        try:
            re.compile(parts[-1])
        except re.error as error:
            raise UserError(f"{pattern!r} is no pattern of files: {error}") from error
    return re.compile("|".join(parts), re.DOTALL) if parts else None


_PARTS = re.compile(r"\*\*/|\*+|\?|\[!?\]?[^\]]*\]|\{[^{}]*\}|.", re.DOTALL)


@lru_cache(maxsize=256)
def _expression(pattern: str) -> str:
    made = []
    for part in _PARTS.findall(pattern.removeprefix("./")):
        if part == "**/":
            made.append("(?:.*/)?")
        elif part[0] == "*":
            made.append(".*")
        elif part == "?":
            made.append(".")
        elif part[0] == "[" and len(part) > 2:
            inside = re.sub(r"([\\\[&~|])", r"\\\1", part[1:-1])
            made.append(f"[{'^' + inside[1:] if inside[0] == '!' else inside}]")
        elif part[0] == "{" and len(part) > 1:
            made.append(f"(?:{'|'.join(map(_expression, part[1:-1].split(',')))})")
        else:
            made.append(re.escape(part))
    return "".join(made)


def _plain(path: str) -> str:
    """With slashes, whatever the system writes."""
    return path.replace(os.sep, "/") if os.sep != "/" else path
