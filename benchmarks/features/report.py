"""The feature table as text: a table per section, and below it what each answer rests on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.dated import Table
from benchmarks.features.cells import FAILED, Feature, Found, How, Section
from benchmarks.features.run import OURS

# Small marks behind a verdict: how it is known.
MARKS: dict[How, str] = {
    "command": "", "converted": "", "probe": "", "source": " ˢ", "documentation": " ᵈ",
    "result file": " ʳ", "not run": "",
}  # fmt: skip
LEGEND = (
    "Unmarked answers were measured in this run: ampconvert's by the command named below, a peer's "
    "by its own converter or command on the same files, judged by the same checks. "
    "ʳ from a result file of another benchmark of this repository. "
    "ˢ no line of the source files that are compared speaks of it. "
    "ᵈ from the documentation behind the link. "
    "Olive's pass leaves nodes out of order, which the full checker refuses: but for the rows on "
    "ONNX in and out, its files are sorted before they are judged."
)

Answers = Mapping[str, Mapping[str, Found]]  # by feature, then by tool


def tables(sections: Sequence[Section], answers: Answers) -> list[Table]:
    """For every section its table, and a table of the evidence."""
    found = []
    for section in sections:
        tools = (OURS, *section.peers)
        rows = [(f.name, *_verdicts(f, tools, answers)) for f in section.features]
        found.append(Table(section.title, ("feature", *tools), rows))
        evidence = [row for f in section.features for row in _evidence(f, tools, answers)]
        columns = ("feature", "tool", "answer", "what was found", "by")
        found.append(Table(f"{section.title}: evidence", columns, evidence))
    found[0] = Table(found[0].title, found[0].columns, found[0].rows, (LEGEND,))
    return found


def failures(sections: Sequence[Section], answers: Answers) -> list[str]:
    """What has to be looked at: commands of ours that fail, probes without a clear answer."""
    return [
        f"{feature.name}, {tool}: {found.verdict}: {found.detail} ({found.source})"
        for section in sections
        for feature in section.features
        for tool, found in answers[feature.name].items()
        if found.bad
    ]


def plain(sections: Sequence[Section], answers: Answers) -> dict[str, Any]:
    """Everything that was found, for the JSON file."""
    return {
        section.title: {
            feature.name: {tool: asdict(found) for tool, found in answers[feature.name].items()}
            for feature in section.features
        }
        for section in sections
    }


def marked(found: Found | None) -> str:
    """A verdict with the mark of how it is known; a dash where nothing was asked."""
    if found is None:
        return "-"
    return f"**{found.verdict}**" if found.verdict == FAILED else found.verdict + MARKS[found.how]


def _verdicts(feature: Feature, tools: Sequence[str], answers: Answers) -> list[str]:
    return [marked(answers[feature.name].get(tool)) for tool in tools]


def _evidence(
    feature: Feature, tools: Sequence[str], answers: Answers
) -> Iterator[tuple[str, ...]]:
    for tool in tools:
        if (found := answers[feature.name].get(tool)) is not None:
            yield feature.name, tool, found.verdict, escaped(found.detail), _by(found)


def _by(found: Found) -> str:
    if found.how == "documentation":
        return f"[documentation]({found.source})"
    if found.how == "result file":
        return f"[result file]({found.source.removeprefix('benchmarks/results/')})"
    if found.how == "source":
        return f"search for {code(found.source)}"
    return code(found.source) if found.source else found.how


def code(text: str) -> str:
    """Code in a table's cell: a bar would end the cell, whatever stands around it."""
    return f"`{text}`".replace("|", "\\|")


def escaped(text: str) -> str:
    """What a program printed, with nothing in it that Markdown would act on, in one line."""
    return re.sub(r"([|*\[])", r"\\\1", text).replace("<", "&lt;").replace("\n", " ")
