"""The rules in the terminal: a table of all of them, and one rule's page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ampconvert.conditions import CONDITIONS
from ampconvert.dtypes import Low
from ampconvert.rules import LOWS, OpRule

COLOURS = {"allow": "green", "clear": "cyan", "infer": "blue", "deny": "red"}
MEANINGS = {
    "allow": "runs in the low type: it gains and keeps its meaning",
    "clear": "op(cast(x)) equals cast(op(x)) bit for bit: a cast may move across it",
    "infer": "follows its surroundings: the plan decides by cost",
    "deny": "stays in float32",
}
WIDTH = 48  # characters of operator names in a row of the table


def table(rules: Sequence[OpRule], low: Low) -> RenderableType:
    """One line per rule, in order of precedence, with its class for the target type `low`."""
    grid = Table(
        title=f"Op rules for {low}: the first match decides; `ampconvert rules NAME` says why",
        title_justify="left",
        box=None,
        pad_edge=False,
        expand=True,
    )
    grid.add_column("rule", no_wrap=True, width=max((len(r.name) for r in rules), default=4))
    grid.add_column("class", no_wrap=True, width=5)
    for column in ("operators", "when"):
        grid.add_column(column, no_wrap=True, overflow="ellipsis", ratio=1)
    for rule in rules:
        grid.add_row(
            Text(rule.name), _class(rule, low), Text(_shortened(rule)), Text(_condition(rule))
        )
    return grid


def page(rule: OpRule) -> RenderableType:
    """All that is known of one rule: class per type, what it matches, reason, source, examples."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(ratio=1)
    for low in LOWS:
        cls = rule.class_for(low)
        grid.add_row(low, Text.assemble(_class(rule, low), f": {MEANINGS[cls]}"))
    grid.add_row("reason", Text(rule.reason))
    for word in rule.when:
        grid.add_row("when", Text(f"{word} = {plain(rule.when[word])}: {CONDITIONS[word].doc}"))
    rows = {
        "ONNX": ", ".join(rule.onnx),
        "ATen": ", ".join(rule.aten),
        "in the model": ", ".join(rule.nodes),
        "kept float32": ", ".join(rule.keep_inputs),
        "mask": rule.mask,
        "exact operands": "what computes its operands stays float32 as well"
        if rule.exact_inputs
        else "",
        "source": rule.source,
        "note": " ".join(rule.note.split()),
        "example": rule.example.strip(),
        "in PyTorch": rule.example_torch.strip(),
        "goes wrong": rule.witness,
        "file": rule.file,
    }
    for label, content in rows.items():
        if content:
            grid.add_row(label, Text(content))
    return Group(Panel(grid, title=escape(rule.name), title_align="left"))


def _class(rule: OpRule, low: Low) -> Text:
    cls = rule.class_for(low)
    return Text(cls, style=COLOURS[cls])


def _condition(rule: OpRule) -> str:
    parts = [f"{word} = {plain(argument)}" for word, argument in rule.when.items()]
    return "\n".join([*rule.nodes, *parts])


def plain(argument: object) -> str:
    """An argument as TOML spells it."""
    if isinstance(argument, bool):
        return str(argument).lower()
    if isinstance(argument, dict):
        return "{" + ", ".join(f"{k} = {plain(v)}" for k, v in argument.items()) + "}"
    if isinstance(argument, list):
        return "[" + ", ".join(plain(item) for item in argument) + "]"
    return f'"{argument}"' if isinstance(argument, str) else str(argument)


def _shortened(rule: OpRule) -> str:
    """As many operator names as fit, and how many more there are."""
    names = [*rule.onnx, *rule.aten]
    shown: list[str] = []
    while names and (not shown or len(", ".join([*shown, names[0]])) <= WIDTH):
        shown.append(names.pop(0))
    return ", ".join(shown) + (f" and {len(names)} more" if names else "")
