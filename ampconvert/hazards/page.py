"""docs/hazards.md, written from the hazards themselves."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator

from ampconvert.hazards.base import Case, Hazard
from ampconvert.hazards.search import all_hazards

INTRODUCTION = """\
# Hazards

What goes wrong in FP16 or BF16 by the way a model is written, found in its graph before it runs.
The check knows what each operator computes, so it holds for PyTorch and ONNX models alike.
Constants, weights and, where calibration data was given, the ranges seen decide how bad it is:
*error* where the numbers at hand do go wrong, *warning* where others can, *info* where it depends
on the hardware, or was seen not to happen.

A hazard is *handled* when the plan keeps every operator in question in FP32, or has replaced the
mask in question. What is left is open: `--repair` rewrites some of them, and the advice says what
else helps.

This page is made from the hazards' own texts: `python -m ampconvert.hazards > docs/hazards.md`.
The tests run every example.
"""


def page() -> str:
    """The whole page as Markdown."""
    rows = [f"| [{h.CODE}](#{h.CODE.lower()}-{h.NAME}) | {h.NAME} | {_headline(h)} |"
            for h in all_hazards()]  # fmt: skip
    table = "\n".join(["| code | name | what is wrong |", "|---|---|---|", *rows])
    return "\n".join([INTRODUCTION, table, "", *(line for h in all_hazards() for line in _of(h))])


def _of(hazard: Hazard) -> Iterator[str]:
    yield f"## {hazard.CODE} {hazard.NAME}"
    yield ""
    yield inspect.getdoc(type(hazard)) or ""
    yield ""
    yield f"**What to do.** {hazard.ADVICE}"
    yield ""
    yield "Found:"
    yield ""
    yield _example(hazard.INVALID[0])
    yield "Not found:"
    yield ""
    yield _example(hazard.VALID[0])


def _headline(hazard: Hazard) -> str:
    return (inspect.getdoc(type(hazard)) or "").split("\n\n")[0].replace("\n", " ")


def _example(case: Case) -> str:
    first, _, rest = case.text.strip().partition("\n")
    told = [f"low type {case.low}"] if case.low != "float16" else []
    told += [f"{name} was seen from {a:g} to {b:g}" for name, (a, b) in case.seen.items()]
    comment = f"# {', '.join(told)}\n" if told else ""
    return f"```text\n{comment}{first}\n{textwrap.dedent(rest)}\n```\n"
