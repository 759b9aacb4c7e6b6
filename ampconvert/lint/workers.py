"""Linting in several processes."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

# Also imported for the processes that are forked from this one: they find the rules loaded.
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.files import File
from ampconvert.lint.linting import How, Linted, lint_all
from ampconvert.lint.results import FileReport

_FILES_AT_ONCE = 24

Numbered = tuple[int, File]


def lint_in_processes(
    files: Sequence[Numbered], how: How, jobs: int
) -> Iterator[tuple[int, Linted]]:
    """Lint numbered files in up to `jobs` processes, in the order in which they get done.

    A file that makes its process die is reported as such, and the others are linted all the same.
    """
    chunks = [files[at : at + _FILES_AT_ONCE] for at in range(0, len(files), _FILES_AT_ONCE)]
    undone: list[Sequence[Numbered]] = []
    with _pool(min(jobs, len(chunks))) as pool:
        futures = {pool.submit(_work, chunk, how): chunk for chunk in chunks}
        try:
            for future in as_completed(futures):
                try:
                    yield from future.result()
                except BrokenProcessPool:
                    undone.append(futures[future])
        finally:
            _cancel(futures)
    for chunk in undone:
        yield from _again(chunk, how)


def _work(files: Sequence[Numbered], how: How) -> list[tuple[int, Linted]]:
    numbers = [number for number, _ in files]
    return list(zip(numbers, lint_all([file for _, file in files], how), strict=True))


def _again(files: Sequence[Numbered], how: How) -> list[tuple[int, Linted]]:
    """Files in a process of their own, and if that dies each in one of its own."""
    with _pool(1) as pool:
        try:
            return pool.submit(_work, files, how).result()
        except BrokenProcessPool:
            if len(files) > 1:
                return [done for one in files for done in _again([one], how)]
    number, file = files[0]
    bug = f"the process that checked {file.path} died"
    return [(number, Linted(FileReport(file.path, bugs=(bug,)), file))]


def _pool(jobs: int) -> ProcessPoolExecutor:
    all_rules()
    # Forking costs a few milliseconds. A thread that draws progress may hold a lock at that moment:
    # it is none that these processes ask for.
    method = "fork" if sys.platform == "linux" else None
    context = multiprocessing.get_context(method)
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin)


def _begin() -> None:
    # Ctrl-C reaches the whole group; the first process ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # the rules will not go away


def _cancel(futures: dict[Future[list[tuple[int, Linted]]], Sequence[Numbered]]) -> None:
    """Let no more work begin: what has begun ends soon."""
    for future in futures:
        future.cancel()
