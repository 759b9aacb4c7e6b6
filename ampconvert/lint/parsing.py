"""Python's parser, without the warnings that it has for the sources it reads."""

from __future__ import annotations

import ast
import warnings

# What it raises: for text that is no Python, for null bytes and lone surrogates, and for what is
# nested too deeply, which rules may find out as well.
UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def parse(text: str) -> ast.Module:
    """The tree of a module. Raises one of UNREADABLE."""
    with warnings.catch_warnings():
        # "\d" in a string: other tools say that, and as an error it would be taken for a mistake
        # of syntax.
        warnings.simplefilter("ignore")
        return ast.parse(text)


def failure(text: str) -> Exception | None:
    """Why `text` can't be parsed; None if it can."""
    try:
        parse(text)
    except UNREADABLE as error:
        return error
    return None


def parses(text: str) -> bool:
    """Whether `text` is a Python module."""
    return failure(text) is None
