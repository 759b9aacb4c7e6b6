"""A rule's page, and docs/lint-rules.md: written from the rules themselves."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator

from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.rule import Rule

INTRODUCTION = """\
# Lint rules

The mistakes that `ampconvert lint` finds; `ampconvert rule AMP204` prints one page. How to run it,
configure it and silence it stands in [lint.md](lint.md).

Rules that are off by default run when `--select` or the configuration names them. "Read" says how
many findings in published code (transformers, diffusers, timm, Lightning, Accelerate, PyTorch's
examples and some 140 repositories; `benchmarks/lint/judged/` lists each) were read, and how many
of them were true. A rule below 90 % is off by default. Those of the numeric rules (AMP4xx) were
found with `--assume-amp`: without it these packages give hardly any. Where no figure stands, the
rule found nothing in that code.

This page is made from the rules' own texts: `python -m ampconvert.lint > docs/lint-rules.md`.
The tests run every example.
"""
GROUPS = {
    "AMP0": "Deprecated and legacy APIs",
    "AMP1": "Autocast",
    "AMP2": "Gradient scaling",
    "AMP3": "Types that don't meet",
    "AMP4": "Range and precision",
    "AMP5": "Keras and TensorFlow",
    "AMP9": "The linter itself",
}


def pages() -> str:
    """docs/lint-rules.md: the table of all rules, then each one's page."""
    lines = [INTRODUCTION]
    for prefix, title in GROUPS.items():
        rules = [rule for rule in all_rules() if rule.CODE.startswith(prefix)]
        if rules:
            lines += [f"## {title}", ""]
            lines += ["| code | rule | default | fix | what is wrong |", "|---|---|---|---|---|"]
            lines += [_row(rule) for rule in rules] + [""]
    for rule in all_rules():
        lines += [f"## {rule.CODE} {rule.NAME}", "", page(rule), ""]
    return "\n".join(lines).rstrip() + "\n"


def page(rule: Rule) -> str:
    """One rule's page as Markdown, without its heading."""
    return "\n".join(_sections(rule)).rstrip() + "\n"


def headline(rule: Rule) -> str:
    """The first sentence of a rule's page, on one line."""
    return " ".join(text(rule).split("\n\n")[0].split())


def text(rule: Rule) -> str:
    """A rule's docstring."""
    return inspect.getdoc(type(rule)) or ""


def _sections(rule: Rule) -> Iterator[str]:
    yield text(rule)
    yield ""
    yield f"**Instead.** {rule.ADVICE}"
    yield ""
    if rule.FIX != "none":
        yield f"**Fix.** {rule.FIX.capitalize()}. {rule.FIX_SAFETY}"
        yield ""
    default = "on" if rule.DEFAULT else "off"
    yield f"**Severity.** {rule.SEVERITY.capitalize()}; {default} by default."
    yield ""
    if rule.JUDGED is not None:
        told = f"{rule.JUDGED.true} of {rule.JUDGED.read} findings in published code were true."
        yield f"**Read.** {told}"
        yield ""
    first = next((case for case in rule.INVALID if case.fixed is not None), rule.INVALID[0])
    yield from _example("Found:", first.text, rule)
    if first.fixed is not None:
        yield from _example("After the fix:", first.fixed, rule)
    yield from _example("Not found:", rule.VALID[0].text, rule)


def _example(title: str, source: str, rule: Rule) -> Iterator[str]:
    yield title
    yield ""
    yield f"```python\n{unmarked(source, rule)}```"
    yield ""


def unmarked(source: str, rule: Rule) -> str:
    """An example without the comments that say where the finding is."""
    lines = textwrap.dedent(source).splitlines()
    return "".join(f"{line.removesuffix(f'# {rule.CODE}').rstrip()}\n" for line in lines)


def _row(rule: Rule) -> str:
    link = f"[{rule.CODE}](#{rule.CODE.lower()}-{rule.NAME})"
    fix = "" if rule.FIX == "none" else rule.FIX
    default = "on" if rule.DEFAULT else "off"
    return f"| {link} | {rule.NAME} | {default} | {fix} | {headline(rule)} |"
