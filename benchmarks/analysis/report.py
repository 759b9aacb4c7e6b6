"""What the measurements came to: tables for the terminal, a dated JSON and Markdown file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import dated
from benchmarks.dated import Table

PARTS = ("cut", "zoo", "proof", "plan", "errors", "front", "search")
RANKINGS = ("ours", "largest value", "our deny rules", "autocast's FP32 list", "local error")
RIVALS = ("not slower", "not less exact")
TOOLS = ("ours", "ours, ONNX", "bisected", "package")
NONE = "-"


@dataclass(frozen=True)
class Results:
    """What each measurement printed, by "part", "part model type"."""

    found: dict[str, dict[str, Any]]

    def of(self, part: str, dtype: str = "float16") -> list[tuple[str, dict[str, Any]]]:
        """The results of one part and type, by model, those that failed left out."""
        keys = [(key, key.split()) for key in self.found]
        return [
            (words[1], self.found[key])
            for key, words in keys
            if len(words) == 3 and (words[0], words[2]) == (part, dtype)
            if "error" not in self.found[key]
        ]

    def failures(self) -> list[str]:
        """Measurements that came to nothing, broken bounds, cuts that are not the best."""
        found = [f"{key}: {r['error']}" for key, r in self.found.items() if "error" in r]
        broken = [(name, r["violations"]) for name, r in self.of("proof") if r["violations"]]
        found += [f"proof {name}: {count} bounds were broken" for name, count in broken]
        cut = self.found.get("cut", {})
        if cut.get("equal") != cut.get("graphs"):
            found.append(f"cut: {cut['equal']} of {cut['graphs']} equal the best choice")
        return found


def tables(results: Results) -> Iterator[Table]:
    """All tables that there are results for."""
    if "cut" in results.found and "error" not in results.found["cut"]:
        yield _cut(results.found["cut"])
    if "zoo" in results.found and "error" not in results.found["zoo"]:
        yield _zoo(results.found["zoo"]["models"])
    if proofs := results.of("proof"):
        yield _proof(proofs)
    for dtype in ("float16", "bfloat16"):
        if errors := results.of("errors", dtype):
            yield _errors(errors, dtype)
        if plans := results.of("plan", dtype):
            yield _plans(plans, dtype)
    for dtype in ("float16", "bfloat16"):
        if fronts := results.of("front", dtype):
            yield _rivals(fronts, dtype)
            yield _points(fronts, dtype)
    if searches := results.of("search"):
        yield _search(searches)


def _cut(found: dict[str, Any]) -> Table:
    sizes = list(next(iter(found["seconds"].values())))
    rows = [
        (shape, *(f"{seconds[size]:.2f}" for size in sizes))
        for shape, seconds in found["seconds"].items()
    ]
    told = f"{found['equal']} of {found['graphs']} random graphs of 2 to 12 nodes: the best choice."
    columns = ("shape", *(f"{int(size):,} nodes, s" for size in sizes))
    return Table("The minimum cut", columns, rows, (told,))


def _zoo(models: dict[str, Any]) -> Table:
    rows = [
        (
            name, "trained" if r["trained"] else "seeded", str(r["ops"]), str(r["PROVED"]),
            f"{r['PROVED'] / r['ops']:.0%}", str(r["CALIBRATED"]), str(r["AT RISK"]),
            _factor(r["slack"]), f"{r['seconds']:.1f}",
        )
        for name, r in models.items()
        if r.get("ops")
    ]  # fmt: skip
    columns = (
        "model", "weights", "float ops", "proved", "share", "calibrated", "at risk", "slack", "s",
    )  # fmt: skip
    known = [r for r in models.values() if r.get("ops")]
    shares = sorted(r["PROVED"] / r["ops"] for r in known)
    whole = sum(share == 1 for share in shares)
    note = (
        f"All ops proved in {whole} of {len(known)} models, median share {median(shares):.0%}. "
        "Inputs: the range of the zoo's four batches, a hundredth wider; ids: any."
    )
    return Table("Safety of every zoo model in float16, from its ONNX file", columns, rows, (note,))


def _proof(proofs: list[tuple[str, dict[str, Any]]]) -> Table:
    rows = [
        (
            name, r["declared"], str(r["ops"]), f"{r['proved']}", f"{r['proved'] / r['ops']:.0%}",
            f"{r['proved_any']}",
            f"{r['seconds']:.1f}", _factor(r["slack_median"]), _factor(r["slack_p90"]),
            f"{r['tensors']:,}", str(r["violations"]),
        )
        for name, r in proofs
        if r["ops"]
    ]  # fmt: skip
    columns = (
        "model", "inputs declared", "float ops", "proved", "share", "any plan", "s", "slack", "p90",
        "tensors checked", "violations",
    )  # fmt: skip
    ops, proved = (sum(r[key] for _, r in proofs) for key in ("ops", "proved"))
    return Table(
        "Proofs that no op overflows float16", columns, rows, (f"{proved} of {ops} ops proved.",)
    )


def _errors(errors: list[tuple[str, dict[str, Any]]], dtype: str) -> Table:
    rows = [
        (
            name, str(r["ops"]), *(_signed(r["spearman"][ranking]) for ranking in RANKINGS),
            _error(r["predicted"]), _error(r["measured"]), _ratio(r["predicted"], r["measured"]),
            f"{r['seconds']['predict']:.1f}", f"{r['seconds']['measure']:.1f}",
        )
        for name, r in errors
    ]  # fmt: skip
    medians = []
    for ranking in RANKINGS:
        known = [r["spearman"][ranking] for _, r in errors if r["spearman"][ranking] is not None]
        medians.append(_signed(median(known)) if known else NONE)
    rows.append(("median", "", *medians, "", "", "", "", ""))
    columns = (
        "model", "ops", *RANKINGS, "predicted", "measured", "ratio", "s predicted", "s measured",
    )  # fmt: skip
    note = "Rank correlations with the measured error per op; then the whole model in the low type."
    return Table(f"Predicted error per op, {dtype}", columns, rows, (note,))


def _plans(plans: list[tuple[str, dict[str, Any]]], dtype: str) -> Table:
    known = [(name, r) for name, r in plans if r["predicted"] and r["measured"]]
    rows = [
        (
            name, str(r["ops"]), str(r["low"]), _error(r["predicted"]), _error(r["measured"]),
            _ratio(r["predicted"], r["measured"]),
        )
        for name, r in known
    ]  # fmt: skip
    off = [max(r["predicted"] / r["measured"], r["measured"] / r["predicted"]) for _, r in known]
    within = [sum(factor <= limit for factor in off) for limit in (1.3, 2.0)]
    note = f"Within 1.3 times: {within[0]} of {len(off)}; within 2 times: {within[1]}."
    columns = ("model", "float ops", f"in {dtype}", "predicted", "measured", "ratio")
    return Table(f"The plan that a conversion takes, {dtype}", columns, rows, (note,))


def _rivals(fronts: list[tuple[str, dict[str, Any]]], dtype: str) -> Table:
    rows = [
        (
            name, str(r["rows"]), _micro(r["float32"]), _plan(r["autocast"]), _plan(r["default"]),
            *(_plan(r["rivals"].get(rival)) for rival in RIVALS),
            "yes" if r["dominated"] else "no",
        )
        for name, r in fronts
    ]  # fmt: skip
    columns = (
        "model", "rows", "float32, us", "autocast's plan", "our default", *RIVALS,
        "neither slower nor less exact",
    )  # fmt: skip
    note = "Predicted microseconds on the target and measured relative L2 error of each plan."
    beaten = sum(r["dominated"] for _, r in fronts)
    told = f"Of {len(fronts)} models, {beaten} have such a plan."
    return Table(f"Against autocast's op lists, {dtype}", columns, rows, (note, told))


def _points(fronts: list[tuple[str, dict[str, Any]]], dtype: str) -> Table:
    rows = [(name, "; ".join(_plan(point) for point in r["front"])) for name, r in fronts]
    return Table(f"The fronts, {dtype}", ("model", "microseconds, measured error"), rows)


def _search(searches: list[tuple[str, dict[str, Any]]]) -> Table:
    rows = [
        (
            name if i == 0 else "", _error(tolerance),
            *(_found(r.get(tool, {}).get(fraction), tolerance) for tool in TOOLS),
        )
        for name, r in searches
        for i, (fraction, tolerance) in enumerate(r["tolerances"].items())
    ]  # fmt: skip
    columns = ("model", "tolerance", "ours", "ours, ONNX file", "its bisection, our judge",
               "the package")  # fmt: skip
    note = (
        "Float32 ops of all on floats, parity runs (+ passes and quick runs), predicted "
        "microseconds, measured error. The package judges by ONNX Runtime's CPU provider; the "
        "emulated error stands behind its own."
    )
    return Table("Search for a tolerance, float16", columns, rows, (note,))


def _found(r: dict[str, Any] | None, tolerance: float) -> str:
    if not r:
        return NONE
    if "full" not in r:
        return f"{r.get('why') or r.get('error', NONE)} ({r.get('runs', 0)} runs)"
    runs = f"{r['runs']}" + (f"+{r['passes']}" if r.get("passes") else "")
    seconds = r["predicted_seconds"]
    told = f"{r['full']}/{r['ops']}, {runs} runs, {_micro(seconds)} us, {_error(r['error'])}"
    if "emulated" in r:
        told += f" ({_error(r['emulated'])} emulated)"
    held = r.get("ok", True) and max(r["error"] or 0.0, r.get("emulated", 0.0)) <= tolerance
    return told + ("" if held else ", not held")


def _plan(row: dict[str, Any] | None) -> str:
    return f"{_micro(row['seconds'])}, {_error(row['measured'])}" if row else NONE


def _micro(seconds: float | None) -> str:
    return NONE if seconds is None else f"{1e6 * seconds:.4g}"


def _error(value: float | None) -> str:
    return NONE if value is None else f"{value:.2e}"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _ratio(a: float | None, b: float | None) -> str:
    return f"{a / b:.2f}" if a is not None and b else NONE


def _factor(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3g}"


def show(console: Console, results: Results) -> None:
    """Print every table, and what failed."""
    dated.show(console, tables(results), results.failures())


def write(results: Results, folder: Path) -> list[Path]:
    """Write <date>-analysis.json and .md into `folder`."""
    heading = "Proofs, predicted errors and plans against measurements"
    return dated.write(
        folder, "analysis", heading, results.found, tables(results), results.failures()
    )
