"""What the page's script works on: the operators and their figures, packed column by column.

Names of columns stand once and not in every row, repeated words once in a list. Numbers keep six
digits: the page shows three.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ampconvert.report.words import TYPE_NAMES

Row = Mapping[str, Any]

_DECISION = ("verdict", "class", "rule", "reason", "source", "evidence", "unknown")
_RANGE = ("minimum", "maximum", "unmasked", "tiny", "has_nan", "has_inf", "elements", "subnormal",
          "lost")  # fmt: skip


def script_data(data: Row) -> str:
    """`data` as JSON that can stand inside a script element: no character in it can end that."""
    text = json.dumps(packed(data), separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def packed(data: Row) -> dict[str, Any]:
    """All that plots and the tree of operators need from a report's data."""
    nodes = list(data.get("nodes") or ())
    differences = data.get("differences") or {}
    parity = data.get("parity") or {}
    return {
        "low": data.get("dtype") or data.get("low") or "",
        "limits": _numbers(data.get("limits") or {}),
        "types": TYPE_NAMES,
        **_nodes(nodes),
        "measured": _measured(list(differences.get("values") or ())),
        "findings": [_finding(one) for one in data.get("hazards") or ()],
        "casts": _casts(list(data.get("casts") or ())),
        "front": front(data),
        "outputs": [_output(one) for one in parity.get("outputs") or ()],
    }


def front(data: Row) -> dict[str, Any] | None:
    """The front of time against error, in one shape for every version of the data."""
    found = data.get("front")
    if found is None and data.get("points"):
        found = {"seconds_full": data.get("seconds_full"), "points": data["points"]}
    if not found or not found.get("points"):
        return None
    return {
        "seconds_full": _short(found.get("seconds_full")),
        "points": [_point(place, point) for place, point in enumerate(found["points"], 1)],
    }


def number(value: Any) -> float | None:
    """A number of the JSON, where NaN and the infinities are text; None where there is none."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def has_plots(data: Row) -> bool:
    """Whether the page draws anything."""
    nodes = data.get("nodes") or ()
    outputs = (data.get("parity") or {}).get("outputs") or ()
    return (
        any(n.get("output_error") is not None or n.get("seen") for n in nodes)
        or bool((data.get("differences") or {}).get("values"))
        or front(data) is not None
        or any(o.get("histogram") for o in outputs)
    )


def _nodes(nodes: Sequence[Row]) -> dict[str, Any]:
    decisions: dict[tuple[Any, ...], int] = {}
    chosen = [
        decisions.setdefault(tuple(n.get(key) for key in _DECISION), len(decisions)) for n in nodes
    ]
    safety = [n.get("safety") or {} for n in nodes]
    alone = [n.get("alone") or {} for n in nodes]
    words = {key: _words([n.get(key) or "" for n in nodes]) for key in ("op", "scope", "where")}
    return {
        "decisions": [dict(zip(_DECISION, key, strict=True)) for key in decisions],
        "nodes": {
            "node": {"values": [str(n.get("node", "")) for n in nodes]},
            **words,
            "runs_in": _words([n.get("runs_in") or "" for n in nodes]),
            "decision": {"values": chosen},
            "figure": _column(n.get("figure") for n in nodes),
            "flops": _column(n.get("flops") for n in nodes),
            **_pairs(nodes, "seconds"),
            **_pairs(nodes, "result_bytes"),
            **_pairs(nodes, "weight_bytes"),
            "output_error": _column(n.get("output_error") for n in nodes),
            "alone_predicted": _column(a.get("predicted") for a in alone),
            "alone_measured": _column(a.get("measured") for a in alone),
            "inputs": {"values": [[i for i in n.get("inputs") or () if i] for n in nodes]},
            "outputs": {"values": [list(n.get("outputs") or ()) for n in nodes]},
            "keep_inputs": {"values": [list(n.get("keep_inputs") or ()) for n in nodes]},
            "level": _words([s.get("level") or "" for s in safety]),
            "bound": _column(s.get("bound") for s in safety),
            "slack": _column(s.get("slack") for s in safety),
            "margin": _column(s.get("margin") for s in safety),
            "safety_reason": _words([s.get("reason") or "" for s in safety]),
            "seen": {"values": [_seen(n.get("seen") or {}) for n in nodes]},
        },
    }


def _pairs(nodes: Sequence[Row], key: str) -> dict[str, Any]:
    """Figures before and after, as two columns."""
    pairs = [n.get(key) or (None, None) for n in nodes]
    return {
        f"{key}_before": _column(before for before, _ in pairs),
        f"{key}_after": _column(after for _, after in pairs),
    }


def _seen(ranges: Mapping[str, Row]) -> list[list[Any]]:
    return [
        [name, *(found.get(key) if isinstance(found.get(key), bool) else _short(found.get(key))
                 for key in _RANGE)]
        for name, found in ranges.items()
    ]  # fmt: skip


def _measured(values: Sequence[Row]) -> dict[str, Any]:
    return {
        "value": {"values": [v.get("value") for v in values]},
        "node": {"values": [v.get("node") for v in values]},
        **{
            key: _column(v.get(key) for v in values)
            for key in ("rel_l2", "max_abs", "absmax", "before")
        },
    }


def _casts(casts: Sequence[Row]) -> dict[str, Any]:
    return {
        **{key: {"values": [c.get(key) or "" for c in casts]} for key in ("value", "label")},
        **{key: _words([c.get(key) or "" for c in casts]) for key in ("from", "to", "scope")},
        "maker": {"values": [c.get("maker") for c in casts]},
        "readers": {"values": [list(c.get("readers") or ()) for c in casts]},
        "bytes": _column(c.get("bytes") for c in casts),
        "seconds": _column(c.get("seconds") for c in casts),
        "clamp": {"values": [bool(c.get("clamp")) for c in casts]},
    }


def _finding(one: Row) -> dict[str, Any]:
    return {
        key: one.get(key) for key in ("code", "name", "severity", "message", "nodes", "handled")
    }


def _point(place: int, point: Row) -> dict[str, Any]:
    measured = number(point.get("measured", point.get("measured_error")))
    return {
        "point": point.get("point", place),
        "seconds": _short(point.get("seconds")),
        "error": _short(point.get("error", point.get("predicted_error"))),
        "measured": _short(measured),
        "finite": point.get("finite", measured is None or math.isfinite(measured)),
        "full": point.get("full", point.get("full_ops")),
        "casts": point.get("casts"),
        "chosen": bool(point.get("chosen")),
        "default": bool(point.get("default")),
    }


def _output(one: Row) -> dict[str, Any]:
    return {
        "output": one.get("output"),
        "tolerance": _short(one.get("tolerance")),
        "histogram": one.get("histogram"),
    }


def _numbers(data: Row) -> dict[str, Any]:
    return {key: value if key == "name" else _short(value) for key, value in data.items()}


def _column(values: Iterable[Any]) -> dict[str, Any]:
    """A column of numbers; one number where all are the same, as where none is known."""
    found = [_short(value) for value in values]
    if found and all(value == found[0] for value in found):
        return {"all": found[0], "count": len(found)}
    return {"numbers": found}


def _words(values: Sequence[str]) -> dict[str, Any]:
    places: dict[str, int] = {}
    at = [places.setdefault(value, len(places)) for value in values]
    return {"words": list(places), "at": at}


def _short(value: Any) -> Any:
    """A number with six significant digits; NaN and the infinities stay text."""
    found = number(value)
    if found is None:
        return None
    if not math.isfinite(found):
        return "NaN" if math.isnan(found) else "Infinity" if found > 0 else "-Infinity"
    return int(found) if found.is_integer() and abs(found) < 2**53 else float(f"{found:.6g}")
