"""The page's sections on what may go wrong: hazards, lint, overflow, repairs, loss scale, notes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from statistics import median
from typing import Any
from xml.etree.ElementTree import Element

from ampconvert.findings import SEVERITIES
from ampconvert.report.html_data import number
from ampconvert.report.html_elements import Child, Column, bullets, element, facts, table, to_tree
from ampconvert.report.html_verdict import low_of
from ampconvert.report.words import duration, figure, percent, plural, size, type_name

Data = Mapping[str, Any]

LEVELS = ("PROVED", "CALIBRATED", "AT RISK")
MOST = 40  # rows of a list that a large model could make long; the rest is counted
_FILES = {
    "onnx": "for ONNX Runtime, TensorRT",
    "onnx data": "its weights: keep them together",
    "pt2": "torch.export.load(...).module()",
    "plan": "every decision; --plan applies it again",
}


def hazards(data: Data) -> Element:
    """What goes wrong in the low type: open hazards first, those that the plan handles after."""
    found = sorted(data.get("hazards") or (), key=_rank)
    todo = [h for h in found if h.get("open")]
    done = [h for h in found if not h.get("open")]
    parts: list[Child] = []
    if found:
        told = (
            f"{len(todo):,} open in {type_name(low_of(data))}, {len(done):,} handled by the plan."
        )
        parts.append(element("p", told))
        parts.append(element("ul", [_finding(h) for h in todo[:MOST]], class_="findings"))
        parts += _more(len(todo))
    elif "hazards" in data:
        parts.append(element("p", "No hazard was found."))
    else:
        parts.append(element("p", "Hazards were not looked for.", class_="missing"))
    if done:
        items = element("ul", [_finding(h) for h in done[:MOST]], class_="findings")
        told = f"{plural(len(done), 'hazard')} handled by the plan"
        parts.append(element("details", element("summary", told), items, *_more(len(done))))
    return element("section", element("h2", "Hazards"), *parts, *_lint(data), *_safety(data),
                   *_alone(data), id="hazards", class_="card")  # fmt: skip


def repairs(data: Data) -> Element | None:
    """Repairs that were made, can be made, and do not fit; nothing where there are none."""
    made = list(data.get("repairs_made") or ())
    offered = list(data.get("repairs_offered") or ())
    declined = list(data.get("repairs_declined") or ())
    if not (made or offered or declined):
        return None
    parts: list[Child] = []
    if made:
        counts = Counter(str(r.get("kind")) for r in made)
        told = ", ".join(f"{kind} in {plural(n, 'place')}" for kind, n in counts.items())
        parts += [element("h3", f"Made: {told}"), bullets(_described(r) for r in made[:MOST])]
        parts += _more(len(made))
    if offered:
        parts += [element("h3", "Offered: what --repair makes"), _offers(offered)]
        firsts = [r for o in offered for r in list(o.get("repairs") or ())[:1]]
        parts.append(bullets(_described(r) for r in firsts))
    if declined:
        parts.append(element("h3", "Places that a repair does not fit"))
        parts.append(bullets(f"No {_described(r)}" for r in declined[:MOST]))
        parts += _more(len(declined))
    return element("section", element("h2", "Repairs"), *parts, id="repairs", class_="card")


def loss_scale(data: Data) -> Element | None:
    """The window of loss scales for training; nothing where it was not asked for."""
    advice = data.get("loss_scale")
    if not advice:
        return None
    window = advice.get("window")
    shown = f"2^{window[0]} to 2^{window[1]}" if window else "no window"
    parts: list[Child] = [
        element("p", f"{shown}; use {number(advice.get('recommended')) or 0:g}."),
        element("p", f"{advice.get('reason', '')} The gradient is of {advice.get('loss', '?')}."),
    ]
    outside = list(advice.get("outside") or ())
    if outside:
        rows = [
            [
                str(o.get("label") or o.get("scope") or o.get("name")), f"2^{o.get('smallest')}",
                f"2^{o.get('largest')}", figure(number(o.get("largest_gradient"))),
                percent(number(o.get("lost")) or 0.0), str(o.get("where") or "-"),
            ]
            for o in outside[:MOST]
        ]  # fmt: skip
        columns = [Column("Tensor"), Column("From", right=True), Column("To", right=True),
                   Column("Largest gradient", right=True), Column("Lost", right=True),
                   Column("Line", wide=True)]  # fmt: skip
        parts += [table(columns, rows, "Tensors outside the window"), *_more(len(outside))]
    return element("section", element("h2", "Loss scale"), *parts, id="loss-scale", class_="card")


def notes(data: Data) -> Element:
    """What else was noticed, and rules that matched nothing."""
    lines: list[Child] = [str(note) for note in data.get("notes") or ()]
    unused = list(data.get("unused_rules") or ())
    if unused:
        names = ", ".join(repr(name) for name in unused)
        lines.insert(0, f"Matched nothing: {names}. Check the spelling; `ampconvert explain` shows "
                     "the names.")  # fmt: skip
    lines += _nothing_to_do(data)
    body = bullets(lines) if lines else element("p", "There is nothing to note.")
    return element("section", element("h2", "Notes"), body, id="notes", class_="card")


def provenance(data: Data) -> Element:
    """Where the figures come from: version, files, timings, and the plan's fingerprint."""
    rows: list[tuple[str, Child]] = []
    if data.get("version"):
        rows.append(("Version", f"ampconvert {data['version']}"))
    if data.get("schema") is not None:
        rows.append(("Schema of the data", str(data["schema"])))
    if data.get("plan_fingerprint"):
        rows.append(("Plan's fingerprint", element("code", str(data["plan_fingerprint"]))))
    for kind, file in (data.get("files") or {}).items():
        shown = size(file["bytes"]) if file.get("bytes") is not None else "-"
        # The name alone: a report is passed on, and folders say more than its reader should know.
        name = PurePath(str(file.get("path"))).name
        rows.append((f"File, {kind}", f"{name}, {shown}, {_FILES.get(kind, kind)}"))
    parts: list[Child] = [facts(rows)] if rows else []
    seconds = {k: number(v) or 0.0 for k, v in (data.get("seconds") or {}).items()}
    if seconds:
        stages = [[k, duration(v)] for k, v in sorted(seconds.items(), key=lambda kv: -kv[1])]
        listed = table([Column("Stage"), Column("Time", right=True)], stages, "Time of each stage")
        parts.append(element("details", element("summary", "Time of each stage"), listed))
    parts.append(
        element("p", "The page holds names, figures and source lines. It holds no weights and no "
                "data, and loads nothing from elsewhere.", class_="quiet")
    )  # fmt: skip
    return element("section", element("h2", "Provenance"), *parts, id="provenance", class_="card")


def _rank(one: Data) -> tuple[int, str]:
    severity = one.get("severity")
    return (SEVERITIES.index(severity) if severity in SEVERITIES else 9, str(one.get("code")))


def _finding(one: Data) -> Element:
    where = one.get("where") or {}
    place = str(where.get("text") or where.get("scope") or where.get("node") or "")
    node = where.get("node") or next(iter(one.get("nodes") or ()), "")
    shown: Child = place
    if node and place:
        shown = to_tree({"node": node}, place)
    last = one.get("handled") or one.get("advice") or ""
    severity = str(one.get("severity") or "info")
    return element(
        "li",
        element(
            "p",
            element("span", severity, class_=f"severity {severity}"),
            " ", element("strong", f"{one.get('code')} {one.get('name') or ''}"), " ", shown,
        ),
        element("p", str(one.get("message") or "")),
        element("p", str(last), class_="quiet") if last else None,
    )  # fmt: skip


def _lint(data: Data) -> Iterator[Element]:
    found = list(data.get("lint") or ())
    if found:
        told = f"{plural(len(found), 'finding')} in the model's source; `ampconvert rule CODE`"
        yield element("h3", told, id="source")
        yield element("ul", [_finding(f) for f in found[:MOST]], class_="findings")
        yield from _more(len(found))


def _safety(data: Data) -> Iterator[Element]:
    """How many operators can't overflow, and why the others might."""
    nodes = [n for n in data.get("nodes") or () if n.get("safety")]
    if not nodes:
        return
    low = low_of(data)
    counts = Counter(n["safety"].get("level") for n in nodes)
    shown = ", ".join(f"{counts[level]:,} {level}" for level in LEVELS if counts[level])
    yield element("h3", f"Overflow in {type_name(low)}: {shown}")
    if data.get("proof"):
        yield element("p", _proved(data["proof"], nodes, low))
    risky = [n for n in nodes if n["safety"].get("level") == "AT RISK"]
    risky.sort(key=lambda n: n.get("runs_in") != low)
    yield bullets([_risk(n) for n in risky[:MOST]])
    yield from _more(len(risky))
    yield from _domains(data, {str(n.get("node")): n for n in nodes}, low)


def _risk(n: Data) -> Child:
    place = to_tree(n)
    runs = type_name(n.get("runs_in") or "float32")
    where = f" ({n['where']})" if n.get("where") else ""
    return [f"AT RISK, runs in {runs}: ", place, f"{where}: {n['safety'].get('reason')}"]


def _proved(proof: Data, nodes: Sequence[Data], low: str) -> str:
    proved = [n["safety"] for n in nodes if n["safety"].get("level") == "PROVED"]
    share = percent(len(proved) / max(1, len(nodes)))
    slacks = [s for one in proved if (s := number(one.get("slack"))) and math.isfinite(s)]
    slack = f"; bounds are {median(slacks):.2g} times what was seen (median)" if slacks else ""
    text = (
        f"{share} of the operators are proved: under this plan no input within the declared ranges "
        f"can overflow them in {type_name(low)}{slack}. "
        f"Took {duration(number(proof.get('seconds')) or 0.0)}."
    )
    for pattern, values in (proof.get("assumed") or {}).items():
        text += f" Assumed: {pattern} stays within its contract ({plural(len(values), 'value')})."
    for note in proof.get("notes") or ():
        text += f" {note[:1].upper()}{note[1:]}."
    return text


def _domains(data: Data, nodes: Mapping[str, Data], low: str) -> Iterator[Element]:
    """Arguments of roots, logarithms and quotients that may reach zero, in the low type."""
    domains = list((data.get("proof") or {}).get("domains") or ())
    if not domains:
        return
    unclear = [c for c in domains if not c.get("clear")]
    inside = [c for c in unclear if (nodes.get(c.get("node", "")) or {}).get("runs_in") == low]
    yield element(
        "p",
        f"Domains: {len(domains) - len(unclear)} of {plural(len(domains), 'argument')} of roots, "
        f"logarithms, quotients and powers stay clear of zero; {len(inside)} of the others run in "
        f"{type_name(low)}.",
    )
    if inside:
        yield bullets([f"{c.get('node')}: {c.get('reason')}" for c in inside[:MOST]])
        yield from _more(len(inside))


def _alone(data: Data) -> Iterator[Element]:
    """The operators that err most when each runs alone in the low type."""
    nodes = [n for n in data.get("nodes") or () if n.get("alone")]
    if not nodes:
        return
    ranked = sorted(nodes, key=lambda n: -(number(n["alone"].get("measured")) or 0.0))[:12]
    yield element("h3", f"Measured: each operator alone in {type_name(low_of(data))}")
    yield table(
        [Column("Operator"), Column("Predicted", right=True), Column("Measured", right=True),
         Column("Runs in")],
        [
            [
                to_tree(n),
                figure(number(n["alone"].get("predicted"))),
                figure(number(n["alone"].get("measured"))),
                type_name(n.get("runs_in") or "float32"),
            ]
            for n in ranked
        ],
        "Relative L2 error of the outputs with one operator in the low type",
    )  # fmt: skip


def _offers(offered: Sequence[Data]) -> Element:
    rows = []
    for o in offered:
        required, seconds = o.get("required") or (0, 0), o.get("seconds") or (0.0, 0.0)
        before, after = (number(e) for e in o.get("error") or (None, None))
        error = "-" if before is None or after is None else f"{figure(before)} → {figure(after)}"
        rows.append([
            str(o.get("kind")), f"{len(o.get('repairs') or ()):,}",
            f"{required[0]:,} → {required[1]:,}",
            f"{seconds[0] * 1e6:.4g} → {seconds[1] * 1e6:.4g} us", error,
        ])  # fmt: skip
    columns = [Column("Kind"), Column("Places", right=True), Column("FP32-required", right=True),
               Column("Predicted time", right=True),
               Column("Predicted error", right=True)]  # fmt: skip
    return table(columns, rows, "Repairs that can be made, before and after")


def _described(repair: Data) -> str:
    where = f" ({repair['where']})" if repair.get("where") else ""
    node = next(iter(repair.get("nodes") or ("?",)))
    return f"{repair.get('kind')} at {node}{where}: {repair.get('reason')}"


def _nothing_to_do(data: Data) -> Iterator[str]:
    """What a user wonders at who converts a model that is converted already, or has no floats."""
    nodes = list(data.get("nodes") or ())
    if not nodes:
        return
    if not any(n.get("runs_in") for n in nodes):
        yield "No operator works on FP32 tensors: nothing is left to convert."
    elif not any(n.get("runs_in") == low_of(data) for n in nodes):
        yield f"No operator runs in {type_name(low_of(data))} under this plan."


def _more(count: int) -> list[Element]:
    return [element("p", f"and {count - MOST:,} more", class_="quiet")] if count > MOST else []
