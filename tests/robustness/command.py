"""The command line in this process, and what always has to hold of how it ends."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ampconvert import cli

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Ended:
    """Exit code and both streams of one run."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line of an error, without its beginning."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("ampconvert: ")]
        return line.removeprefix("ampconvert: ").removeprefix("error: ")


def ended(words: Sequence[str]) -> Ended:
    """Run the command line. It has to end with 0, 1 or 2, and with 2 say why in one line; nothing
    that a terminal obeys may stand in what it prints.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    done = Ended(code, out.getvalue(), err.getvalue())
    assert code in (0, 1, 2), done
    assert "Traceback" not in done.err, done.err
    assert code != 2 or len(done.message) > 10, done
    assert not CONTROL.search(done.out + done.err), done
    return done
