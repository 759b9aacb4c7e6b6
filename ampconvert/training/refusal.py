"""The one error of capturing: a graph that can't be brought into ATen calls."""

from __future__ import annotations


class NotCapturable(Exception):  # noqa: N818 - it says what the graph is, as StopIteration does
    """A graph that can't be brought into ATen calls. The message names the node, its line and why;
    such a graph runs as Dynamo captured it.
    """
