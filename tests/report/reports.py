"""What the commands really print with --json, on small models: each run made once for all tests."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from ampconvert import cli
from ampconvert.files import read_json
from ampconvert.plan import from_dict
from ampconvert.report import jsonable
from tests.text_graphs import model_of_text

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(8, 16)
        self.norm = nn.LayerNorm(16)
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        h = torch.relu(self.norm(self.hidden(x)))
        h = h * torch.rsqrt((h * h).mean(-1, keepdim=True) + 1e-6)
        return torch.softmax(self.out(h), -1), h.sum()
"""
WEIGHTS = ", ".join(str(round(0.37 * ((i * 7) % 11 - 5) / 5, 3)) for i in range(32))
TEXTS = {
    "plain.onnx": f"""
net (float[2,8] x) => (float[2,4] y) <float[8,4] w = {{{WEIGHTS}}}>
{{ [product] h = MatMul(x, w)  [last] y = Softmax(h) }}""",
    "squares.onnx": f"""
net (float[2,8] x) => (float[2,4] y)
<float[8,4] w = {{{WEIGHTS}}}, float big = {{1000.0}}, int64[1] axes = {{-1}}>
{{ a = Mul(x, big)  s = Mul(a, a)  m = ReduceMean(s, axes)  r = Sqrt(m)  n = Div(a, r)
   y = MatMul(n, w) }}""",
    "overflow.onnx": """
net (float[4] x, float[4] small) => (float[4] y) {
   [big] b = Mul(x, x)  [back] y = Mul(b, small) }""",
    "half.onnx": """
net (float[4] x, float[4] small) => (float[4] y) {
   a = Cast<to = 10>(x)  c = Cast<to = 10>(small)  big = Mul(a, a)  d = Mul(big, c)
   y = Cast<to = 1>(d) }""",
    "branches.onnx": f"""
net (bool c, int64 n, float[2,8] x) => (float[2,4] y) <float[8,4] w = {{{WEIGHTS}}}> {{
   h = MatMul(x, w)
   [choose] z = If (c) <
      then_branch = t () => (float[2,4] u) {{ [act] u = Relu(h) }},
      else_branch = e () => (float[2,4] v) {{ [act] k = Exp(h)  v = Log(k) }}>
   [turn] s = Loop (n, c, z) <body = b (int64 i, bool go, float[2,4] before)
      => (bool on, float[2,4] after) {{ on = Identity(go)  [step] after = Add(before, h) }}>
   y = Softmax(s)
}}""",
}
LARGE = ["--input", "x:4:500..900", "--input", "small:4:0.00001..0.00002"]


@cache
def folder() -> Path:
    """A folder with the models, gone when Python ends."""
    made = Path(tempfile.mkdtemp(prefix="ampconvert-reports-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    (made / "net.py").write_text(NET, encoding="utf-8")
    for name, text in TEXTS.items():
        onnx.save(model_of_text(text), made / name)
    return made


@cache
def printed(*line: str) -> str:
    """What a command line prints; names of models in it are those of `folder`."""
    placed = [str(folder() / word) if word in ("net.py", *TEXTS) else word for word in line]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert cli.main(placed) in (0, 1), line
    return out.getvalue()


def conversion(model: str, *more: str) -> dict[str, Any]:
    """The report of a conversion, whose files stand in a folder of their own in `folder`."""
    words = (word.strip("-").replace("/", "_") for word in (model, *more))
    place = folder() / "-".join(["out", *words])
    return report("convert", model, "-o", str(place), *more)


def report(*line: str) -> dict[str, Any]:
    """The object that a command line prints with --json; nothing but strict JSON is read."""

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads(printed(*line, "--json"), parse_constant=refuse)
    return found


def written(data: dict[str, Any], kind: str) -> Path:
    """A file that a conversion wrote: "onnx", "pt2" or "plan"."""
    return Path(data["files"][kind]["path"])


@cache
def old_plan() -> dict[str, Any]:
    """What is known of a plan whose file holds no report."""
    data = read_json(written(conversion("plain.onnx"), "plan"))
    found: dict[str, Any] = jsonable.plain(jsonable.bare_plan(from_dict(data)))
    return found


REPORTS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": lambda: conversion("net.py"),
    "torch analyze": lambda: report(
        *["analyze", "net.py", "--prove", "--measure", "--loss-scale"],
        *("--input", "x:2x8:-3..3", "--assume", "linear<=100"),
    ),
    "onnx": lambda: conversion("plain.onnx"),
    "onnx for a target": lambda: conversion("plain.onnx", "--target", "trt"),
    "onnx branches": lambda: conversion("branches.onnx"),
    "onnx unverified": lambda: conversion("plain.onnx", "--no-verify"),
    "onnx repaired": lambda: conversion("squares.onnx", "--repair"),
    "onnx failed": lambda: conversion("plain.onnx", "--tolerance", "1e-12", "--allow", "MatMul"),
    "onnx analyze": lambda: report(
        "analyze", "squares.onnx", "--prove", "--measure", "--input", "x:2x8:-3..3"
    ),
    "onnx explain": lambda: report("explain", "plain.onnx", "product"),
    "onnx pareto": lambda: report("convert", "plain.onnx", "--pareto"),
    "verify": lambda: report("verify", "plain.onnx", "plain.onnx"),
    "verify failed": lambda: report("verify", "overflow.onnx", "half.onnx", *LARGE),
    "rules": lambda: report("rules"),
    "rule": lambda: report("rules", "softmax"),
    "old plan": old_plan,
}
