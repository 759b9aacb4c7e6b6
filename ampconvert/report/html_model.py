"""The page's sections on the model: what each operator runs in, where the error and the time are.

The tree, the plots and the long lists are made by the page's script from packed data; what stands
here says in words what they show, and what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from ampconvert.report.html_data import front, number
from ampconvert.report.html_elements import (
    Child,
    Column,
    bullets,
    element,
    precision,
    table,
    to_tree,
)
from ampconvert.report.html_verdict import low_of
from ampconvert.report.words import figure, percent, plural, short_op, size, type_name

Data = Mapping[str, Any]

NEEDS_SCRIPT = "This part is drawn by the page's script, and scripts are switched off."


def model(data: Data) -> Element:
    """The tree of operators, above it the verdicts in a table."""
    nodes = list(data.get("nodes") or ())
    parts: list[Child] = []
    if nodes:
        parts.append(element("div", _no_script(), data_part="tree"))
    else:
        parts.append(_missing("operators"))
    parts += [*_verdicts(data), *_worst(data)]
    return _section("model", "The model, operator by operator", *parts)


def depth(data: Data) -> Element:
    """The error along the depth of the model."""
    nodes = list(data.get("nodes") or ())
    predicted = any(n.get("output_error") is not None for n in nodes)
    measured = bool((data.get("differences") or {}).get("values"))
    lines: list[Child] = []
    if predicted:
        lines.append(
            "Predicted: the error of the model's outputs that all rounding up to here is expected "
            "to cause, the root of the sum of squares over the operators so far."
        )
    if measured:
        lines.append(
            "Measured: how far this operator's own result is from FP32's, on the first batch. It "
            "is another quantity than the predicted one: what is off inside need not reach the "
            "outputs."
        )
    if not lines:
        return _section("depth", "Error along the depth", _missing("errors of its operators"))
    absent = "" if predicted and measured else (
        "Nothing was measured inside the model." if predicted else "No error was predicted."
    )  # fmt: skip
    return _section(
        "depth", "Error along the depth", bullets(lines),
        element("p", absent, class_="missing") if absent else None, _plot("depth"),
    )  # fmt: skip


def ranges(data: Data) -> Element:
    """What values were seen to hold, against what the low type can hold."""
    nodes = list(data.get("nodes") or ())
    if not any(n.get("seen") for n in nodes):
        return _section("ranges", "Value ranges", _missing("ranges of its values"))
    low = type_name(low_of(data))
    return _section(
        "ranges", "Value ranges",
        element(
            "p",
            f"Magnitudes of each operator's results in FP32 on the data given, from the smallest "
            f"that is not zero to the largest, against the range of {low}. Infinities and what a "
            "mask hides are no part of them.",
        ),
        *_settled(nodes), _plot("ranges"),
    )  # fmt: skip


def time_and_error(data: Data) -> Element | None:
    """The plans worth having; nothing where no front was made."""
    found = front(data)
    if found is None:
        return None
    rows = [
        [
            f"{p['point']}{_marks(p)}", _microseconds(p["seconds"]),
            _speed_up(found["seconds_full"], p["seconds"]), _count(p["full"]), _count(p["casts"]),
            figure(number(p["error"])),
            figure(number(p["measured"])) if p["finite"] else "not finite",
        ]
        for p in found["points"]
    ]  # fmt: skip
    columns = [
        Column("Point"), Column("Predicted time", right=True), Column("Speed-up", right=True),
        Column("Ops in FP32", right=True), Column("Casts", right=True, wide=True),
        Column("Predicted error", right=True), Column("Measured error", right=True),
    ]  # fmt: skip
    target = data.get("runtime") or "an H100"
    return _section(
        "front", "Time against error",
        element(
            "p",
            f"Times are predicted for {target} at the example's sizes, operator by operator, each "
            "a kernel of its own; none was measured. Errors are relative L2 errors of the worst "
            "output.",
        ),
        _plot("front"), table(columns, rows, "Plans worth having, from the fastest on"),
    )  # fmt: skip


def casts(data: Data) -> Element:
    """Casts and weights."""
    summary = data.get("summary") or {}
    parts: list[Child] = []
    if summary:
        told = (
            f"{plural(summary['casts'], 'cast')} of activations, moving "
            f"{size(summary.get('cast_bytes') or 0)} per run"
        )
        in_onnx = data.get("casts_onnx")
        if in_onnx is not None and in_onnx != summary["casts"]:
            told += f" ({plural(in_onnx, 'Cast node')} in the ONNX file)"
        parts.append(element("p", f"{told}."))
        parts.append(_weights(summary))
    if data.get("casts"):
        parts.append(element("div", _no_script(), data_part="casts"))
    elif "casts" not in data:
        parts.append(_missing("list of casts"))
    return _section("casts", "Casts and weights", *parts)


def _section(name: str, title: str, *parts: Child) -> Element:
    return element("section", element("h2", title), *parts, id=name, class_="card")


def _plot(name: str) -> Element:
    return element("div", _no_script(), class_="plots", data_plot=name)


def _no_script() -> Element:
    return element("noscript", element("p", NEEDS_SCRIPT, class_="missing"))


def _missing(what: str) -> Element:
    text = (
        f"This report holds no {what}: it was not asked for, or a version wrote it that kept none."
    )
    return element("p", text, class_="missing")


def _verdicts(data: Data) -> Iterator[Element]:
    verdicts = (data.get("summary") or {}).get("verdicts") or ()
    if not verdicts:
        return
    low = type_name(low_of(data))
    yield element("h3", "Verdicts")
    yield table(
        [Column("Verdict"), Column("Ops", right=True), Column(f"Run in {low}", right=True),
         Column("Share of FLOPs", right=True)],
        [
            [v["name"], f"{v['nodes']:,}", f"{v['in_low']:,}", percent(float(v["flops_share"]))]
            for v in verdicts
        ],
        "Verdicts by number of operators and share of FLOPs",
    )  # fmt: skip
    unknown = (data.get("summary") or {}).get("unknown_ops") or ()
    if unknown:
        yield element(
            "p", f"No rule names {', '.join(unknown)}: kept in FP32. Give rules of your own with "
            "--rules.", class_="warn",
        )  # fmt: skip


def _worst(data: Data) -> Iterator[Element]:
    worst = (data.get("summary") or {}).get("worst") or ()
    if not worst:
        return
    yield element("h3", "Worst operators, by share of the predicted squared error of the outputs")
    yield table(
        [Column("Operator"), Column("Share", right=True), Column("Error", right=True),
         Column("Runs in"), Column("Line", wide=True), Column("Why it runs in that", wide=True)],
        [
            [
                to_tree(w, f"{short_op(w['op'])} {w.get('scope') or w['node']}"),
                percent(number(w.get("share")) or 0.0), figure(number(w.get("error"))),
                precision(w.get("compute")), w.get("where") or "-", w.get("reason") or "",
            ]
            for w in worst
        ],
        "Operators with the largest predicted error",
    )  # fmt: skip


def _settled(nodes: Sequence[Data]) -> Iterator[Element]:
    """What was decided by a number: seen in data or weights, or proved."""
    decided = [
        n for n in nodes
        if n.get("evidence") in ("seen", "proved") and n.get("figure") is not None
        and n.get("runs_in")
    ]  # fmt: skip
    if not decided:
        return
    lines: list[Child] = [
        [
            to_tree(n),
            f"{_at(n)}: {n.get('reason')}",
        ]
        for n in decided
    ]  # fmt: skip
    told = element("summary", f"{plural(len(decided), 'operator')} settled by numbers")
    yield element("details", told, bullets(lines), open=len(decided) <= 6)


def _at(n: Data) -> str:
    return f" ({n['where']})" if n.get("where") else ""


def _weights(summary: Data) -> Element:
    rows = []
    for name, key in (("Weights", "weight_bytes"), ("Activations at the peak", "activation_bytes")):
        if summary.get(key):
            before, after = summary[key]
            change = f"{(after - before) / before * 100:+.0f}%" if before else "-"
            rows.append([name, size(before), size(after), change])
    columns = [Column("Memory"), Column("Before", right=True), Column("After", right=True),
               Column("Change", right=True)]  # fmt: skip
    return table(columns, rows, "Memory before and after")


def _marks(point: Data) -> str:
    return f"{' chosen' if point['chosen'] else ''}{' default' if point['default'] else ''}"


def _speed_up(before: Any, after: Any) -> str:
    full, planned = number(before), number(after)
    return f"{full / planned:.2f}" if full and planned else "-"


def _microseconds(value: Any) -> str:
    found = number(value)
    return "-" if found is None else f"{found * 1e6:.4g} us"


def _count(value: Any) -> str:
    return "-" if value is None else f"{value:,}"
