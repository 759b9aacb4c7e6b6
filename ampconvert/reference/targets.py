"""docs/reference/targets.md, written from rules/targets/*.toml: figures, and missing kernels."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ampconvert.cost import Target, load_target, target_names
from ampconvert.reference.markdown import codes, table
from ampconvert.rules import data_directory

INTRODUCTION = """\
# Targets and their kernels

The figures that a plan's times are predicted from, and the operators that a runtime has no FP16 or
BF16 kernel for. [Targets](../targets.md) says what `--target` does with them. The figures are from
data sheets where nothing else is said; a plan needs no device.

This page is made from `rules/targets/*.toml`:
`python -m ampconvert.reference targets > docs/reference/targets.md`.
"""
LISTS = {
    "elsewhere": "runs on another provider",
    "nowhere": "the model would not load",
    "unsupported": "runs in no type",
}
TYPES = ("float32", "float16", "bfloat16")


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    targets = [load_target(name) for name in target_names()]
    yield from table(
        ("target", "GB/s", "launch, µs", "TFLOP/s of products: FP32, FP16, BF16", "of all else"),
        ((f"[{t.name}](#{t.name})", *_figures(t)) for t in targets),
    )
    for target in targets:
        yield from _target(target)


def _figures(target: Target) -> tuple[str, str, str, str]:
    def rates(table: Mapping[str, float]) -> str:
        return ", ".join(f"{table[name] / 1e12:.4g}" for name in TYPES)

    return (
        f"{target.bandwidth / 1e9:.4g}", f"{target.launch * 1e6:.4g}",
        rates(target.rate), rates(target.vector),
    )  # fmt: skip


def _target(target: Target) -> Iterator[str]:
    path = data_directory() / "targets" / f"{target.name}.toml"
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    yield f"## {target.name}"
    yield ""
    yield _about(path)
    yield ""
    yield f"- Figures from: {target.source}"
    if target.kernels.version:
        read = data["kernels"]["date"]
        yield f"- Kernels of {target.kernels.version}, read on {read}: {target.kernels.source}"
    yield from (f"- {text}" for text in target.notes.values())
    if target.float32_outputs:
        yield f"- Products that can hand on FP32 sums: {codes(sorted(target.float32_outputs))}"
    yield ""
    yield from table(("no kernel", "of", "operators"), _kernels(data))


def _kernels(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, meaning in LISTS.items():
        for dtype, operators in data.get(name, {}).items():
            of = "any type" if dtype == "ops" else dtype
            yield f"{name}: {meaning}", of, codes(operators)


def _about(path: Path) -> str:
    """The comment at the top of the file."""
    found = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    lines = found[0].splitlines() if found else []
    return " ".join(line.removeprefix("#").strip() for line in lines)
