"""Sections of the Markdown page on the model: operators, casts, hazards, plans, proofs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from ampconvert.findings import SEVERITIES
from ampconvert.plan import FLOAT32
from ampconvert.report.markdown_text import bullets, code, folded, prose, table
from ampconvert.report.reading import entries, number, part
from ampconvert.report.words import figure, percent, plural, short_op, size, type_name

SHOWN = 12  # rows shown at once; more are folded away
MOST = 40  # rows in all
LEVELS = ("PROVED", "CALIBRATED", "AT RISK")


def worst(data: Mapping[str, Any]) -> str:
    """The operators that cause most of the predicted error, with the reason for their types."""
    rows = [
        [
            percent(number(op["share"]) or 0.0),
            prose(short_op(str(op["op"]))),
            _place(op),
            type_name(str(op["compute"])),
            figure(number(op["error"])),
            prose(op.get("where") or "-", 100),
            prose(op.get("reason") or "-", 300),
        ]
        for op in entries(part(data, "summary"), "worst")
    ]
    if not rows:
        return ""
    columns = ("share", "operator", "at", "in", "error", "line", "reason")
    told = "By share of the predicted squared error of the outputs; error is relative L2."
    return f"{told}\n\n{table(columns, rows, right=(0, 4))[0]}"


def kept_in_float32(data: Mapping[str, Any]) -> str:
    """The operators that run in FP32, those with one rule and one reason together."""
    groups: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for node in entries(data, "nodes"):
        if node.get("runs_in") == FLOAT32:
            key = ("op", "class", "rule", "reason")
            groups.setdefault(_texts(node, key), []).append(node)
    if not groups:
        return "" if "nodes" not in data else "Nothing: no operator on floats runs in FP32."
    ranked = sorted(groups.items(), key=lambda item: (item[0][1] != "deny", -len(item[1])))
    rows = [
        [
            f"{len(nodes):,}",
            prose(short_op(op)) or "-",
            prose(nodes[0].get("verdict") or "-"),
            code(rule),
            _why(nodes[0], cls, reason),
            _place(nodes[0]),
        ]
        for (op, cls, rule, reason), nodes in ranked
    ]
    columns = ("operators", "operator", "verdict", "rule", "why", "first at")
    return _cut(columns, rows, (0,), "kind", sum(map(len, groups.values())))


def casts(data: Mapping[str, Any]) -> str:
    """The casts of activations, those that move most bytes first."""
    given = sorted(entries(data, "casts"), key=lambda c: -(number(c.get("bytes")) or 0.0))
    rows = [
        [
            code(cast.get("label") or cast.get("value")),
            f"{type_name(str(cast['from']))} to {type_name(str(cast['to']))}",
            "-" if cast.get("bytes") is None else size(number(cast["bytes"]) or 0.0),
            _microseconds(cast.get("seconds")),
            code(cast["maker"]) if cast.get("maker") else "input",
            _names(cast.get("readers") or ()),
        ]
        for cast in given
    ]
    columns = ("value", "cast", "moves", "predicted", "made by", "read by")
    return _cut(columns, rows, (2, 3), "cast") if rows else ""


def differences(data: Mapping[str, Any]) -> str:
    """The layers that add most to the plain difference from float32."""
    layers = [(_grown(layer), layer) for layer in entries(part(data, "differences"), "layers")]
    growing = sorted((pair for pair in layers if pair[0] > 0), key=lambda pair: -pair[0])
    rows = [
        [
            code(layer.get("scope") or "the model"),
            figure(number(layer["before"])),
            figure(number(layer["rel_l2"])),
            f"{figure(number(part(layer, 'worst').get('max_abs')))} at "
            f"{code(part(layer, 'worst').get('node'))}",
        ]
        for _, layer in growing[:SHOWN]
    ]
    if not rows:
        return ""
    columns = ("layer", "before", "after", "largest difference of one element")
    shown = table(columns, rows, right=(1, 2))[0]
    return f"Relative L2 error where a layer begins and ends; those that add most.\n\n{shown}"


def findings(found: Sequence[Mapping[str, Any]]) -> str:
    """Hazards or findings of the linter: open ones first, equal ones together."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for one in found:
        groups.setdefault(_texts(one, ("code", "severity", "handled")), []).append(one)
    ranked = sorted(groups.items(), key=lambda item: (bool(item[0][2]), _severity(item[0][1])))
    lines = []
    for (name, severity, handled), alike in ranked:
        first = alike[0]
        place = prose(part(first, "where").get("text") or "", 150)
        where = f"{plural(len(alike), 'place')}, first {place}" if alike[1:] else place
        title = f"{prose(name)} {prose(first.get('name') or '')}, {prose(severity)}"
        after = (
            f"handled: {prose(handled)}"
            if handled
            else f"{prose(first['message'])}. {prose(first.get('advice') or '')}"
        )
        lines.append(f"**{title}** at {where or 'the model'}: {after}".strip())
    if not lines:
        return ""
    shown, count = bullets(lines[:MOST])
    is_open = sum(len(alike) for (_, _, handled), alike in groups.items() if not handled)
    told = f"{is_open:,} open, {len(found) - is_open:,} handled by the plan."
    rest = f"\n\nand {plural(len(lines) - count, 'more kind')}" if len(lines) > count else ""
    return f"{told}\n\n{shown}{rest}"


def front(data: Mapping[str, Any]) -> str:
    """Predicted time against error of the plans worth having."""
    given = entries(data, "points")  # of --pareto
    full = number(data.get("seconds_full"))
    if not given:
        given = entries(part(data, "front"), "points")
        full = number(part(data, "front").get("seconds_full"))
    rows = []
    for row, point in enumerate(given, 1):
        seconds = number(point["seconds"]) or 0.0
        measured = number(point.get("measured_error", point.get("measured")))
        marks = [word for word in ("chosen", "default") if point.get(word)]
        rows.append(
            [
                f"{point.get('point', row)}",
                f"{seconds * 1e6:.4g} us",
                f"{full / seconds:.2f}" if full and seconds else "-",
                f"{point.get('full_ops', point.get('full')):,}",
                "-" if point.get("casts") is None else f"{point['casts']:,}",
                figure(number(point.get("predicted_error", point.get("error")))),
                figure(measured) if point.get("finite", True) else "not finite",
                ", ".join(marks) or "-",
            ]
        )
    if not rows:
        return ""
    columns = ("plan", "predicted time", "speed-up", "operators in FP32", "casts",
               "predicted error", "measured", "")  # fmt: skip
    told = f"FP32 is predicted to take {full * 1e6:.4g} us. " if full else ""
    shown = table(columns, rows, right=range(7))[0]
    return f"{told}Errors are relative L2 errors of the worst output.\n\n{shown}"


def overflow(data: Mapping[str, Any]) -> str:
    """How many operators can't overflow, and the ones that might, where that was asked for."""
    proof = part(data, "proof")
    levels = [(part(node, "safety"), node) for node in entries(data, "nodes")]
    known = [(safety, node) for safety, node in levels if safety]
    if not proof or not known:
        return ""
    counts = Counter(str(safety["level"]) for safety, _ in known)
    told = ", ".join(f"{counts[level]:,} {level}" for level in LEVELS if counts[level])
    slacks = [number(s["slack"]) for s, _ in known if s["level"] == "PROVED"]
    finite = [slack for slack in slacks if slack and math.isfinite(slack)]
    times = f" Bounds are {median(finite):.2g} times what was seen (median)." if finite else ""
    risky = [(s, n) for s, n in known if s["level"] == "AT RISK"]
    risky.sort(key=lambda pair: pair[1].get("runs_in") == FLOAT32)
    rows = [[_place(n), type_name(str(n.get("runs_in"))), prose(s["reason"])] for s, n in risky]
    shown = _cut(("at risk", "runs in", "why"), rows, (), "operator") if rows else ""
    return f"{told}.{times}\n\n{shown}".strip()


def measured_alone(data: Mapping[str, Any]) -> str:
    """The operators that err most when each runs alone in the low type, where that was measured."""
    found = [(part(node, "alone"), node) for node in entries(data, "nodes")]
    ranked = sorted(
        ((alone, node) for alone, node in found if alone),
        key=lambda pair: -(number(pair[0]["measured"]) or 0.0),
    )
    rows = [
        [
            f"{prose(short_op(str(node.get('op') or '')))} {_place(node)}",
            figure(number(alone["predicted"])),
            figure(number(alone["measured"])),
            type_name(str(node.get("runs_in"))),
        ]
        for alone, node in ranked
    ]
    columns = ("operator", "predicted", "measured", "runs in")
    return _cut(columns, rows, (1, 2), "operator") if rows else ""


def repairs(data: Mapping[str, Any]) -> str:
    """The repairs that were made, and those that `--repair` would make."""
    parts = []
    made = [_repaired(one) for one in entries(data, "repairs_made")]
    if made:
        shown, count = bullets(made[:MOST])
        rest = f"\n\nand {len(made) - count} more" if len(made) > count else ""
        parts.append(f"Made: {len(made):,}\n\n{shown}{rest}")
    rows = [
        [
            prose(offer["kind"]),
            f"{len(entries(offer, 'repairs')):,}",
            "{:,} → {:,}".format(*offer["required"]),
            " → ".join(_microseconds(s) for s in offer["seconds"]),
            " → ".join(figure(number(e)) for e in offer["error"]),
        ]
        for offer in entries(data, "repairs_offered")
    ]
    if rows:
        columns = ("kind", "places", "FP32-required", "predicted time", "predicted error")
        parts.append(f"Offered by --repair:\n\n{table(columns, rows, right=(1, 2, 3, 4))[0]}")
    return "\n\n".join(parts)


def loss_scale(data: Mapping[str, Any]) -> str:
    """The window of loss scales that the gradients allow, where that was asked for."""
    advice = part(data, "loss_scale")
    if not advice:
        return ""
    window = advice.get("window")
    told = f"2^{window[0]} to 2^{window[1]}" if window else "No window"
    use = number(advice["recommended"]) or 0.0
    return f"{told}; use {use:g}. {prose(advice['reason'])}"


def _repaired(one: Mapping[str, Any]) -> str:
    at = f" ({prose(one['where'])})" if one.get("where") else ""
    first = code(next(iter(one.get("nodes") or ()), ""))
    return f"{prose(one['kind'])} at {first}{at}: {prose(one['reason'])}"


def _cut(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Iterable[int],
    noun: str,
    total: int | None = None,
) -> str:
    """A table that says how many rows it leaves out, folded away where it is long."""
    shown, count = table(columns, rows[:MOST], right)
    rest = len(rows) - count
    if rest:
        shown += f"\n\nand {plural(rest, f'more {noun}')}"
    if len(rows) <= SHOWN:
        return shown
    given = plural(len(rows), noun)
    return folded(f"{given} of {total:,} operators" if total is not None else given, shown)


def _why(node: Mapping[str, Any], cls: str, reason: str) -> str:
    """The reason of a verdict says why FP32 only where the verdict, or a search, asks for it."""
    if cls == "deny" or node.get("evidence") == "search":
        return prose(reason, 400)
    return "Faster or more exact so in this plan."


def _place(node: Mapping[str, Any]) -> str:
    return code(node.get("scope") or node.get("node"))


def _grown(layer: Mapping[str, Any]) -> float:
    after, before = number(layer["rel_l2"]) or 0.0, number(layer["before"]) or 0.0
    return after - before if after < math.inf else math.inf


def _texts(one: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return tuple(str(one.get(key) or "") for key in keys)


def _names(readers: Sequence[Any]) -> str:
    more = f" and {len(readers) - 3} more" if len(readers) > 3 else ""
    return ", ".join(code(name) for name in readers[:3]) + more or "-"


def _microseconds(seconds: Any) -> str:
    return "-" if seconds is None else f"{(number(seconds) or 0.0) * 1e6:.4g} us"


def _severity(word: str) -> int:
    known: Sequence[str] = SEVERITIES
    return known.index(word) if word in known else len(known)
