"""What to do next: one list for the terminal, the report page and the JSON, first things first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ampconvert.files import SHORT
from ampconvert.plan import low_is_unused
from ampconvert.report.subject import Subject
from ampconvert.report.words import figure, listed, plural

if TYPE_CHECKING:
    from ampconvert.conversion import Analysis, Conversion
    from ampconvert.graph import Node

HAZARDS = 3  # open ones that are told of; the page lists all


@dataclass(frozen=True)
class Step:
    """One thing to do: why, and the command to type, where there is one."""

    text: str
    command: str = ""


def after_conversion(subject: Subject, done: Conversion) -> list[Step]:
    """What a conversion leaves to do."""
    steps = [*after_failure(subject, done), *_unmeasured(subject, done)]
    if done.ok:
        steps += _on_real_data(subject, _again(subject, done.analysis))
    return [
        *steps,
        *_open(subject, done.analysis),
        *_where_it_runs(subject, done),
        *_in_detail(subject, done),
    ]


def after_analysis(subject: Subject, found: Analysis) -> list[Step]:
    """What an analysis leaves to do: convert, with the repairs that gain something."""
    command = _again(subject, found)
    gains = [offer.kind for offer in found.offers if offer.gains]
    steps = []
    if found.plan.compute and not low_is_unused(found.plan):
        steps.append(Step("Convert it, and measure parity.", command))
    if gains:
        steps.append(
            Step(
                f"Repairs are predicted to gain something: {listed(gains, 8)}.",
                f"{command} --repair {','.join(gains)}",
            )
        )
    return [*steps, *_on_real_data(subject, f"ampconvert analyze {shlex.quote(subject.target)}"),
            *_open(subject, found)]  # fmt: skip


def after_failure(subject: Subject, done: Conversion) -> list[Step]:
    """What to try when parity failed: the op to look at, and the commands to type."""
    if done.ok or done.verification is None:
        return []
    steps: list[Step] = []
    node = suspect(done)
    target = shlex.quote(subject.target)
    if node is not None:
        pattern, part = deny_pattern(node, subject.format), node.scope or node.name
        steps += [
            Step("See why the operators there are what they are.",
                 f"ampconvert explain {target} {shlex.quote(part)}"),
            Step("Keep them in FP32.", f"ampconvert {target} --deny {shlex.quote(pattern)}"),
        ]  # fmt: skip
    parities = done.verification.parities
    finite = all(p.finite for p in parities)
    if done.analysis.low == "float16" and not finite:
        steps.append(Step("--dtype bf16 has FP32's range, with 8 significant bits instead of 11."))
    if done.analysis.low == "bfloat16" and finite:
        steps.append(
            Step(
                "--dtype fp16 has three significant bits more, if the values fit its range (65504)."
            )
        )
    if subject.data_random:
        steps.append(
            Step("The data were random numbers: parity on real data (--inputs, --data) may differ.")
        )
    own = [p.reference_rel_l2 or 0.0 for p in parities]
    if any(e >= p.tolerance for e, p in zip(own, parities, strict=True)):
        steps.append(
            Step(f"FP32 itself is off by {figure(max(own))} from FP64: no plan can hold less.")
        )
    if finite:
        steps.append(
            Step("--tolerance accepts a larger error, if your metric on real data holds with it.")
        )
    return steps


def suspect(done: Conversion) -> Node | None:
    """The op to look at first: the one that overflowed, else the one with the largest error."""
    nodes = {n.name: n for n in done.analysis.graph.nodes}
    bad = done.verification.first_bad if done.verification else None
    for name in (bad.metadata.get("ampconvert.node", ""), bad.node) if bad is not None else ():
        if name in nodes:
            return nodes[name]
    worst = done.summary.worst
    return nodes.get(worst[0].node) if worst else None


def deny_pattern(node: Node, kind: str = "torch") -> str:
    """What `--deny` takes for the place of `node`: its module, else its name or operator."""
    if node.scope:
        return f"{node.scope}.*"
    return node.name if kind == "onnx" else node.op.rpartition("::")[2]


def _unmeasured(subject: Subject, done: Conversion) -> Iterator[Step]:
    if done.unchecked and "onnx" in done.files:
        yield Step(
            "Nothing was run: measure parity before you rely on this model.", _verify(subject, done)
        )


def _on_real_data(subject: Subject, command: str) -> Iterator[Step]:
    if subject.data_random:
        yield Step(
            "The data were random numbers. Take ranges and parity from real ones: .npz files with "
            "arrays by input name.",
            f"{command} --data FOLDER",
        )


def _open(subject: Subject, found: Analysis) -> Iterator[Step]:
    """What the report warns of and nobody has dealt with."""
    if found.summary.unknown_ops:
        names = listed(found.summary.unknown_ops)
        yield Step(f"No rule names {names}: kept in FP32. Give rules of your own with --rules.")
    told: dict[str, str] = {}
    for hazard in found.findings:
        if hazard.is_open and hazard.advice:
            told.setdefault(hazard.code, f"{hazard.code} at {hazard.where}: {hazard.advice}")
    yield from (Step(text) for text in list(told.values())[:HAZARDS])
    if subject.lint:
        path = subject.lint[0].where.path
        yield Step(
            f"{plural(len(subject.lint), 'lint finding')} in the model's source.",
            f"ampconvert lint {shlex.quote(path)}",
        )


def _where_it_runs(subject: Subject, done: Conversion) -> Iterator[Step]:
    """A check on the device: what was measured here was an emulation, unless a GPU ran it."""
    found = done.verification
    if done.ok and found is not None and found.provider == "cpu" and "onnx" in done.files:
        yield Step(
            "No GPU ran here. On the machine that will run the model, measure it there once.",
            _verify(subject, done),
        )


def _in_detail(subject: Subject, done: Conversion) -> Iterator[Step]:
    """What a conversion of an ONNX model leaves out, as it takes a while and decides nothing."""
    if subject.format == "onnx" and done.verification is not None and done.analysis.errors is None:
        yield Step(
            "The error of each operator was not estimated. --report does it, for models that are "
            "not large.",
            f"{_again(subject, done.analysis)} --report report.html --force",
        )


def _verify(subject: Subject, done: Conversion) -> str:
    target, written = shlex.quote(subject.target), shlex.quote(str(done.files["onnx"]))
    return f"ampconvert verify {target} {written}"


def _again(subject: Subject, found: Analysis) -> str:
    """The command that converts this model, as far as it is known what was typed."""
    dtype = "" if found.low == "float16" else f" --dtype {SHORT[found.low]}"
    runtime = f" --target {found.target}" if found.target else ""
    return f"ampconvert {shlex.quote(subject.target)}{dtype}{runtime}"
