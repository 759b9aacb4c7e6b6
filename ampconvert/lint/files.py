"""Which files are looked at, how their text is read, and how it is written back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ampconvert.errors import UserError
from ampconvert.lint.config import Config, Configs

SOURCES = (".py", ".pyi", ".ipynb")
NOTEBOOK = ".ipynb"
_BOM = b"\xef\xbb\xbf"


class File(NamedTuple):
    """A file to look at: its path as it is shown, the absolute one, and its configuration.

    `size` and `mtime` (nanoseconds) are those of its content. `error` says why a folder could not
    be listed; there is no file then.
    """

    path: str
    absolute: str
    config: Config
    size: int
    mtime: int
    error: OSError | None = None


class ChangedError(Exception):
    """A file no longer holds what was read from it."""


def discover(paths: Iterable[str], configs: Configs) -> list[File]:
    """The files named by `paths` and the sources in the folders among them, each once, by path.

    A file that is named is taken whatever it is called, and even if it is excluded, unless the
    configuration says force-exclude. Folders reached through symbolic links are not entered: what
    they hold is found where it lies, and no link leads in circles. What git ignores is not left
    out: only git knows all that makes a file ignored. UserError where there is no such path.
    """
    found: dict[str, File] = {}
    links: list[str] = []
    for path in paths:
        for file, is_link in _below(path, configs):
            if file.absolute not in found:
                found[file.absolute] = file
                if is_link:
                    links.append(file.absolute)
    for link in links:
        if os.path.realpath(link) in found:
            del found[link]
    return sorted(found.values(), key=lambda file: file.path)


def decoded(data: bytes) -> tuple[str, str]:
    """The text in a source's bytes and its encoding; line ends stay as they are.

    Raises SyntaxError for an encoding that does not exist and UnicodeDecodeError for bytes that it
    has no characters for.
    """
    encoding = "utf-8"
    second = data.find(b"\n", data.find(b"\n") + 1)
    if data.startswith(_BOM) or b"coding" in (data if second < 0 else data[:second]):
        encoding = _declared(data)
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        raise
    except (LookupError, UnicodeError) as error:
        raise SyntaxError(f"{encoding} is no encoding of text") from error


def encoded(text: str, encoding: str) -> bytes:
    """`text` as `decoded` read it. Raises UnicodeEncodeError."""
    return text.encode(encoding)


def write(path: str, old: bytes, new: bytes) -> None:
    """Put `new` in the place of `old` in one step; the file keeps its mode, and links stay links.

    Raises ChangedError if the file holds something else than `old`, and OSError.
    """
    real = os.path.realpath(path)
    part = f"{real}.{os.getpid()}.part"
    try:
        with open(part, "xb") as opened:
            opened.write(new)
        _copy_rights(real, part)
        with open(real, "rb") as opened:
            if opened.read() != old:
                raise ChangedError(path)
        os.replace(part, real)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _below(path: str, configs: Configs) -> Iterator[tuple[File, bool]]:
    """The files that `path` names, and whether each is a symbolic link found in a folder."""
    absolute = os.path.abspath(path)
    shown = os.path.normpath(path)
    try:
        stat = os.stat(absolute)
    except (OSError, ValueError) as error:
        reason = "there is no such file or folder"
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            reason = str(error.strerror)
        raise UserError(f"{path}: {reason}") from error
    if os.path.isdir(absolute):
        yield from _walk(absolute, "" if shown == "." else shown, configs)
        return
    config = configs.of(os.path.dirname(absolute))
    if not (config.force_exclude and config.excluded.holds(absolute)):
        yield File(shown, absolute, config, stat.st_size, stat.st_mtime_ns), False


def _walk(absolute: str, shown: str, configs: Configs) -> Iterator[tuple[File, bool]]:
    stack = [(absolute, shown, configs.of(absolute))]
    while stack:
        folder, prefix, around = stack.pop()
        try:
            with os.scandir(folder) as scanned:
                entries = {entry.name: entry for entry in scanned}
        except OSError as error:
            yield File(prefix or ".", folder, around, 0, 0, error), False
            continue
        config = configs.enter(folder, around, entries)
        for name, entry in entries.items():
            path = os.path.join(folder, name)
            is_source = name.endswith(SOURCES)
            try:
                is_folder = entry.is_dir(follow_symlinks=False)
                if not (is_folder or (is_source and entry.is_file())):
                    continue
                if config.excluded.fits(path):
                    continue
                below = os.path.join(prefix, name)
                if is_folder:
                    stack.append((path, below, config))
                    continue
                stat = entry.stat()
            except OSError:
                continue  # gone since the folder was listed
            file = File(below, path, config, stat.st_size, stat.st_mtime_ns)
            yield file, entry.is_symlink()


def _declared(data: bytes) -> str:
    """The encoding that a byte order mark or a comment in the first two lines declares."""
    import io
    import tokenize

    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return tokenize.detect_encoding(io.BytesIO(lines).readline)[0]


def _copy_rights(source: str, target: str) -> None:
    """Give `target` the mode, and as far as that is allowed the owner, of `source`."""
    stat = os.stat(source)
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):
            os.chown(target, stat.st_uid, stat.st_gid)
    os.chmod(target, stat.st_mode & 0o7777)
