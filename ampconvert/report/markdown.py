"""The report as GitHub-flavoured Markdown, for job summaries and comments of CI.

A page stays under 64 kB whatever the model: tables and lists end with a count of what they leave
out. Parts that the data lack are left out or named as missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ampconvert.report.markdown_model import (
    casts,
    differences,
    findings,
    front,
    kept_in_float32,
    loss_scale,
    measured_alone,
    overflow,
    repairs,
    worst,
)
from ampconvert.report.markdown_text import bullets, code, folded, prose, size_of, table
from ampconvert.report.reading import entries, number, part, words
from ampconvert.report.words import (
    decibels,
    dimensions,
    duration,
    figure,
    operations,
    percent,
    plural,
    randomness,
    size,
    type_name,
    verdict_name,
)

LIMIT = 60_000  # bytes; GitHub's own is 1 MiB for a job summary, 65,536 characters for a comment
FOLD = 6  # rows of parity shown at once; more are folded away
OUTPUTS = 40


def page(data: Mapping[str, Any]) -> str:
    """The report in `data`, the object of `convert`, `analyze`, `explain`, `verify` or `--pareto`
    with `--json`, or what an older plan file has of it.
    """
    head = [f"## ampconvert: {_title(data)}", *_verdict(data)]
    tail = [text for text in (_next_steps(data), _foot(data)) if text]
    room = LIMIT - sum(size_of(text) + 1 for text in (*head, *tail))
    body: list[str] = []
    dropped: list[str] = []
    for name, text in _sections(data):
        room -= size_of(text) + size_of(name) + 8
        if room > 0:
            body.append(f"### {name}\n\n{text}")
        else:
            dropped.append(name)
    if dropped:
        body.append(f"Left out here for length: {', '.join(dropped)}.")
    return "\n\n".join([*head, *body, *tail]) + "\n"


def _sections(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every part with something to tell, the most important first."""
    low = _low(data)
    made = (
        ("Key figures", _figures(data)),
        ("Parity", _parity(data)),
        ("Time against error", front(data)),
        ("Worst operators", worst(data)),
        ("What stays in FP32, and why", kept_in_float32(data)),
        ("Hazards", findings(entries(data, "hazards"))),
        ("Casts", casts(data)),
        ("Difference from FP32 by layer", differences(data)),
        (f"Overflow in {type_name(low)}", overflow(data)),
        ("Each operator measured alone", measured_alone(data)),
        ("Repairs", repairs(data)),
        ("Loss scale", loss_scale(data)),
        ("Source", findings(entries(data, "lint"))),
        ("Notes", _notes(data)),
        ("Files", _files(data)),
    )
    yield from ((name, text) for name, text in made if text)


def _title(data: Mapping[str, Any]) -> str:
    command, parity = data.get("command"), part(data, "parity")
    if parity:
        return "parity held" if parity.get("ok") else "parity FAILED"
    if command in ("analyze", "explain"):
        return "analyzed, nothing converted"
    if command == "pareto":
        return "plans compared, nothing converted"
    # A plan's file of an older version says nothing of it.
    return "parity NOT MEASURED" if "parity" in data else "parity not recorded"


def _verdict(data: Mapping[str, Any]) -> Iterator[str]:
    """The result in one line, and what it is about."""
    title = _title(data)
    yield f"**{title[0].upper()}{title[1:]}**{_told(data)}"
    lines = [*_subject(data), *_inputs(part(data, "inputs"))]
    if lines:
        yield bullets(lines)[0]


def _told(data: Mapping[str, Any]) -> str:
    outputs = entries(part(data, "parity"), "outputs")
    if outputs:
        tolerances = {number(o.get("tolerance")) for o in outputs}
        worst_one = max(outputs, key=_rank)
        error = figure(number(worst_one.get("rel_l2")))
        limit = figure(tolerances.pop()) if len(tolerances) == 1 else "each output's tolerance"
        several = f", the largest of {plural(len(outputs), 'output')}," if outputs[1:] else ""
        failed = sum(not o.get("ok") for o in outputs)
        which = f" at {failed:,} of {plural(len(outputs), 'output')}" if failed else ""
        return f"{which}: relative L2 error {error}{several} where {limit} is accepted."
    summary = part(data, "summary")
    if not summary:
        return ": the data hold no figures of the model." if not data.get("nodes") else "."
    in_low = sum(int(v.get("in_low") or 0) for v in entries(summary, "verdicts"))
    floats = plural(int(summary.get("float_nodes") or 0), "float operator")
    told = f": {in_low:,} of {floats} run in {type_name(_low(data))}"
    missed = data.get("command") == "convert" and "parity" in data
    return f"{told}; nothing was run to compare the answers." if missed else f"{told}."


def _subject(data: Mapping[str, Any]) -> Iterator[str]:
    if "reference" in data:
        ran, low = prose(data.get("reference_ran") or "?"), data.get("low")
        yield f"Reference: {code(data['reference'])}, run in {ran}"
        held = type_name(low) if low else "no FP16 or BF16 in it"
        yield f"Candidate: {code(data.get('candidate'))}, {held}"
    model = part(data, "model")
    if model:
        what = f"{code(model.get('target'))}: {code(model.get('name'))}"
        how = prose(model.get("how") or "", 200)
        runtime = f" for {prose(data['runtime'])}" if data.get("runtime") else ""
        yield f"Model: {what}{f', {how}' if how else ''}"
        yield f"Types: FP32 to {type_name(_low(data))}{runtime}"


def _inputs(given: Mapping[str, Any]) -> Iterator[str]:
    if not given:
        return
    tensors = entries(given, "tensors")
    shown = [f"{code(t['name'])} {t['dtype']} {dimensions(t['shape'])}" for t in tensors[:4]]
    more = f" and {len(tensors) - 4} more" if tensors[4:] else ""
    random = randomness(given.get("random"), given.get("source"))
    source = prose(str(given.get("source") or "").partition(": ")[0], 200)
    yield f"Inputs: {', '.join(shown) or 'none'}{more}{f'; {source}' if source else ''}{random}"
    batches = given.get("batches") or 1
    if batches > 1 or given.get("data_source") != given.get("source"):
        random = randomness(given.get("data_random"), given.get("data_source"))
        told = prose(given.get("data_source") or "", 200)
        yield f"Data: {plural(batches, 'batch', 'batches')}{f': {told}' if told else ''}{random}"


def _figures(data: Mapping[str, Any]) -> str:
    summary = part(data, "summary")
    if not summary:
        return ""
    low = type_name(_low(data))
    rows = [
        [
            verdict_name(str(v["name"]), _low(data)),
            f"{v['nodes']:,}",
            f"{v['in_low']:,}",
            percent(number(v["flops_share"]) or 0.0),
        ]
        for v in entries(summary, "verdicts")
    ]
    verdicts = table(
        ("verdict", "operators", f"run in {low}", "share of FLOPs"), rows, right=(1, 2, 3)
    )[0]
    facts = table(("figure", "value"), [list(row) for row in _facts(data, summary, low)])[0]
    return f"{verdicts}\n\n{facts}"


def _facts(
    data: Mapping[str, Any], summary: Mapping[str, Any], low: str
) -> Iterator[tuple[str, str]]:
    yield "Operators", f"{summary['nodes']:,}, {summary['float_nodes']:,} of them on floats"
    if number(summary.get("flops")):
        share = percent(number(summary["flops_low_share"]) or 0.0)
        total = operations(number(summary["flops"]) or 0.0)
        yield f"Matrix and convolution FLOPs in {low}", f"{share}; {total} in all"
    casts_told = f"{summary['casts']:,}, moving {size(summary['cast_bytes'])} per run"
    if data.get("casts_onnx"):
        casts_told += f"; {plural(data['casts_onnx'], 'Cast node')} in the ONNX file"
    yield "Casts of activations", casts_told
    yield "Weights", _before_after(summary["weight_bytes"])
    yield "Activations at the peak", _before_after(summary["activation_bytes"])
    if summary.get("predicted_seconds"):
        full, planned = (number(s) or 0.0 for s in summary["predicted_seconds"])
        device = prose(data.get("runtime") or "an H100")
        told = f"{full * 1e6:.4g} us in FP32, {planned * 1e6:.4g} us by the plan"
        yield f"Predicted time of one run on {device}", told
    if summary.get("predicted_error") is not None:
        yield "Predicted relative L2 error", figure(number(summary["predicted_error"]))


def _before_after(pair: Sequence[int]) -> str:
    before, after = pair
    change = f" ({(after - before) / before * 100:+.0f} %)" if before and before != after else ""
    return f"{size(before)} before, {size(after)} after{change}"


def _parity(data: Mapping[str, Any]) -> str:
    parity = part(data, "parity")
    outputs = sorted(entries(parity, "outputs"), key=lambda o: (bool(o.get("ok")), -_rank(o)))
    if not outputs:
        return ""
    columns = ("output", "type", "rel. L2", "FP32's own", "max abs", "SQNR", "top-1", "equal",
               "finite", "verdict")  # fmt: skip
    shown, count = table(columns, map(_output, outputs[:OUTPUTS]), right=range(2, 8))
    rest = len(outputs) - count
    if rest:
        shown += f"\n\nand {plural(rest, 'more output')} with smaller errors"
    shown = folded(plural(len(outputs), "output"), shown) if count > FOLD else shown
    notes = [f"{code(o['output'])}: {prose(o['note'])}" for o in outputs if o.get("note")]
    return "\n\n".join([shown, *_listed(notes), *_measured(parity, outputs), *_search(data)])


def _output(one: Mapping[str, Any]) -> list[str]:
    whole = not str(one.get("dtype", "")).startswith(("float", "bfloat", "complex"))
    top, exact = number(one.get("agree_top1")), number(one.get("exact"))
    return [
        code(one.get("output")),
        prose(one.get("dtype") or "-"),
        figure(number(one.get("rel_l2"))),
        figure(number(one.get("reference_rel_l2"))),
        figure(number(one.get("max_abs"))),
        decibels(number(one.get("sqnr_db"))),
        "-" if top is None else percent(top),
        "-" if exact is None or not whole else percent(exact),
        "yes" if one.get("finite") else "NO",
        "ok" if one.get("ok") else "FAILED",
    ]


def _measured(parity: Mapping[str, Any], outputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    samples = sum(int(o.get("samples") or 0) for o in outputs)
    ran = parity.get("low_nodes")
    nodes = f"; {ran} of {parity.get('total_nodes')} nodes in the low type" if ran else ""
    how = str(parity.get("how") or "?")
    gpu = " No GPU ran." if "emulated" in how else ""
    yield f"Measured on {plural(samples, 'number')}: {prose(how)}{nodes}.{gpu}"
    bad = part(parity, "first_bad")
    if bad:
        where = part(bad, "metadata").get("ampconvert.where", "")
        at = f" ({prose(where)})" if where else ""
        yield (
            f"First tensor that is not finite: {code(bad.get('tensor'))}, made by "
            f"{prose(bad.get('op'))} {code(bad.get('node'))}{at}; its largest magnitude in FP32 is "
            f"{figure(number(bad.get('absmax')))}."
        )


def _search(data: Mapping[str, Any]) -> Iterator[str]:
    """What each parity run showed, where there was more than one."""
    attempts = entries(data, "attempts")
    if len(attempts) < 2 and not any(a.get("aim") for a in attempts):
        return
    told = []
    for place, one in enumerate(attempts):
        alone = not one.get("aim") and not place
        kept = "the rules alone" if alone else f"{one['full']:,} operators in FP32"
        outcome = "held" if one["ok"] else "failed"
        guess = figure(number(one.get("predicted")))
        measured = figure(number(one["measured"]))
        told.append(f"{kept}: predicted {guess}, measured {measured}, {outcome}")
    shown, count = bullets(told)
    more = len(told) - count
    rest = f"\n\nand {more} more" if more else ""
    yield f"Found in {plural(len(attempts), 'parity run')}:\n\n{shown}{rest}"


def _notes(data: Mapping[str, Any]) -> str:
    lines = [prose(note) for note in words(data, "notes")]
    unknown = words(part(data, "summary"), "unknown_ops")
    if unknown:
        shown = ", ".join(code(op) for op in unknown[:8])
        more = f" and {len(unknown) - 8} more" if unknown[8:] else ""
        lines.append(f"No rule names {shown}{more}: kept in FP32. Give rules with --rules.")
    unused = words(data, "unused_rules")
    if unused:
        shown = ", ".join(code(rule) for rule in unused[:8])
        more = f" and {len(unused) - 8} more" if unused[8:] else ""
        lines.append(f"Matched nothing: {shown}{more}. Check the spelling.")
    return "\n\n".join(_listed(lines))


def _files(data: Mapping[str, Any]) -> str:
    files = part(data, "files")
    rows = [
        [prose(kind), code(one.get("path"), 300), _bytes(one.get("bytes"))]
        for kind, one in files.items()
    ]
    return table(("kind", "file", "size"), rows, right=(2,))[0] if rows else ""


def _bytes(count: Any) -> str:
    return "-" if count is None else size(count)


def _next_steps(data: Mapping[str, Any]) -> str:
    lines = []
    for step in entries(data, "next_steps"):
        command = f" {code(step['command'], 400)}" if step.get("command") else ""
        lines.append(f"{prose(step.get('text') or '')}{command}".strip())
    return f"### Next steps\n\n{bullets(lines)[0]}" if lines else ""


def _foot(data: Mapping[str, Any]) -> str:
    told = [f"ampconvert {prose(data['version'])}"] if data.get("version") else []
    if data.get("plan_fingerprint"):
        told.append(f"graph {code(data['plan_fingerprint'])}")
    seconds = number(data.get("seconds_total"))
    if seconds is not None:
        told.append(f"took {duration(seconds)}")
    return f"{', '.join(told)}." if told else ""


def _listed(lines: Sequence[str]) -> Iterator[str]:
    """`lines` as a list that says how many it leaves out; nothing where there are none."""
    if lines:
        shown, count = bullets(lines)
        rest = len(lines) - count
        yield f"{shown}\n\nand {rest} more" if rest else shown


def _rank(one: Mapping[str, Any]) -> float:
    error = number(one.get("rel_l2"))
    return float("inf") if error is None or error != error else error


def _low(data: Mapping[str, Any]) -> str:
    return str(data.get("dtype") or data.get("low") or "float16")
