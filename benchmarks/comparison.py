"""Writes docs/comparison.md from the newest result files; nothing in it is measured here.

python -m benchmarks.comparison > docs/comparison.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.features.cells import Found
from benchmarks.features.report import MARKS, code, escaped, marked
from benchmarks.features.results import (
    SCALE_NAMES,
    Result,
    latest,
    line_with,
    rows_of,
    section,
    table_after,
)
from benchmarks.zoo.report import Row

OURS = "ampconvert"
UP = "../"  # from docs/ to the repository's root
CONVERTERS = {
    "onnxconverter-common": (
        "`onnxconverter_common.float16.convert_float_to_float16` rewrites an ONNX model to FP16, "
        "but for a list of operators and those that the caller names. "
        "`auto_convert_mixed_precision` bisects over nodes until outputs agree.",
        "https://github.com/microsoft/onnxconverter-common",
    ),
    "onnxruntime": (
        "`onnxruntime.transformers.onnx_model.OnnxModel.convert_float_to_float16` does the same, "
        "with symbolic shape inference before it. The package also fuses graphs and quantizes.",
        "https://github.com/microsoft/onnxruntime",
    ),
    "modelopt": (
        "`modelopt.onnx.autocast` makes ONNX models FP16 or BF16 and keeps nodes in FP32 by name, "
        "by type, and by the range of weights and of values on calibration data. The package also "
        "quantizes to INT8, FP8 and INT4 for TensorRT.",
        "https://nvidia.github.io/Model-Optimizer/guides/8_autocast.html",
    ),
}
OLIVE = (
    "Olive runs passes over models: export, graph optimisation, quantization, tuning, and "
    "evaluation with latency. Its pass to FP16, `OnnxFloatToFloat16`, calls the converter of ONNX "
    "Runtime, with other limits for constants.",
    "https://microsoft.github.io/Olive/reference/pass.html",
)
AUTOCAST = (
    "`torch.autocast` chooses a type for each operator when it runs, by fixed lists; "
    "`torch.amp.GradScaler` scales the loss and skips steps whose gradients are not finite.",
    "https://docs.pytorch.org/docs/stable/amp.html",
)
APEX = (
    "`apex.amp`, its maintainers "
    "[say](https://github.com/NVIDIA/apex/issues/1214), is deprecated in favour of `torch.amp`. It "
    "needs CUDA, which the machine of these results does not have: nothing was measured."
)
LINTERS = {
    "TorchFix": (
        "TorchFix finds and fixes uses of deprecated and removed PyTorch functions, and other "
        "mistakes with PyTorch.",
        "https://github.com/meta-pytorch/torchfix",
    ),
    "ruff": (
        "Ruff is a linter and formatter for Python in general.",
        "https://docs.astral.sh/ruff/",
    ),
}
ANSWERS = {"yes", "part", "no"}  # the others are figures, and features that nobody could ask
REPEAT = {
    "zoo": ".venv-zoo/bin/python -m benchmarks.zoo --dtype both --peers .venv-peers/bin/python",
    "conformance": ".venv-zoo/bin/python -m benchmarks.conformance --peers .venv-peers/bin/python",
    "scale": "python -m benchmarks.scale --peers .venv-peers/bin/python",
    "training": "python -m benchmarks.training",
    "lint": "python -m benchmarks.lint --peers .venv-lint/bin --whole",
    "features": "python -m benchmarks.features --peers .venv-peers/bin/python "
    "--olive .venv-olive/bin/python --linters .venv-lint/bin",
}


def main() -> int:
    """Print the page."""
    print("\n".join(page()))
    return 0


def page() -> Iterator[str]:
    """The page, line by line. FileNotFoundError where a kind of result has no file."""
    features = latest("features")
    yield from _introduction(features)
    yield from _all(features)
    for tool, (what, link) in CONVERTERS.items():
        yield from _titled(tool, what, link)
        yield from _converter(tool)
        yield from _answers(features, tool)
    yield from _titled("Olive", *OLIVE)
    yield from _answers(features, "olive")
    yield from _titled("torch.autocast and GradScaler", *AUTOCAST)
    yield from _training()
    yield from _answers(features, "torch.amp")
    yield from ("", "## NVIDIA Apex", "", APEX)
    for tool, (what, link) in LINTERS.items():
        yield from _titled(tool, what, link)
        yield from _lint(tool)
        yield from _answers(features, tool)


def _introduction(features: Result) -> Iterator[str]:
    about = features.data["about"]
    yield from (
        "# Comparison",
        "",
        "<!-- python -m benchmarks.comparison > docs/comparison.md -->",
        "",
        "What ampconvert does beside other tools, made from result files alone. Each figure has a "
        "link to its file, which names the machine, the versions and the commit, and each section "
        f"the command that repeats it. The newest ran on {about['cpu']}; no GPU ran in any. The "
        "converters are judged by one program on the same models, whoever wrote the file: errors "
        "are relative L2 errors of the emulated model, which rounds each stored tensor "
        "([parity](parity.md)).",
        "",
        f"Features were asked on {features.date}, with {about['versions']}. `ampconvert` is the "
        "project that this page belongs to: repeat what matters to you.",
    )


def _titled(tool: str, what: str, link: str) -> Iterator[str]:
    yield from ("", f"## {tool}", "", f"{what} [Documentation]({link}).")


def _converter(tool: str) -> Iterator[str]:
    """The zoo in each type that the tool has, the suite of ONNX, and size."""
    for dtype in ("float16", "bfloat16"):
        rows = rows_of(latest(f"zoo-{dtype}"))
        if any(row.result(tool, dtype) for row in rows):
            yield from _zoo(tool, dtype, rows)
            yield from _conformance(tool, dtype)
    yield from _scale(tool)


def _zoo(tool: str, dtype: str, rows: Sequence[Row]) -> Iterator[str]:
    result = latest(f"zoo-{dtype}")
    lines = section(result.page, "# The zoo in")
    head, *body = table_after(lines, "| tool |")
    picked = [row for row in body if row[0] in (OURS, tool)]
    yield from ("", f"### {len(rows)} models in {dtype}", "")
    yield from (*_table(head, picked), "")
    yield f"- Inside the tolerance of {result.data['tolerance']:g}: {_inside(rows, tool, dtype)}."
    yield f"- Where both are inside: {_errors(rows, tool, dtype)}; {_casts(rows, tool, dtype)}."
    yield (
        "- Seconds and MB are not like for like: ampconvert captures a PyTorch module, exports it "
        f"and measures parity in them; {tool} starts from the FP32 ONNX file and checks nothing."
    )
    yield from ("", _source(result, "zoo"))


def _inside(rows: Sequence[Row], tool: str, dtype: str) -> str:
    pairs = [(row.inside("ours", dtype), row.inside(tool, dtype)) for row in rows]
    both, ours, theirs = (pairs.count(p) for p in ((True, True), (True, False), (False, True)))
    return f"both on {both} models, ampconvert alone on {ours}, {tool} alone on {theirs}"


def _errors(rows: Sequence[Row], tool: str, dtype: str) -> str:
    pairs = _both(rows, tool, lambda row, t: row.error(t, dtype) or 0.0, dtype)
    lower = sum(a < 0.99 * b for a, b in pairs)
    higher = sum(b < 0.99 * a for a, b in pairs)
    equal = len(pairs) - lower - higher
    return (
        f"the error is lower by more than 1 % with ampconvert on {lower}, with {tool} on {higher}, "
        f"and the same on {equal}"
    )


def _casts(rows: Sequence[Row], tool: str, dtype: str) -> str:
    pairs = _both(rows, tool, lambda row, t: row.judged(t, dtype).get("casts", 0), dtype)
    fewer, more = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    return (
        f"casts are fewer with ampconvert on {fewer}, with {tool} on {more}, and as many on "
        f"{len(pairs) - fewer - more}"
    )


def _both(
    rows: Sequence[Row], tool: str, value: Callable[[Row, str], Any], dtype: str
) -> list[tuple[Any, Any]]:
    held = [row for row in rows if row.inside("ours", dtype) and row.inside(tool, dtype)]
    return [(value(row, "ours"), value(row, tool)) for row in held]


def _conformance(tool: str, dtype: str) -> Iterator[str]:
    result = latest(f"conformance-{dtype}")
    lines = section(result.page, f"## {dtype}: {len(result.data['models'])} models")
    head, *body = table_after(lines, "| tool |")
    names = {"ours rules": OURS, "ours pinned": f"{OURS}, all that no rule denies", tool: tool}
    picked = [[names[row[0]], *row[1:]] for row in body if row[0] in names]
    count = len(result.data["models"])
    yield from ("", f"### {count:,} models of ONNX's own test suite in {dtype}", "")
    yield from (*_table(head, picked), "")
    yield (
        "Refused: sound, with nothing in the low type. Most of these models are one operator, "
        "which ampconvert leaves in FP32 by its rules."
    )
    yield from ("", _source(result, "conformance"))


def _scale(tool: str) -> Iterator[str]:
    result = latest("scale")
    name = SCALE_NAMES[tool]
    points = {(p["kind"], p["size"], p["tool"]): p for p in result.data["points"]}
    tools = (OURS, f"{OURS}, verified", name)
    wanted = (
        ("plain", 2000, "nodes in a chain"), ("mixed", 2000, "nodes, some kept in FP32"),
        ("plain", 10000, "nodes in a chain"), ("mixed", 10000, "nodes, some kept in FP32"),
        ("weights", 1000, "MB of weights"), ("weights", 6000, "MB of weights"),
    )  # fmt: skip
    yield from ("", "### Time and memory against size", "")
    rows = [
        [f"{size:,} {unit}", *(_point(points.get((kind, size, t))) for t in tools)]
        for kind, size, unit in wanted
    ]
    yield from (*_table(["model", *tools], rows), "")
    yield (
        "Seconds of processor time, and MB of memory over what the process held before; medians "
        f'of the rounds. "verified" measures parity as well, which {tool} does not.'
    )
    yield from ("", _source(result, "scale"))


def _point(point: dict[str, Any] | None) -> str:
    if point is None:
        return "not run"
    rounds = [r for r in point["rounds"] if "error" not in r]
    if not rounds:
        return str(point["rounds"][0]["error"]).removeprefix("not run: ")
    seconds, memory = (sorted(r[key] for r in rounds) for key in ("cpu_seconds", "peak_mb"))
    middle = len(rounds) // 2
    valid = "" if point["file"].get("valid") else ", not valid"
    return f"{seconds[middle]:.3g} s, {memory[middle]:,.0f} MB{valid}"


def _training() -> Iterator[str]:
    result = latest("training")
    lines = section(result.page, "# Training")
    yield from ("", "### Eight small networks, runs that overflow, time and memory", "")
    target = "Target: no model slower than autocast in the same mode. "
    time = line_with(lines, target).removeprefix(target)
    told = (
        line_with(lines, "standard deviation of float32"),
        f"Time of a step in BF16 over autocast's: {time[0].lower()}{time[1:]}",
        line_with(lines, "Batches of at most"),
        f"Saved for the backward pass: {line_with(lines, 'Ours keeps more than autocast')}",
    )
    yield from ('"Ours" is ampconvert.', "", *(f"- {one}" for one in told))
    head, *body = table_after(section(result.page, "## Overflow in the forward"), "| run |")
    keep = [head.index(name) for name in ("run", "way", "first loss", "final", "steps skipped")]
    yield from ("", "Runs in FP16 whose forward pass overflows, 1,500 steps:", "")
    yield from _table([head[i] for i in keep], [[row[i] for i in keep] for row in body])
    yield from ("", _source(result, "training"))


def _lint(tool: str) -> Iterator[str]:
    result = latest("lint-speed")
    yield from ("", "### CPU seconds", "")
    rows = []
    for name, timings in result.data["results"].items():
        found = {t["tool"]: t["cpu_s"] for t in timings}
        tools = (f"{OURS} lint", f"{OURS} lint, cache unchanged", tool)
        rows.append([name, *(f"{found[t]:.3g}" if t in found else "-" for t in tools)])
    yield from _table(["files", f"{OURS} lint", "the same, cache unchanged", tool], rows)
    yield from ("", f"Each with its own default rules and one process. {_source(result, 'lint')}")
    if tool == "TorchFix":
        findings = latest("lint-findings")
        recall = findings.data["results"]["recall"]["default"]
        whole = recall["found"] + len(recall["missed"])
        yield from ("", f"Of {whole} mistakes in mixed precision from {recall['snippets']} real "
                    f"threads ampconvert finds {recall['found']}. TorchFix was not run on them; "
                    "the features below have what it says of four. "
                    f"{_source(findings, 'lint')}")  # fmt: skip


def _answers(features: Result, tool: str) -> Iterator[str]:
    """Where the tool and ampconvert answer differently, both ways, in lists of one form."""
    asked = [
        (name, Found(**answers[OURS]), Found(**answers[tool]))
        for found in features.data["results"].values()
        for name, answers in found.items()
        if tool in answers and {answers[OURS]["verdict"], answers[tool]["verdict"]} <= ANSWERS
    ]
    same = [name for name, ours, theirs in asked if ours.verdict == theirs.verdict]
    yield from ("", f"### Features: {len(asked)} asked, {len(same)} answered alike", "")
    yield from _list(f"{tool} has, ampconvert lacks", _differing(asked, 2, 1))
    yield from _list(f"ampconvert has, {tool} lacks", _differing(asked, 1, 2))
    yield _source(features, "features")


def _differing(asked: Sequence[tuple[str, Found, Found]], has: int, lacks: int) -> list[str]:
    """Rows where one tool's verdict is the better one, with what was found of the other."""
    order = {"no": 0, "part": 1, "yes": 2}
    found = []
    for row in asked:
        first, second = row[has], row[lacks]
        assert isinstance(first, Found) and isinstance(second, Found)
        if order.get(first.verdict, -1) > order.get(second.verdict, 9):
            what = f"{second.verdict}: {escaped(second.detail)}"
            found.append(f"{row[0]}{MARKS[second.how]} ({what})")
    return found


def _list(title: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield from (f"{title}:", "", *(f"- {item}" for item in items), "")
    else:
        yield from (f"{title}: nothing of what was asked.", "")


def _all(features: Result) -> Iterator[str]:
    yield from ("", "## All features", "")
    for title, found in features.data["results"].items():
        tools = list(dict.fromkeys(tool for answers in found.values() for tool in answers))
        rows = [
            [
                name,
                *(marked(Found(**a[t]) if t in a else None) for t in tools),
                code(a[OURS]["source"]),
            ]
            for name, a in found.items()
        ]
        columns = ["feature", *tools, "what proves ampconvert's"]
        yield from (f"### {title}", "", *_table(columns, rows), "")
        yield from (_source(features, "features"), "")
    yield _legend(features)


def _legend(features: Result) -> str:
    return line_with(section(features.page, "# Features"), "Unmarked answers were measured")


def _source(result: Result, kind: str) -> str:
    return f"[{result.date}]({UP}{result.page}), repeated by `{REPEAT[kind]}`."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


if __name__ == "__main__":
    sys.exit(main())
