"""The command line: reads options, runs one command, prints its page or its JSON.

Exit codes: 0 done and parity held, 1 parity failed, 2 bad usage or input, 3 a bug of ampconvert,
130 interrupted, 143 terminated. With AMPCONVERT_TRACEBACK=1 errors show their traceback. Of several
workers that torchrun started only the first prints, and its exit code is that of all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import FrameType

from ampconvert import distributed
from ampconvert.commands.options import parser, with_command
from ampconvert.commands.outcome import BAD_INPUT, BUG, INTERRUPTED, TERMINATED, Outcome
from ampconvert.errors import UserError
from ampconvert.extras import explained
from ampconvert.report.words import printable

SHARED = ("convert", "analyze", "explain")  # commands that calibrate, which workers share


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code. `argv` is without the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    with _terminable():
        return _main(words)


def _main(words: list[str]) -> int:
    if distributed.is_first():
        return distributed.leave(_answer(words))
    with distributed.silenced():
        return distributed.leave(_assist(words))


def _assist(words: list[str]) -> int:
    """Share the first worker's work; what it finds out for itself, it also says."""
    try:
        options = parser().parse_args(with_command(words))
    except (SystemExit, UserError):
        return 0
    return _answer(words) if options.command in SHARED else 0


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does: with nothing half-written."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def _answer(words: list[str]) -> int:
    _reopen_closed()
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that cannot show a character gets a question mark, not a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        options = parser().parse_args(with_command(words))
        if options.command is None:
            parser().print_help()
            return BAD_INPUT
        return _run(options)
    except SystemExit as stop:  # argparse, after --help, --version or an error
        return stop.code if isinstance(stop.code, int) else BAD_INPUT
    except distributed.Released:
        return 0
    except _TerminatedError:
        return _complain("terminated", TERMINATED)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        _forget_stdout()
        return 0
    except Exception as error:
        if os.environ.get("AMPCONVERT_TRACEBACK"):
            raise
        return _explain_error(error)


def _reopen_closed() -> None:
    """Where the caller closed stdout or stderr (`>&-`), Python has none: then nobody reads."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _run(options: argparse.Namespace) -> int:
    from ampconvert.report.progress import StageLine

    command = import_module(f"ampconvert.commands.{options.command}")
    written = getattr(options, "report", None)
    if written:
        from ampconvert.commands import reports

        out = getattr(options, "out", None)
        reports.refuse(written, getattr(options, "force", False), out)
    # Only the report goes to stdout: what the user's file or a library prints goes to stderr.
    with (
        contextlib.redirect_stdout(sys.stderr),
        StageLine(quiet=options.quiet or options.json) as line,
        warnings.catch_warnings(),
        distributed.joined() if options.command in SHARED else contextlib.nullcontext(),
    ):
        # torch and its exporter announce their own deprecations: nothing that a user could mend.
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("ignore", category)
        outcome: Outcome = command.run(options, line)
        if written:
            outcome = reports.with_reports(outcome, options)
    with _open_pipe():
        _show(outcome, options)
    return outcome.code


def _show(outcome: Outcome, options: argparse.Namespace) -> None:
    if outcome.text is not None:
        if not options.quiet:
            print(outcome.text())
    elif options.json:
        from ampconvert.report.jsonable import dumps

        print(dumps(outcome.data()))
    elif not options.quiet:
        from ampconvert.report.layout import show

        show(outcome.page())
    sys.stdout.flush()


@contextlib.contextmanager
def _open_pipe() -> Iterator[None]:
    """Nobody reads on (`| head`): no error, and the command's own exit code. UserError where what
    stdout is written to is full.
    """
    try:
        yield
    except BrokenPipeError:
        _forget_stdout()
    except OSError as error:
        _forget_stdout()
        raise UserError(f"stdout can't be written: {error.strerror or error}") from error


def _forget_stdout() -> None:
    # Python flushes stdout when it ends, which would complain again.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain_error(error: Exception) -> int:
    if isinstance(error, UserError):
        return _complain(f"error: {error}", BAD_INPUT)
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename is not None else ""
        return _complain(f"error: {place}{error.strerror}", BAD_INPUT)
    if isinstance(error, MemoryError):
        return _complain("error: out of memory; give smaller inputs with --input", BAD_INPUT)
    if isinstance(error, ModuleNotFoundError) and (missing := explained(error)):
        return _complain(f"error: {missing}", BAD_INPUT)
    first = next(iter(str(error).splitlines()), "")
    return _complain(
        f"error: a bug in ampconvert: {type(error).__name__}: {first} "
        "(AMPCONVERT_TRACEBACK=1 shows where; please report it)",
        BUG,
    )


def _complain(message: str, code: int) -> int:
    # One line: what the message quotes from a library may hold several.
    text = printable(" ".join(message.split()))
    with contextlib.suppress(OSError):
        print(f"ampconvert: {text}", file=sys.stderr, flush=True)
    return code
