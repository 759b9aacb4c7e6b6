"""Inputs that once broke a reader, as (target, content): a small corpus, kept small."""

from __future__ import annotations

import json

from tests.robustness.targets import plan_data


def _plan(**changes: object) -> bytes:
    return json.dumps({**plan_data(), **changes}).encode()


def _node(**changes: object) -> bytes:
    nodes = plan_data()["nodes"]
    return _plan(nodes={**nodes, "n0": {**nodes["n0"], **changes}})


REGRESSIONS: list[tuple[str, bytes]] = [
    ("rules", b"[[op]]\nname = " + b"9" * 5000),
    ("rules", b"x = " + b"[" * 100_000),
    ("lint-configuration", b"[tool.ampconvert.lint]\nmax-file-size = " + b"9" * 5000),
    ("lint-configuration", b"[tool.ampconvert.lint]\nselect = " + b"[" * 100_000),
    ("lint-configuration", b'[tool.ampconvert.lint]\ntorch = "' + b"9" * 5000 + b'.1"'),
    # The end of a zip archive on several disks, for which zipfile.is_zipfile raises.
    *((kind, b"PK\x06\x07\x01" + bytes(15) + b"PK\x05\x06" + bytes(18)) for kind in ("pt2", "npz")),
    ("plan", b'{"schema": 1, "nodes": "ab"}'),
    ("applied-plan", _node(compute="floa|16")),
    ("applied-plan", _node(work="juggling")),
    ("applied-plan", _node(cls="perhaps")),
    ("applied-plan", _node(keep=["0"])),
    ("applied-plan", _plan(casts=[])),
    ("applied-plan", _plan(weights={})),
    ("applied-plan", _plan(nodes={})),
    ("applied-plan", _plan(io=["nobody"])),
]
