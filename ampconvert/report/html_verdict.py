"""The top of the page: whether parity held, how that was measured, the model, what to do next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any
from xml.etree.ElementTree import Element

from ampconvert.report.html_data import number
from ampconvert.report.html_elements import Child, command_line, element, facts
from ampconvert.report.words import (
    dimensions,
    duration,
    figure,
    operations,
    percent,
    plural,
    randomness,
    size,
    type_name,
)

Data = Mapping[str, Any]

_VERDICTS = {"convert": "converted to", "analyze": "analyzed for", "pareto": "plans for"}


def heading(data: Data, title: str) -> Element:
    """What the page is about: the model, the command and the type."""
    name = name_of(data, title) or "A model without a name"
    low = low_of(data)
    verb = _VERDICTS.get(str(data.get("command")), "compared, in" if is_comparison(data) else "in")
    what = f"{verb} {type_name(low)}" if low else "no FP16 or BF16 in it"
    target = f" on {data['runtime']}" if data.get("runtime") else ""
    return element(
        "div",
        element("p", "ampconvert report", class_="kicker"),
        element("h1", str(name), element("span", f" {what}{target}", class_="what")),
        class_="title",
    )


def name_of(data: Data, title: str) -> str:
    """What the page is called after: the title given, the model, or the file that was compared."""
    own = (data.get("model") or {}).get("name")
    return str(title or own or PurePath(str(data.get("candidate") or "")).name)


def verdict(data: Data) -> Element:
    """Whether parity held, in words and in figures, and on what it was measured."""
    kind, word, why = standing(data)
    parity = data.get("parity") or {}
    outputs = parity.get("outputs") or ()
    told: list[Child] = [element("p", why)]
    if outputs:
        told.append(element("p", how_measured(data)))
    bad = parity.get("first_bad")
    if bad:
        told.append(element("p", first_bad(bad, low_of(data)), class_="warn"))
    return element(
        "section",
        element("h2", element("span", word, class_=f"mark {kind}"), id="verdict-heading"),
        element("div", told, class_="why"),
        element("div", list(_tiles(data)), class_="tiles"),
        _described(data),
        class_=f"verdict is-{kind}",
        id="verdict",
        aria_labelledby="verdict-heading",
    )


def standing(data: Data) -> tuple[str, str, str]:
    """The verdict: "good", "bad" or "warn", the words for it, and the figures behind it."""
    parity = data.get("parity")
    if parity is None:
        return "warn", "Parity NOT MEASURED", _why_unmeasured(data)
    outputs = list(parity.get("outputs") or ())
    ok = bool(parity.get("ok"))
    word = "Parity held" if ok else "Parity FAILED"
    if not outputs:
        return "good" if ok else "bad", word, "The model has no outputs to compare."
    worst = max(outputs, key=lambda o: _rank(o.get("rel_l2")))
    of = str(worst.get("output"))
    if len(outputs) > 1:
        of = f"{of}, the worst of {plural(len(outputs), 'output')}"
    error = figure(number(worst.get("rel_l2")))
    return "good" if ok else "bad", word, f"Relative L2 error of {of}: {error}; {_limit(outputs)}."


def how_measured(data: Data) -> str:
    """What ran, so that no figure of an emulation passes for one of a GPU."""
    parity = data.get("parity") or {}
    low = type_name(low_of(data))
    how = str(parity.get("how") or "")
    samples = sum(int(o.get("samples") or 0) for o in parity.get("outputs") or ())
    over = f" on {plural(samples, 'number')}" if samples else ""
    if parity.get("provider") == "torch":
        return f"Measured{over}: {how}."
    if "emulated" in how:
        return (
            f"Measured{over} by the emulated model on ONNX Runtime's CPU provider: each "
            f"{low} tensor is rounded when stored, sums are FP32. No GPU ran."
        )
    ran = ""
    if parity.get("low_nodes"):
        ran = f"; {parity['low_nodes']} of {parity.get('total_nodes')} nodes ran in {low}"
    return f"Measured{over} by the model itself: {how}{ran}."


def first_bad(bad: Data, low: str) -> str:
    """The tensor that went wrong first, as a sentence."""
    where = (bad.get("metadata") or {}).get("ampconvert.where", "")
    at = f" ({where})" if where else ""
    return (
        f"First bad tensor: {bad.get('tensor')}, made by {bad.get('op')} {bad.get('node')}{at}: "
        f"{figure(number(bad.get('absmax')))} in FP32; {_ends(low)}."
    )


def next_steps(data: Data) -> Element | None:
    """What to do next, most important first, with the commands to copy; nothing for commands that
    give no steps.
    """
    if data.get("command") in ("verify", "pareto") and not data.get("next_steps"):
        return None
    steps = [
        element("li", element("p", str(step.get("text", ""))),
                command_line(step["command"]) if step.get("command") else None)
        for step in data.get("next_steps") or ()
    ]  # fmt: skip
    return element(
        "section",
        element("h2", "What to do next"),
        element("ol", steps, class_="steps") if steps else element("p", _nothing_next(data)),
        *_warnings(data),
        id="next",
        class_="card",
    )


def low_of(data: Data) -> str:
    """The low type's name, "" where a model holds none."""
    return str(data.get("dtype") or data.get("low") or "")


def is_comparison(data: Data) -> bool:
    """Whether two models were compared and none was read."""
    return data.get("command") == "verify"


def _why_unmeasured(data: Data) -> str:
    if data.get("command") == "analyze":
        return "This is an analysis: it converts nothing, so there is nothing to compare."
    if data.get("command") == "pareto":
        return "These are plans to choose from, each with its own error: see time against error."
    if "parity" not in data:
        return "This is a plan file that holds the verdicts alone, and no parity."
    return (
        "Nothing was run, as --no-verify asks. Ranges were taken from the weights alone, so an "
        "overflow of activations would not show. Measure parity before you rely on this model."
    )


def _limit(outputs: Sequence[Data]) -> str:
    limits = {number(o.get("tolerance")) for o in outputs}
    if len(limits) > 1:
        return "each output has its own tolerance"
    return f"at most {figure(limits.pop())} is accepted"


def _rank(error: Any) -> float:
    found = number(error)
    return math.inf if found is None or math.isnan(found) else found


def _ends(low: str) -> str:
    from ampconvert.dtypes import FLOAT_TYPES

    known = FLOAT_TYPES.get(low)
    return f"{type_name(low)} ends at {known.max:.5g}" if known else "it overflows"


def _tiles(data: Data) -> Iterator[Element]:
    """The figures that most people open a report for."""
    outputs = (data.get("parity") or {}).get("outputs") or ()
    low = type_name(low_of(data))
    if outputs:
        worst = max(outputs, key=lambda o: _rank(o.get("rel_l2")))
        tolerance = figure(number(worst.get("tolerance")))
        yield _tile("Measured error", figure(number(worst.get("rel_l2"))),
                    f"relative L2, tolerance {tolerance}")  # fmt: skip
    summary = data.get("summary") or {}
    predicted = number(summary.get("predicted_error"))
    if predicted is not None:
        shown = figure(predicted) if math.isfinite(predicted) else "no finite estimate"
        yield _tile("Predicted error", shown, "relative L2, from the error of each operator")
    if summary.get("flops"):
        share = percent(float(summary.get("flops_low_share") or 0))
        total = operations(float(summary["flops"]))
        yield _tile(f"FLOPs in {low}", share, f"of products and convolutions; {total} in all")
    yield from _size_tile("Weights", summary.get("weight_bytes"), "")
    yield from _size_tile("Activations", summary.get("activation_bytes"), " at the peak")
    seconds = summary.get("predicted_seconds")
    if seconds:
        yield _time_tile(data, float(seconds[0]), float(seconds[1]))
    if "casts" in summary:
        moved = f"of activations, moving {size(summary.get('cast_bytes') or 0)} per run"
        yield _tile("Casts", f"{summary['casts']:,}", moved)


def _size_tile(name: str, pair: Sequence[float] | None, what: str) -> Iterator[Element]:
    if pair:
        before, after = pair
        change = f" ({(after - before) / before * 100:+.0f}%)" if before else ""
        yield _tile(name, size(after), f"{size(before)} before{what}{change}")


def _time_tile(data: Data, before: float, after: float) -> Element:
    ratio = f"{before / after:.2f} times as fast" if after else "-"
    target = data.get("runtime") or "an H100"
    return _tile(
        "Predicted time", f"{after * 1e6:.4g} us",
        f"{before * 1e6:.4g} us in FP32, {ratio}; a cost model's for {target}, not measured",
    )  # fmt: skip


def _tile(name: str, value: str, note: str) -> Element:
    return element(
        "div",
        element("p", name, class_="name"),
        element("p", value, class_="value"),
        element("p", note, class_="note"),
        class_="tile",
    )


def _described(data: Data) -> Element:
    """Model, inputs, data, graph and version, each with where it came from."""
    return facts([(name, told) for name, told in _facts(data) if told])


def _facts(data: Data) -> Iterator[tuple[str, str]]:
    model = data.get("model") or {}
    if model:
        how, target = str(model.get("how") or ""), str(model.get("target") or "")
        file = f" in {target}" if target and target not in how else ""
        yield "Model", f"{model.get('name', '')}: {how}{file}".strip(": ")
    if is_comparison(data):
        ran = f", run in {data['reference_ran']}" if data.get("reference_ran") else ""
        yield "Reference", f"{data.get('reference')}{ran}"
        low = low_of(data)
        yield "Candidate", f"{data.get('candidate')}: {type_name(low) if low else 'all FP32'}"
    yield from _inputs(data.get("inputs") or {})
    summary = data.get("summary") or {}
    if summary:
        graph = f"{plural(summary['nodes'], 'operator')}, {summary['float_nodes']:,} on floats"
        rest = f"dynamic {data['dynamic']}" if data.get("dynamic") else ""
        rest = f"opset {data['opset']}" if data.get("opset") else rest
        yield "Graph", f"{graph}; {rest or 'all dimensions fixed'}"
    yield "Target", str(data.get("runtime") or "")
    took = number(data.get("seconds_total"))
    version = f"ampconvert {data['version']}" if data.get("version") else "an older ampconvert"
    yield "Made by", f"{version}{f' in {duration(took)}' if took else ''}"


def _inputs(inputs: Data) -> Iterator[tuple[str, str]]:
    tensors = list(inputs.get("tensors") or ())
    if tensors:
        shown = ", ".join(
            f"{t.get('name')} {t.get('dtype')} {dimensions(t.get('shape') or ())}"
            for t in tensors[:4]
        )
        more = f" and {len(tensors) - 4} more" if len(tensors) > 4 else ""
        source = f"; {inputs['source']}" if inputs.get("source") else ""
        random = randomness(inputs.get("random"), source)
        yield "Inputs", f"{shown}{more}{source}{random}"
    source = str(inputs.get("data_source") or "")
    if inputs.get("batches"):
        random = randomness(inputs.get("data_random"), source)
        told = f": {source}" if source else ""
        yield "Data", f"{plural(int(inputs['batches']), 'batch', 'batches')}{told}{random}"


def _nothing_next(data: Data) -> str:
    if "next_steps" not in data:
        return "This file holds no list of steps: the version that wrote it did not keep one."
    return "Nothing is left to do."


def _warnings(data: Data) -> Iterator[Element]:
    """Findings that need a reader's eye, with a link to where they are told in full."""
    hazards = sum(bool(h.get("open")) for h in data.get("hazards") or ())
    lint = len(data.get("lint") or ())
    links: list[Child] = []
    if hazards:
        links.append(
            element("li", element("a", f"{plural(hazards, 'hazard')} open", href="#hazards"))
        )
    if lint:
        told = plural(lint, "finding")
        links.append(element("li", element("a", f"{told} in the model's source", href="#source")))
    if links:
        yield element("ul", links, class_="bullets")
