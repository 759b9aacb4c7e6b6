"""Lints files and folders: what the command line and Python callers ask for.

Modules that rules need are imported when the first file has to be read: where all files are as
the cache remembers them, none is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ampconvert.findings import Finding
from ampconvert.lint.cache import Caches
from ampconvert.lint.config import Config, Configs, Overrides, check_codes
from ampconvert.lint.files import File, discover
from ampconvert.lint.results import Change, FileReport, Report

if TYPE_CHECKING:
    from ampconvert.lint.linting import How

__all__ = ["Change", "FileReport", "Options", "Report", "run"]

# Files done, and files in all.
Progress = Callable[[int, int], object]

_MOST_IN_ONE_PROCESS = 150  # files: more processes take longer to start than these to read
_STDIN = "<stdin>"


@dataclass(frozen=True)
class Options:
    """What to lint and what to do about it.

    `select` None leaves that to the configuration. `torch` ("2.4") and `assume` ("autocast",
    "cpu-autocast", "half") stand over it as well. `force_exclude` leaves out excluded files that
    are named too. `fix` makes safe fixes, with `unsafe` the others
    too; `write` False only tells what they would change. With `stdin` that is linted instead of
    `paths`, as if it lay at `stdin_filename`, and never written. `jobs` None: one per core.
    """

    paths: tuple[str, ...] = (".",)
    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    torch: str | None = None
    assume: str | None = None
    force_exclude: bool = False
    fix: bool = False
    unsafe: bool = False
    write: bool = True
    stdin: bytes | None = None
    stdin_filename: str | None = None
    jobs: int | None = None
    cache: bool = True


def run(options: Options, progress: Progress | None = None) -> Report:
    """Lint what `options` name; `progress` is told of files that the cache did not know.

    UserError for a path that does not exist and for a configuration that is wrong.
    """
    overrides = Overrides(
        options.select, options.extend_select, options.ignore, options.torch, options.assume,
        options.force_exclude,
    )  # fmt: skip
    configs = Configs(overrides)
    if options.stdin is not None:
        return _stdin(options.stdin, options, overrides, configs)
    files = discover(options.paths, configs)
    caches = Caches(on=options.cache)
    _check(overrides, configs.used, caches)
    done: dict[int, FileReport] = {}
    left: list[int] = []
    for number, file in enumerate(files):
        known = caches.found(file)
        if known is None or (options.fix and _is_fixable(known, options.unsafe)):
            left.append(number)
        elif known:
            done[number] = FileReport(file.path, known)
    try:
        _lint([(number, files[number]) for number in left], options, progress, done, caches)
    finally:
        caches.save()
    return Report(tuple(done[number] for number in sorted(done)), len(files))


def _stdin(data: bytes, options: Options, overrides: Overrides, configs: Configs) -> Report:
    from ampconvert.lint.linting import lint

    path = options.stdin_filename or _STDIN
    absolute = os.path.abspath(path)
    config = configs.of(os.path.dirname(absolute))
    _check(overrides, [config], Caches(on=False))
    if config.force_exclude and config.excluded.holds(absolute):
        return Report((), 0)
    report = lint(File(path, absolute, config, len(data), 0), _how(options), data).report
    return Report((report,) if report.matters else (), 1)


def _check(overrides: Overrides, configs: Sequence[Config], caches: Caches) -> None:
    """UserError for a code that no rule has; configurations that were used before name none."""
    if all(caches.knows(config) for config in configs):
        return
    from ampconvert.lint.catalogue import all_rules

    named = [pair for config in configs for pair in config.codes()]
    check_codes([*overrides.codes(), *named], [rule.CODE for rule in all_rules()])


def _lint(
    files: Sequence[tuple[int, File]],
    options: Options,
    progress: Progress | None,
    done: dict[int, FileReport],
    caches: Caches,
) -> None:
    """Lint files, put the reports that matter into `done`, and the findings into the caches."""
    if not files:
        return
    jobs = options.jobs or _cores()
    how = _how(options)
    if jobs > 1 and len(files) > _MOST_IN_ONE_PROCESS:
        from ampconvert.lint.workers import lint_in_processes

        made = lint_in_processes(files, how, jobs)
    else:
        from ampconvert.lint.linting import lint_all

        numbers = [number for number, _ in files]
        made = zip(numbers, lint_all([file for _, file in files], how), strict=True)
    for count, (number, linted) in enumerate(made, 1):
        if linted.report.matters:
            done[number] = linted.report
        if linted.content:
            caches.keep(linted.file, linted.report.findings, linted.content)
        if progress is not None:
            progress(count, len(files))


def _how(options: Options) -> How:
    from ampconvert.lint.linting import How

    return How(options.fix, options.unsafe, options.write)


def _is_fixable(findings: Sequence[Finding], unsafe: bool) -> bool:
    return any(found.fix is not None and (unsafe or found.fix.safe) for found in findings)


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
