"""Writes the newest zoo results into README, between its markers; `--check` only compares.

python -m benchmarks.readme
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.child import ROOT
from benchmarks.zoo.registry import entries
from benchmarks.zoo.report import Row, overview, tolerance

BEGIN, END = "<!-- zoo:begin -->", "<!-- zoo:end -->"
UNLIKE = (
    "- seconds and MB are not like for like: ampconvert captures, exports and measures parity in "
    "them; the others start from the FP32 ONNX file and check nothing"
)
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    """Write or check the table; exit code 1 where `--check` finds it out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    table = "\n\n".join(_section(path) for path in newest())
    wanted = f"{before}{BEGIN}\n{table}\n{END}{after}"
    if options.check:
        return int(wanted != text)
    README.write_text(wanted, encoding="utf-8")
    return 0


def newest() -> list[Path]:
    """The last result file of each type, float16 first."""
    last: dict[str, Path] = {}
    for path in sorted(RESULTS.glob("*-zoo-*.json")):
        last[path.stem.rpartition("-")[2]] = path
    return [last[dtype] for dtype in ("float16", "bfloat16") if dtype in last]


def _section(path: Path) -> str:
    """The overview of one result file, with where it comes from."""
    data = json.loads(path.read_text(encoding="utf-8"))
    dtype = data["about"]["dtype"]
    table, _, findings = overview(_rows(data), dtype).partition("\n\n")
    lines = [line for line in findings.splitlines() if line]
    page = path.with_suffix(".md").relative_to(ROOT).as_posix()
    return "\n".join(
        [
            f"**{dtype}**, {len(data['models'])} models, tolerance {tolerance(dtype):g} on the "
            f"emulated error, {data['about']['date'][:10]} ([every model]({page})):",
            "",
            table,
            "",
            *(f"- {line}" for line in lines),
            UNLIKE,
        ]
    )


def _rows(data: dict[str, object]) -> list[Row]:
    """A result file's models as the report's rows."""
    known = entries()
    models = data["models"]
    assert isinstance(models, list)
    about = data["about"]
    assert isinstance(about, dict)
    described = {"name", "domain", "trained", "baseline"}
    return [
        Row(
            known[model["name"]],
            model["baseline"],
            {f"{tool} {about['dtype']}": r for tool, r in model.items() if tool not in described},
        )
        for model in models
    ]


if __name__ == "__main__":
    sys.exit(main())
