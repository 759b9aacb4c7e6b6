"""The tables of the training benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any

from benchmarks.dated import Table
from benchmarks.training import accuracy, dynamic, half, memory, micikevicius, tasks
from benchmarks.training.results import Results, chance_outside, within

NONE = "-"


def tables(results: Results) -> Iterator[Table]:
    """All tables that there are results for."""
    if found := results.of("accuracy"):
        yield _accuracy(found)
        yield _losses(found)
    for device in ("cpu", "cuda"):
        if found := [(w, r) for w, r in results.of("speed") if ("cuda" in w) == (device == "cuda")]:
            yield _speed(found, device)
    if found := results.of("memory"):
        yield _memory(found)
    if found := results.of("micikevicius"):
        yield from _micikevicius({words[0]: r["rows"] for words, r in found})
    if found := results.of("half"):
        yield _half(found[0][1])
    if found := results.of("dynamic"):
        yield _dynamic(found)
        yield from _changes(found)


def _runs(found: list[tuple[list[str], dict[str, Any]]]) -> Iterator[tuple[str, str, str, Any]]:
    """Model, way, type and its result, models in the order of the tasks."""
    order = [t.name for t in tasks.TASKS]
    ways = list(accuracy.KINDS)
    for (name, kind), result in sorted(
        found, key=lambda f: (order.index(f[0][0]), ways.index(f[0][1]))
    ):
        for dtype in accuracy.KINDS[kind]:
            if dtype in result:
                yield name, kind, dtype, result[dtype]


def _accuracy(found: list[tuple[list[str], dict[str, Any]]]) -> Table:
    exact = {w[0]: r["float32"].get("runs") for w, r in found if w[1] == "float32"}
    rows: list[tuple[str, ...]] = []
    verdicts: dict[str, list[bool]] = {"ours": [], "autocast": []}
    seeds = max((len(runs) for runs in exact.values() if runs), default=1)
    for name, kind, dtype, result in _runs(found):
        if "error" in result:
            rows.append((name, kind, dtype, *[NONE] * 4, result["error"][:70]))
            continue
        runs, verdict = result["runs"], [NONE, NONE]
        if kind != "float32" and exact.get(name):
            verdict = [
                _verdict(runs, exact[name], key, floor)
                for key, floor in (("accuracy", tasks.task(name).resolution), ("loss", 0.0))
            ]
            verdicts[kind.partition(" ")[0]].append(verdict[0] == "yes")
        rows.append(
            (
                name, kind, dtype, _spread(runs, "accuracy", ".4f"), _spread(runs, "loss", ".4f"),
                *verdict, "",
            )
        )  # fmt: skip
    columns = ("model", "way", "type", "accuracy", "held-out loss", "accuracy within 1 sd",
               "loss within 1 sd", "")  # fmt: skip
    note = (
        "Mean and standard deviation over the seeds, which give every way the same weights and "
        "order of data (the policy's data come from its own episodes). Within 1 sd: the mean is no "
        "further from float32's than float32's standard deviation over the seeds (n - 1), or one "
        "held-out sample where that is more; for the loss there is no such floor. The policy's "
        "accuracy is the mean share of 200 steps that the pole stays up; it has no held-out loss. "
        'Ours with prefer="memory": in the low type wherever that is safe.'
    )
    counts = "; ".join(f"{kind} {sum(v)} of {len(v)}" for kind, v in verdicts.items())
    told = (
        f"Within one standard deviation of float32's accuracy: {counts}. Two equal ways would "
        f"leave it in {chance_outside(seeds):.0%} of cases by chance, with {seeds} seeds."
    )
    return Table("Accuracy", columns, rows, (note, told))


def _verdict(runs: Any, exact: Any, key: str, floor: float) -> str:
    values, reference = ([r[key] for r in both] for both in (runs, exact))
    if any(v is None or not math.isfinite(v) for v in (*values, *reference)):
        return NONE
    return "yes" if within(values, reference, floor) else "no"


def _losses(found: list[tuple[list[str], dict[str, Any]]]) -> Table:
    rows = []
    for name, kind, dtype, result in _runs(found):
        if "error" in result:
            continue
        runs = result["runs"]
        counts = runs[0]["counts"]
        rows.append(
            (
                name, kind, dtype, _percent(_mean(runs, "flushed")), _percent(_mean(runs, "lost")),
                str(counts["casts"]) if counts else NONE,
                f"{counts['low']} of {counts['products']}" if counts else NONE,
                _number(_mean(runs, "skipped"), ".1f"), _number(_mean(runs, "seconds"), ".1f"),
            )
        )  # fmt: skip
    columns = ("model", "way", "type", "gradients flushed", "updates lost", "casts in a step",
               "products in low", "steps skipped", "s")  # fmt: skip
    note = (
        "Flushed: elements of the parameters' gradients that are nonzero in float32 and zero in "
        "this way, on the same weights and batch, at four steps of each run. Updates lost: weights "
        "with a gradient that the step left as they were, bit for bit: the update was below half a "
        "unit in the float32 master weight's last place. Casts: tensors that one step copies from "
        "one float type to another, forward, backward and optimizer. Products: matrix products, "
        "convolutions, attention and LSTM layers of one step. Compiled code shows neither. Seconds "
        "of a run, compiling included, beside another process."
    )
    return Table("What the low type loses", columns, rows, (note,))


def _speed(found: list[tuple[list[str], dict[str, Any]]], device: str) -> Table:
    rows, ratios = [], []
    for (name, mode, size, *_), r in found:
        cells = [_cell(r.get(way), "ms", ".3g") for way in ("float32", "autocast", "ours")]
        ours, guarded = r.get("ours", {}), r.get("ours guarded", {})
        if "to_autocast" in ours:
            ratios.append((ours["to_autocast"], f"{name} {mode} batch {size}", int(size)))
        extra = (
            [_cell(r.get(w), "peak_mib", ".0f") for w in ("float32", "autocast", "ours")]
            if device == "cuda"
            else [_cell(guarded, "to_autocast", ".2f")]
        )
        extra.append(_cell(r.get("ours for memory"), "to_autocast", ".2f"))
        rows.append(
            (
                name, mode, size, *cells, _cell(r.get("autocast"), "to_float32", ".2f"),
                _cell(ours, "to_float32", ".2f"), _cell(ours, "to_autocast", ".2f"), *extra,
                _cell(r.get("autocast"), "first_s", ".1f"), _cell(ours, "first_s", ".1f"),
            )
        )  # fmt: skip
    extra_columns = (
        ("float32 MiB", "autocast MiB", "ours MiB") if device == "cuda" else ("guarded/autocast",)
    )
    columns = ("model", "mode", "batch", "float32, ms", "autocast, ms", "ours, ms",
               "autocast/float32", "ours/float32", "ours/autocast", *extra_columns,
               "for memory/autocast",
               "autocast's first step, s", "ours, s")  # fmt: skip
    dtype = "float16 with loss scaling" if device == "cuda" else "bfloat16"
    note = (
        "A whole step: zero_grad, forward, loss, backward, clip_grad_norm_, Adam. Median "
        "milliseconds, of the processor's time where one thread runs on a CPU; ratios are medians "
        "over rounds of the ratio within one round, the ways taking turns. Compiled: torch.compile "
        "with inductor, for float32 and autocast as well. "
        "Guarded: with skip_nonfinite_steps, a check of every gradient that neither autocast's "
        'bfloat16 loop nor the column before has. For memory: prefer="memory", in the low type '
        "wherever that is safe, also where it costs time. The first step compiles."
    )
    return Table(f"Time of a step, {dtype} on {device}", columns, rows, (note, *_judged(ratios)))


def _judged(ratios: list[tuple[float, str, int]]) -> list[str]:
    """The targets: nowhere slower than autocast, and faster at small batches."""
    if not ratios:
        return []
    worst, where, _ = max(ratios)
    small = [(r, w) for r, w, size in ratios if size <= 8]
    told = [
        f"Target: no model slower than autocast in the same mode. At most 1.00 in "
        f"{sum(r <= 1.0 for r, *_ in ratios)} of {len(ratios)}; the worst is {worst:.2f} ({where})."
    ]
    if small:
        slowest = max(small)
        told.append(
            f"Batches of at most 8: faster in {sum(r < 1.0 for r, _ in small)} of {len(small)}, "
            f"slowest {slowest[0]:.2f} ({slowest[1]})."
        )
    return told


def _memory(found: list[tuple[list[str], dict[str, Any]]]) -> Table:
    keys = [f"{way.name} {way.dtype}" for way in memory.WAYS]
    rows, more = [], []
    for (name,), r in found:
        rows.append((name, str(r["batch"]), *(_kib(r.get(key)) for key in keys)))
        for key in keys:
            if key.startswith("ours"):
                other = r.get(key.replace("ours", "autocast").replace(" for memory", ""))
                if isinstance(other, int) and isinstance(r.get(key), int) and r[key] > other:
                    more.append(f"{name} {key} {r[key] / other:.2f}")
    note = (
        "KiB that autograd keeps from forward and loss for the backward: each storage once, "
        "without the parameters, with their low copies."
    )
    told = "Ours keeps at most what autocast keeps, everywhere." if not more else (
        f"Ours keeps more than autocast in: {'; '.join(more)} times as much."
    )  # fmt: skip
    return Table("Saved for the backward", ("model", "batch", *keys), rows, (note, told))


def _micikevicius(found: dict[str, dict[str, dict[str, Any]]]) -> Iterator[Table]:
    names = [name for name in micikevicius.WAYS if name in found]
    for key, title, form in (
        ("accuracy", "accuracy, %", "{:.1f}"),
        ("flushed", "gradients flushed to zero, %", "{:.2f}"),
        ("lost", "updates lost, %", "{:.2f}"),
    ):
        rows = []
        for name in names:
            cells = [
                _of(found[name].get(f"{factor} {weights}"), key, form)
                for weights in micikevicius.WEIGHTS
                for factor in micikevicius.FACTORS
            ]
            rows.append((name, *cells))
        columns = (
            "way",
            *(
                f"{weights}, 2^{factor}" if factor else f"{weights}, loss as it is"
                for weights in micikevicius.WEIGHTS
                for factor in micikevicius.FACTORS
            ),
        )
        yield Table(f"Micikevicius et al. 2018 in small: {title}", columns, rows, (_EXPERIMENT,))


_EXPERIMENT = (
    "An MLP on digits, Adam at 1e-4, the loss and Adam's epsilon multiplied by a power of two. "
    "master: float32 weights. low: every update and every updated weight is rounded to the low "
    "type, to nearest or stochastically."
)


def _of(row: dict[str, Any] | None, key: str, form: str) -> str:
    return NONE if not row or row.get(key) is None else form.format(100 * row[key])


def _half(found: dict[str, Any]) -> Table:
    rows = [
        (
            name, _number(found[name].get("first"), ".4f"), _number(found[name].get("last"), ".2g"),
            found[name].get("exception", ""),
        )
        for name in half.SCRIPTS
        if name in found
    ]  # fmt: skip
    note = (
        f"MSELoss, Adam at {half.RATE}, {half.STEPS} steps, `inputs = inputs.half()` before the "
        "model; prepared: ampconvert.prepare_training and skip_nonfinite_steps."
    )
    return Table(
        "Inputs cast to float16 by hand",
        ("script", "first loss", "last loss", "what the user gets"),
        rows,
        (note,),
    )


def _dynamic(found: list[tuple[list[str], dict[str, Any]]]) -> Table:
    rows = []
    for (name,), ways in found:
        for kind in dynamic.KINDS:
            r = ways.get(kind, {})
            rows.append(
                (
                    name, kind, *(_number(r.get(k), ".3g") for k in ("first", "best", "final")),
                    *(_number(r.get(k), "d") for k in ("nonfinite", "skipped")),
                    _number(r.get("scale"), ".4g"), _curve(r) or r.get("error", ""),
                )
            )  # fmt: skip
    columns = ("run", "way", "first loss", "best", "final", "losses not finite", "steps skipped",
               "last scale", "loss over the run")  # fmt: skip
    notes = [f"{name}: {case.told}." for name, case in dynamic.CASES.items()]
    return Table("Overflow in the forward, float16", columns, rows, tuple(notes))


def _changes(found: list[tuple[list[str], dict[str, Any]]]) -> Iterator[Table]:
    rows = [
        (name, line)
        for (name,), ways in found
        for line in ways.get("ours", {}).get("changes", []) or ["no operator had to move"]
    ]
    yield Table("What ours moved to float32, and when", ("run", "change"), rows)


def _curve(r: dict[str, Any]) -> str:
    return " ".join(_number(loss, ".2g") for loss in r.get("curve", [])[::2])


def _spread(runs: Sequence[dict[str, Any]], key: str, form: str) -> str:
    values = [r[key] for r in runs if r[key] is not None and math.isfinite(r[key])]
    if len(values) < len(runs):
        return NONE
    spread = f" ± {stdev(values):{form}}" if len(values) > 1 else ""
    return f"{fmean(values):{form}}{spread}"


def _mean(runs: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [r[key] for r in runs if r[key] is not None]
    return fmean(values) if values else None


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.3f} %"


def _kib(value: Any) -> str:
    return f"{value / 1024:.0f}" if isinstance(value, int) else NONE


def _cell(row: dict[str, Any] | None, key: str, form: str) -> str:
    return _number((row or {}).get(key), form)


def _number(value: Any, form: str) -> str:
    """As `form` has it; infinities and NaN arrive as None or as words from JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return NONE
    return format(value, form) if math.isfinite(value) else str(value)
