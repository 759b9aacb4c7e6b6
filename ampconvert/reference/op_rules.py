"""docs/reference/op-rules.md, written from rules/*.toml: every rule that decides an operator."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ampconvert.conditions import CONDITIONS
from ampconvert.dtypes import Low
from ampconvert.reference.markdown import block, code, codes, sentence, table
from ampconvert.report.rules import MEANINGS, plain
from ampconvert.rules import CLASSES, LOWS, OpRule, data_directory, load

INTRODUCTION = """\
# Op rules

What ampconvert knows of each operator. The first rule that names the operator and whose conditions
all hold decides; your own rules stand before these. `ampconvert rules` prints the table,
`ampconvert rules softmax` one page. [The verdicts](../verdicts.md) says what can overrule a rule,
[the format](../../rules/README.md) how to write one, and
[Add an op rule](../contributing/op-rule.md) takes one from the question to the test.

Rules stand in the order in which they are tried: file by file, and in each from top to bottom.
The tests run every example in both types and hold it against the definition of its class.

This page is made from `rules/*.toml`:
`python -m ampconvert.reference op-rules > docs/reference/op-rules.md`.
"""
NAMES: dict[Low, str] = {"float16": "FP16", "bfloat16": "BF16"}


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    rules = load()
    yield INTRODUCTION
    yield from table(("class", "meaning"), ((f"`{c}`", MEANINGS[c]) for c in CLASSES))
    counts = {low: [sum(r.class_for(low) == c for r in rules) for c in CLASSES] for low in LOWS}
    yield f"{len(rules)} rules:"
    yield ""
    yield from table(
        ("", *(f"`{c}`" for c in CLASSES)),
        ((NAMES[low], *(str(n) for n in counts[low])) for low in LOWS),
    )
    for file in sorted({rule.file for rule in rules}):
        named = [rule for rule in rules if rule.file == file]
        yield f"## {file}"
        yield ""
        yield from _about(file)
        yield from table(("rule", "FP16", "BF16", "operators"), map(_row, named))
        for rule in named:
            yield from _rule(rule)


def _about(file: str) -> Iterator[str]:
    """The comment at the top of a rule file."""
    found = re.match(r"(?:#.*\n)+", (data_directory() / file).read_text(encoding="utf-8"))
    if found:
        yield " ".join(line.removeprefix("#").strip() for line in found[0].splitlines())
        yield ""


def _row(rule: OpRule) -> tuple[str, str, str, str]:
    names = [*rule.onnx, *rule.aten]
    more = f" and {len(names) - 3} more" if len(names) > 4 else ""
    shown = names[:3] if more else names
    return (
        f"[{rule.name}](#{rule.name})",
        rule.class_for("float16"),
        rule.class_for("bfloat16"),
        codes(shown) + more,
    )


def _rule(rule: OpRule) -> Iterator[str]:
    yield f"### {rule.name}"
    yield ""
    classes = {low: rule.class_for(low) for low in LOWS}
    if len(set(classes.values())) == 1:
        yield f"**{classes['float16']}** in both types. {sentence(rule.reason)}"
    else:
        told = ", ".join(f"**{cls}** in {NAMES[low]}" for low, cls in classes.items())
        yield f"{told}. {sentence(rule.reason)}"
    yield ""
    facts = dict(_facts(rule))
    yield from (f"- {label}: {text}" for label, text in facts.items() if text)
    yield ""
    yield from _examples(rule)


def _facts(rule: OpRule) -> Iterator[tuple[str, str]]:
    yield "ONNX", codes(rule.onnx)
    yield "ATen", codes(rule.aten)
    for word, argument in rule.when.items():
        spelled = code(f"{word} = {plain(argument)}")
        yield f"When {spelled}", f"[{_first(CONDITIONS[word].doc)}](conditions.md#{word})"
    yield "Operands kept in FP32", codes(rule.keep_inputs)
    yield "Mask", code(rule.mask) if rule.mask else ""
    exact = "what computes its operands stays FP32 as well" if rule.exact_inputs else ""
    yield "Exact operands", exact
    yield "Cost formula", code(rule.work) if rule.work != "elementwise" else ""
    yield "Source", rule.source
    yield "Note", " ".join(rule.note.split())


def _examples(rule: OpRule) -> Iterator[str]:
    if rule.example:
        yield "Example in ONNX's text format:"
        yield ""
        yield from block(rule.example, "text")
    if rule.example_torch:
        yield "Example in PyTorch:"
        yield ""
        yield from block(rule.example_torch, "text")
    if rule.witness:
        yield "What goes wrong:"
        yield ""
        yield from block(rule.witness, "text")


def _first(text: str) -> str:
    """The first sentence."""
    return text.partition(". ")[0].rstrip(".")
