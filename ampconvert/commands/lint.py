"""`ampconvert lint`: mistakes in sources, with their lines; with --fix, fewer of them."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType

from ampconvert.commands.outcome import BAD_INPUT, BUG, DONE, FAILED, Outcome
from ampconvert.errors import UserError
from ampconvert.lint.run import Options, Report
from ampconvert.lint.run import run as run_lint
from ampconvert.report.progress import StageLine
from ampconvert.report.words import printable

_MOST_BUGS = 5  # told one by one


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Lint the paths; code 1 when findings are left, or with --diff when a file would change."""
    asked = _asked(options)
    report = run_lint(asked, lambda done, total: progress("lint", done, total))
    _complain(report)
    if asked.stdin is not None and asked.fix and asked.write:
        return _mended(options, asked, report)
    return Outcome(_code(options, report), _page(options, report), dict, _text(options, report))


def _asked(options: Namespace) -> Options:
    """The options as the linter takes them. UserError for those that contradict each other."""
    from_stdin = "-" in options.paths
    if from_stdin and len(options.paths) > 1:
        raise UserError("- reads the one file to lint from stdin; leave out the other paths")
    if options.stdin_filename is not None and not from_stdin:
        raise UserError("--stdin-filename names the text from stdin: give - as the path")
    if from_stdin and sys.stdin is None:
        raise UserError("- reads the file to lint from stdin, which is closed")
    return Options(
        paths=tuple(options.paths),
        select=None if options.select is None else tuple(options.select),
        extend_select=tuple(options.extend_select or ()),
        ignore=tuple(options.ignore or ()),
        torch=options.torch,
        assume=options.assume_amp,
        force_exclude=options.force_exclude,
        fix=options.fix or options.unsafe_fixes or options.diff,
        unsafe=options.unsafe_fixes,
        write=not options.diff,
        stdin=sys.stdin.buffer.read() if from_stdin else None,
        stdin_filename=None if options.stdin_filename is None else str(options.stdin_filename),
        jobs=options.jobs,
        cache=not options.no_cache,
    )


def _complain(report: Report) -> None:
    """Tell of rules that failed and of files that could not be written, on stderr."""
    for line in (*report.bugs[:_MOST_BUGS], *report.unwritten):
        print(f"ampconvert: {printable(line)}", file=sys.stderr)
    if report.bugs:
        more = len(report.bugs) - _MOST_BUGS
        told = f" and {more:,} times more" if more > 0 else ""
        print(f"ampconvert: error: a bug in ampconvert{told}; please report it", file=sys.stderr)


def _code(options: Namespace, report: Report) -> int:
    if report.bugs:
        return BUG
    if report.unwritten:
        return BAD_INPUT
    if options.exit_zero:
        return DONE
    return FAILED if (report.made if options.diff else report.findings) else DONE


def _page(options: Namespace, report: Report) -> Callable[[], RenderableType]:
    from ampconvert.report import lint as pages

    def page() -> RenderableType:
        if options.diff:
            return pages.diff(report, unsafe=options.unsafe_fixes)
        if options.statistics:
            return Group(
                pages.statistics(report.findings),
                *pages.summary(report.findings, len(report.made), options.unsafe_fixes),
            )
        return pages.page(report, concise=options.format == "concise", unsafe=options.unsafe_fixes)

    return page


def _text(options: Namespace, report: Report) -> Callable[[], str] | None:
    """What programs read, where that was asked for."""
    form = "json" if options.json else options.format
    if form not in ("json", "sarif", "github") or options.diff or options.statistics:
        return None

    def text() -> str:
        from ampconvert import __version__
        from ampconvert.lint import formats

        files = formats.linted(report)
        if form == "json":
            return formats.as_json(files)
        if form == "github":
            return printable(formats.as_github(files))
        return formats.as_sarif(files, __version__, Path.cwd())

    return text


def _mended(options: Namespace, asked: Options, report: Report) -> Outcome:
    """The text from stdin with its fixes on stdout, and what is left on stderr, as ruff does."""
    from ampconvert.report import layout
    from ampconvert.report import lint as pages

    if not options.quiet:
        page = pages.page(report, concise=options.format == "concise", unsafe=asked.unsafe)
        layout.console(sys.stderr).print(page, crop=False)
    text = next((file.after for file in report.files if file.after is not None), None)
    if text is None:
        text = _decoded(asked.stdin or b"")
    data: dict[str, Any] = {"text": text}
    return Outcome(_code(options, report), Group, lambda: data, lambda: text.removesuffix("\n"))


def _decoded(data: bytes) -> str:
    """The text from stdin, by its coding cookie; bytes of no known text as they are."""
    from ampconvert.lint.files import decoded

    try:
        return decoded(data)[0]
    except (SyntaxError, ValueError):
        return data.decode("utf-8", "surrogateescape")
