"""README's figures as they follow from the newest result files: each has to stand there.

The zoo's tables are written by benchmarks/readme.py; these are the figures within sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import median

from benchmarks.features.results import Result, latest, line_with, section, table_after

TOOLS = {  # README's name: the row in the conformance table
    "ampconvert": "ours rules",
    "ampconvert, all that no rule denies in FP16": "ours pinned",
    "onnxconverter-common": "onnxconverter-common",
    "onnxruntime": "onnxruntime",
    "modelopt": "modelopt",
}


def claims() -> Iterator[str]:
    """Every phrase with a figure, in single blanks; FileNotFoundError without result files."""
    for make in (
        _links,
        _conformance,
        _scale,
        _proofs,
        _errors,
        _searches,
        _training,
        _lint,
        _start,
    ):
        yield from make()


def _links() -> Iterator[str]:
    kinds = ("training", "lint-speed", "lint-findings", "conformance-float16", "scale", "analysis")
    for kind in (*kinds, "startup", "zoo-float16", "zoo-bfloat16"):
        yield f"({latest(kind).page})"


def _conformance() -> Iterator[str]:
    result = latest("conformance-float16")
    count = len(result.data["models"])
    lines = section(result.page, "## float16:")
    head, *body = table_after(lines, "| tool |")
    rows = {row[0]: dict(zip(head, row, strict=True)) for row in body}
    for name, row in TOOLS.items():
        cells = [rows[row][k] for k in ("valid", "loads", "agrees in ORT", "no failure")]
        if name != "ampconvert":
            cells = [cell.partition(" of ")[0] for cell in cells]
        yield f"| {name} | {' | '.join(cells)} |"
    runs = _numbers(lines[0])[1]
    yield f"{count:,} ONNX models with float32 tensors"
    yield f"converted to float16 on {result.date}"
    yield f"ONNX Runtime runs {runs:,.0f} of them in FP32:"


def _scale() -> Iterator[str]:
    result = latest("scale")
    points = {(p["kind"], p["size"], p["tool"]): p["rounds"] for p in result.data["points"]}

    def middle(kind: str, size: int, key: str, tool: str = "ampconvert") -> float:
        return float(median(r[key] for r in points[kind, size, tool]))

    small, large = (middle("mixed", size, "cpu_seconds") for size in (2000, 50000))
    yield f"{small:.1f} s of processor time at 2,000 nodes, {large:.0f} s at 50,000"
    seconds, memory = (middle("weights", 6000, key) for key in ("seconds", "peak_mb"))
    yield f"6 GB of weights converted in {seconds:.0f} s, with {memory:.0f} MiB of memory"
    yield f"{middle('weights', 6000, 'peak_mb', 'ampconvert, verified'):.0f} MiB with parity"


def _proofs() -> Iterator[str]:
    result = latest("analysis")
    found = {k: v for k, v in result.data["results"].items() if k.startswith("proof ")}
    known, small = (found[f"proof {name} float16"] for name in ("minilm_l6", "small_gpt"))
    if known["proved"] == known["ops"]:
        yield f"all {known['ops']} float operators of all-MiniLM-L6-v2 for any token ids"
    else:
        yield f"{known['proved']} of {known['ops']} float operators of all-MiniLM-L6-v2"
    yield f"bounds {known['slack_median']:.0f} times what was seen"
    yield f"{small['proved'] / small['ops']:.0%} of a small GPT".replace("%", " %")
    zoo = result.data["results"]["zoo"]["models"]
    whole = sum(model["PROVED"] == model["ops"] for model in zoo.values())
    yield f"all operators of {whole} of the zoo's {len(zoo)} models"
    deep = zoo["yolov8n"]
    yield f"{deep['PROVED'] / deep['ops']:.0%} of yolov8n".replace("%", " %")
    if not any(one["violations"] for one in found.values()):
        yield "No bound was broken by random or adversarial inputs."


def _errors() -> Iterator[str]:
    result = latest("analysis")
    head, *body = table_after(section(result.page, "## Predicted error per op, float16"), "| model")
    ours, largest = (
        [
            float(row[head.index(name)]) for row in body if row[1] and row[head.index(name)] != "-"
        ]  # the last row is the medians
        for name in ("ours", "largest value")
    )
    yield f"rank correlation with the measured one {_short(median(ours))} (median of {len(ours)}"
    yield f"the largest value that others go by has {_short(median(largest))}"
    plan = section(result.page, "## The plan that a conversion takes, float16")
    _, near, models, _, twice = _numbers(line_with(plan, "Within 1.3 times"))
    rest = "all" if twice == models else f"{twice:.0f}"
    yield f"within 1.3 times on {near:.0f} of {models:.0f} models in FP16, within 2 times on {rest}"


def _searches() -> Iterator[str]:
    result = latest("analysis")
    lines = section(result.page, "## Against autocast's op lists, float16")
    models, such = _numbers(line_with(lines, "have such a plan"))[:2]
    yield f"a plan that is neither slower nor less exact on {such:.0f} of {models:.0f}"


def _training() -> Iterator[str]:
    result = latest("training")
    lines = section(result.page, "# Training")
    ours, cases, theirs, of = _numbers(line_with(lines, "standard deviation of float32"))[:4]
    yield f"within one standard deviation of FP32's in {ours:.0f} of {cases:.0f} cases"
    yield f"torch.autocast in {theirs:.0f} of {of:.0f}"
    yield from _overflow(result)
    yield from _steps(result, lines)
    yield from _saved(result, lines)


def _overflow(result: Result) -> Iterator[str]:
    head, *body = table_after(section(result.page, "## Overflow in the forward"), "| run |")
    rows = {(row[0], row[1]): dict(zip(head, row, strict=True)) for row in body}
    scores, squares = "attention scores", "hand-written RMSNorm"
    skipped = int(rows[scores, "autocast"]["steps skipped"])
    yield f"skips {skipped:,} of 1,500 steps in one and learns nothing in the other"
    ours = {int(rows[run, "ours"]["steps skipped"]) for run in (scores, squares)}
    assert len(ours) == 1, "the two runs skip different numbers of steps: README says one"
    off = max(
        abs(float(rows[run, "ours"]["final"]) / float(rows[run, "float32"]["final"]) - 1)
        for run in (scores, squares)
    )
    yield f"ours skips {ours.pop()} in each and ends within {-(-off * 100 // 1):.0f} % of FP32's"


def _steps(result: Result, lines: list[str]) -> Iterator[str]:
    head, *body = table_after(section(result.page, "## Time of a step, bfloat16"), "| model")
    ratios = [float(row[head.index("ours/autocast")]) for row in body]
    good, cases = _numbers(line_with(lines, "Target: no model slower"))[1:3]
    yield (
        f"{min(ratios):.2f} to {max(ratios):.2f} times, at most 1.00 in {good:.0f} of {cases:.0f}"
    )
    size, fast, small = _numbers(line_with(lines, "Batches of at most"))[:3]
    yield f"Batches of at most {size:.0f}: faster in {fast:.0f} of {small:.0f}"


def _saved(result: Result, lines: list[str]) -> Iterator[str]:
    head, *body = table_after(section(result.page, "## Saved for the backward"), "| model")
    shares = []
    for dtype in ("float16", "bfloat16"):
        ours, theirs = (head.index(f"{way} {dtype}") for way in ("ours for memory", "autocast"))
        shares += [
            float(row[ours]) / float(row[theirs])
            for row in body
            if "-" not in (row[ours], row[theirs])
        ]
    yield f"{min(shares):.2f} to {max(shares):.2f} of autocast's"
    more = _numbers(line_with(lines, "Ours keeps more than autocast").replace("float16", ""))
    yield f"BF16 on a CPU keeps up to {max(n for n in more if n < 10):.1f} times as much"


def _lint() -> Iterator[str]:
    speed, findings = latest("lint-speed"), latest("lint-findings")
    whole = next(t for n, t in speed.data["results"].items() if n.startswith("all"))
    cpu = {one["tool"]: one["cpu_s"] for one in whole}
    one_file = {one["tool"]: one["cpu_s"] for one in speed.data["results"]["start-up"]}
    yield (
        f"{cpu['ampconvert lint']:.1f} CPU seconds, "
        f"{cpu['ampconvert lint, cache unchanged']:.2f} with an unchanged cache; "
        f"ruff {cpu['ruff']:.1f}; TorchFix 0.7.0 {round(cpu['TorchFix'], -1):,.0f}"
    )
    yield f"One file from start to end: {one_file['ampconvert lint']:.2f}"
    recall = findings.data["results"]["recall"]["default"]
    made = recall["found"] + len(recall["missed"])
    yield f"of {made} in {recall['snippets']} snippets"
    yield f"{recall['found']} ({recall['found'] / made:.0%})".replace("%", " %")
    if not recall["false"]:
        yield "with nothing reported that is right"
    true, read = _numbers(line_with(section(findings.page, "# ampconvert"), "Rules that are on:"))
    yield f"read in published code: {true:.0f} of {read:.0f}"


def _start() -> Iterator[str]:
    result = latest("startup")
    sizes = result.data["results"]["sizes"]
    bytes_of = {one["name"]: one["bytes"] for one in sizes["archives"] + sizes["environments"]}
    (wheel,) = (size for name, size in bytes_of.items() if name.endswith(".whl"))
    yield f"The wheel has {wheel / 1e6:.1f} MB"
    yield f"{bytes_of['3.11-onnx-ort'] / 1e6:,.0f} MB of packages for ONNX models"
    yield f"{bytes_of['3.11-all'] / 1e6:,.0f} MB with PyTorch for the CPU"
    times = {one["name"]: one["wall_s"] for one in result.data["results"]["times"]}
    yield f"`ampconvert --help` answers in {times['ampconvert --help']:.2f} s"


def _short(share: float) -> str:
    """.95, as README writes correlations."""
    return f"{share:.2f}".removeprefix("0")


def _numbers(line: str) -> list[float]:
    """Every number in a line, in order."""
    return [float(n.replace(",", "")) for n in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?", line)]
