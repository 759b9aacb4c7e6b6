"""Temporary names of files that are being written, and what killed runs left under such names."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

_LEFT_OVER = 600  # seconds without a write, after which a file of a process that is gone is swept


def part_of(path: Path) -> Path:
    """Where this process writes what is to become `path`: model.onnx.4711.part beside it.

    Two runs that write the same file do not share it. One that is killed by SIGKILL leaves it
    behind: it is never read, and `sweep` removes it.
    """
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def sweep(path: Path) -> None:
    """Remove what killed runs left of `path`: their process is gone, and nothing was written for
    ten minutes, since a process on another machine may write into the same folder.
    """
    name = re.compile(re.escape(path.name) + r"\.([0-9]+)\.part")
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            found = name.fullmatch(entry.name)
            if found is None or _runs(int(found[1])):
                continue
            with contextlib.suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LEFT_OVER:
                    os.unlink(entry.path)


@contextlib.contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """An OSError of what happens inside names `path`, and not the temporary file or none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(".part"):
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _runs(process: int) -> bool:
    if os.name == "nt":  # there os.kill ends the process; age alone has to tell
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True
