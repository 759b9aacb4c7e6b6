"""Whoever has this folder in PYTHONPATH can't reach a network: every connection raises."""

import socket


def _refused(*_: object, **__: object) -> None:
    raise OSError("no network: benchmarks/features/scripts/no_network")


socket.socket.connect = _refused  # type: ignore[method-assign]
socket.socket.connect_ex = _refused  # type: ignore[method-assign, assignment]
socket.getaddrinfo = _refused  # type: ignore[assignment]
