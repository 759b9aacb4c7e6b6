"""The one error that is the user's to mend: the command line prints it without a traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input. The message names the file, node or line, what was wrong and what to do.

    `ampconvert.cli` prints the message and exits with code 2; Python callers get the exception.
    """
