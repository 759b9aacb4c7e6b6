"""The page's section on parity: every output's figures, the runs that it took, layers that add."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from ampconvert.report.html_data import number
from ampconvert.report.html_elements import Child, Column, bullets, element, outcome, table
from ampconvert.report.html_verdict import first_bad, how_measured, low_of, standing
from ampconvert.report.words import decibels, figure, percent, plural

Data = Mapping[str, Any]

LAYERS = 12  # rows of the layers that add most to the difference
_OK: dict[bool | None, str] = {True: "ok", False: "FAILED", None: "-"}
_HELD: dict[bool | None, str] = {True: "held", False: "failed", None: "-"}


def section(data: Data) -> Element:
    """Parity per output; what is not there is said."""
    return element(
        "section",
        element("h2", "Parity of each output"),
        *_content(data),
        id="parity",
        class_="card",
    )


def _content(data: Data) -> Iterator[Element]:
    parity = data.get("parity") or {}
    outputs = list(parity.get("outputs") or ())
    if not outputs:
        yield element("p", standing(data)[2], class_="missing")
    else:
        yield element("p", how_measured(data))
        yield _outputs(outputs)
        notes = [f"{o.get('output')}: {o['note']}" for o in outputs if o.get("note")]
        if notes:
            yield bullets(notes)
        if parity.get("first_bad"):
            yield element("p", first_bad(parity["first_bad"], low_of(data)), class_="warn")
        yield _histograms(outputs)
    yield from _attempts(data)
    yield from _layers(data)


def _outputs(outputs: Sequence[Data]) -> Element:
    own = any(o.get("reference_rel_l2") is not None for o in outputs)
    top = any(o.get("agree_top1") is not None for o in outputs)
    whole = any(_is_whole(o) for o in outputs)
    columns = [
        Column("Output"),
        Column("Relative L2", right=True),
        Column("Tolerance", right=True),
        *([Column("FP32's own", right=True, wide=True)] if own else []),
        Column("Max abs", right=True, wide=True),
        Column("SQNR", right=True, wide=True),
        Column("Cosine", right=True, wide=True),
        *([Column("Top-1", right=True)] if top else []),
        *([Column("Equal", right=True)] if whole else []),
        Column("Numbers", right=True, wide=True),
        Column("Finite"),
        Column("Parity"),
    ]
    rows = []
    for o in outputs:
        row: list[Child] = [
            str(o.get("output")), _told(o, "rel_l2"), _told(o, "tolerance"),
            *([_told(o, "reference_rel_l2")] if own else []),
            _told(o, "max_abs"), decibels(number(o.get("sqnr_db"))), _cosine(o.get("cosine")),
            *([_share(o.get("agree_top1"))] if top else []),
            *([_share(o.get("exact")) if _is_whole(o) else "-"] if whole else []),
            f"{o.get('samples') or 0:,}",
            "yes" if o.get("finite") else "NO",
            outcome(bool(o.get("ok")), _OK),
        ]  # fmt: skip
        rows.append(row)
    return table(columns, rows, "Error of each output against FP32")


def _histograms(outputs: Sequence[Data]) -> Element:
    """Where the script draws them; it says so itself where there are none."""
    if any(o.get("histogram") for o in outputs):
        return element("div", class_="plots", data_plot="histograms")
    return element("p", "This file holds no histogram of the errors.", class_="missing")


# A run that was made for no error: the first one, and those after what it showed to overflow.
_UNAIMED = ("the rules alone", "what overflowed taken back")


def _attempts(data: Data) -> Iterator[Element]:
    found = list(data.get("attempts") or ())
    if len(found) < 2 and not any(a.get("aim") for a in found):
        return
    trials = int(data.get("trial_runs") or 0)
    after = f" after {plural(trials, 'quick run')} of other plans" if trials else ""
    rows: list[list[Child]] = [
        [
            f"{place}", figure(number(a.get("aim"))) if a.get("aim") else _UNAIMED[place > 1],
            _told(a, "predicted"), _told(a, "measured"), f"{a.get('full') or 0:,}",
            _microseconds(a.get("seconds")), outcome(bool(a.get("ok")), _HELD),
        ]
        for place, a in enumerate(found, 1)
    ]  # fmt: skip
    yield element("h3", f"Found in {plural(len(found), 'parity run')}{after}")
    yield table(
        [Column("Run"), Column("Made for an error of", right=True), Column("Predicted", right=True),
         Column("Measured", right=True), Column("Ops in FP32", right=True),
         Column("Predicted time", right=True, wide=True), Column("Parity")],
        rows, "Parity runs of this conversion",
    )  # fmt: skip


def _layers(data: Data) -> Iterator[Element]:
    """The layers that add most to the plain difference from float32."""
    differences = data.get("differences") or {}
    ranked = sorted(differences.get("layers") or (), key=_grown, reverse=True)[:LAYERS]
    growing = [layer for layer in ranked if _grown(layer) > 0]
    if not growing:
        return
    rows = []
    for layer in growing:
        worst = layer.get("worst") or {}
        told = f"{_told(worst, 'max_abs')} at {worst.get('node')}" if worst else "-"
        rows.append([str(layer.get("scope") or "the model"), _told(layer, "before"),
                     _told(layer, "rel_l2"), told])  # fmt: skip
    yield element("h3", "Layers that add most to the difference from FP32")
    yield table(
        [Column("Layer"), Column("Before", right=True), Column("After", right=True),
         Column("Largest difference inside", wide=True)],
        rows, "Relative L2 difference before and after each layer",
    )  # fmt: skip
    missing = len(differences.get("missing") or ())
    if missing:
        yield element(
            "p", f"{plural(missing, 'result')} of FP32 can't be compared: the converted model does "
            "not show them.", class_="quiet",
        )  # fmt: skip


def _grown(layer: Data) -> float:
    after, before = number(layer.get("rel_l2")), number(layer.get("before"))
    if after is None or math.isnan(after):
        return math.inf
    return after - (before or 0.0) if after < math.inf else math.inf


def _is_whole(o: Data) -> bool:
    """Integer and boolean outputs are judged by exact agreement."""
    return not str(o.get("dtype")).startswith(("float", "bfloat", "complex"))


def _told(o: Data, key: str) -> str:
    return figure(number(o.get(key)))


def _share(value: Any) -> str:
    found = number(value)
    return "-" if found is None else percent(found)


def _cosine(value: Any) -> str:
    found = number(value)
    return "-" if found is None else f"{found:.6f}"


def _microseconds(value: Any) -> str:
    found = number(value)
    return "-" if found is None else f"{found * 1e6:.4g} us"
