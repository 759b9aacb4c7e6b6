"""The page of `explain`: each op of a part of the model, and the reasons behind its type."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from ampconvert.graph import Node
from ampconvert.plan import FLOAT32, OUTPUT, Cast
from ampconvert.report.layout import (
    BLANK,
    QUIET,
    STRONG,
    WARN,
    Line,
    facts,
    heading,
    indented,
    table,
)
from ampconvert.report.model_data import predicted_error
from ampconvert.report.subject import Subject, source_facts
from ampconvert.report.words import figure, percent, plural, short_op, type_name, verdict_name
from ampconvert.summary import VERDICTS

if TYPE_CHECKING:
    from ampconvert.classify import Decision
    from ampconvert.conversion import Analysis

DETAIL = 6  # up to so many ops each is told in full, with its casts


def explanation_page(subject: Subject, found: Analysis, nodes: Sequence[Node]) -> RenderableType:
    """What `ampconvert explain` prints for `nodes`: one row per op, then each reason once."""
    low = type_name(found.low)
    touched = [n for n in nodes if n.name in found.plan.compute]
    parts: list[RenderableType] = [
        Text.assemble(
            ("ampconvert", STRONG), f"  {subject.target}  ", (f"explained for {low}", STRONG)
        ),
        facts(source_facts(subject)),
        BLANK,
        _rows(found, touched),
    ]
    rest = len(nodes) - len(touched)
    if rest:
        parts.append(
            Text(
                f"and {plural(rest, 'op')} on integers or booleans, which stay as they are",
                style=QUIET,
            )
        )
    lost = list(_lost_lines(found, touched))
    if lost:
        parts += [BLANK, *(indented(Text(line)) for line in lost)]
    for group in _reasons(found, touched):
        parts += [BLANK, *group]
    if touched and len(touched) <= DETAIL:
        for node in touched:
            lines = list(_cast_lines(found, node))
            if lines:
                parts += [
                    BLANK,
                    heading(f"Casts at {node.name}"),
                    *(indented(Text(line)) for line in lines),
                ]
    return Group(*parts)


def find_nodes(nodes: Iterable[Node], patterns: Sequence[str]) -> list[Node]:
    """The nodes that a pattern names: a module path with all in it, a node, or a glob on either;
    where there is no such thing, the nodes with that operator.
    """
    every = list(nodes)
    if not patterns:
        return every
    found: set[str] = set()
    for pattern in patterns:
        named = {node.name for node in every if _fits(pattern, node)}
        found |= named or {n.name for n in every if fnmatch.fnmatchcase(short_op(n.op), pattern)}
    return [node for node in every if node.name in found]


def near_names(nodes: Iterable[Node], pattern: str, count: int = 6) -> list[str]:
    """Module paths, node names and operators that look like `pattern`, the most alike first."""
    names = dict.fromkeys(
        name for node in nodes for name in (*_modules(node.scope), node.name, short_op(node.op))
    )
    inside = [name for name in names if pattern.lower() in name.lower()]
    close = difflib.get_close_matches(pattern, names, n=count, cutoff=0.5)
    return list(dict.fromkeys([*close, *inside]))[:count] or list(names)[:count]


def _fits(pattern: str, node: Node) -> bool:
    stem = pattern.removesuffix(".*")
    names = {node.name, node.scope, f"{node.scope}.{node.name}", *_modules(node.scope)}
    # As it is, first: an ONNX name may hold the characters of a glob.
    return pattern in names or any(
        fnmatch.fnmatchcase(name, p) for name in names for p in {pattern, stem}
    )


def _modules(scope: str) -> list[str]:
    """For a.b.c: a, a.b and a.b.c."""
    parts = scope.split(".") if scope else []
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _rows(found: Analysis, nodes: Sequence[Node]) -> RenderableType:
    numbers = _numbers(found, nodes)
    rows = table("op", "in", "why", "seen up to", "error", "line", right=(3, 4), fold=(0,))
    for node in nodes:
        decision = found.plan.decisions[node.name]
        seen = [found.ranges[v].absmax for v in node.outputs if v in found.ranges]
        error = predicted_error(found, node)
        rows.add_row(
            _name(node),
            Text(
                type_name(found.plan.compute[node.name]),
                style=WARN if decision.cls == "deny" else "",
            ),
            f"[{numbers[decision.reason, decision.rule]}]",
            figure(max(seen)) if seen else "-",
            figure(error),
            node.where or "-",
        )
    return rows


def _lost_lines(found: Analysis, nodes: Sequence[Node]) -> Iterator[str]:
    """What share of the results that the plan holds in the low type is too small for it, where some
    of it is below the type's smallest number: the largest shares first.
    """
    low = type_name(found.low)
    lowered = [n for n in nodes if found.plan.compute[n.name] == found.low]
    seen = [(n, found.ranges[v]) for n in lowered for v in n.outputs if v in found.ranges]
    losing = sorted(
        ((node, held) for node, held in seen if held.lost), key=lambda pair: -pair[1].lost_share
    )
    for node, held in losing[:DETAIL]:
        yield (
            f"{node.name}: {percent(held.subnormal_share)} of its elements are below {low}'s "
            f"smallest normal number, {percent(held.lost_share)} below its smallest number of all"
        )
    if len(losing) > DETAIL:
        yield f"and {plural(len(losing) - DETAIL, 'op')} with smaller shares of such elements"


def _name(node: Node) -> str:
    """The node's name, and its operator where the name does not say it: "view_1 (reshape)"."""
    op = short_op(node.op)
    return node.name if node.name.rstrip("0123456789_") == op.rstrip("_") else f"{node.name} ({op})"


def _numbers(found: Analysis, nodes: Sequence[Node]) -> dict[tuple[str, str], int]:
    """A number for every different reason, in the order in which they appear."""
    decisions = (found.plan.decisions[n.name] for n in nodes)
    reasons = dict.fromkeys((d.reason, d.rule) for d in decisions)
    return {key: number for number, key in enumerate(reasons, 1)}


def _reasons(found: Analysis, nodes: Sequence[Node]) -> Iterator[list[RenderableType]]:
    numbers = _numbers(found, nodes)
    for key, number in numbers.items():
        own = [
            n
            for n in nodes
            if (found.plan.decisions[n.name].reason, found.plan.decisions[n.name].rule) == key
        ]
        decision = found.plan.decisions[own[0].name]
        verdict = verdict_name(VERDICTS[decision.cls], found.low)
        title = Text.assemble(
            f"[{number}] ",
            (verdict, STRONG),
            f"  {_settled_by(decision)}",
            (f"  {plural(len(own), 'op')}", QUIET),
        )
        lines = [decision.reason, *_neutral(found, own, decision)]
        block: list[RenderableType] = [title, *(indented(Text(line), 4) for line in lines)]
        if decision.source:
            source = Text(decision.source, style=QUIET)
            block.append(Line(source, 4) if "://" in decision.source else indented(source, 4))
        yield block


def _settled_by(decision: Decision) -> str:
    words = {
        "rule": f"rule {decision.rule}",
        "user": f"your rule {decision.rule}",
        "seen": f"seen in the data or weights ({decision.rule}",
        "proved": f"proved ({decision.rule}",
        "search": f"found by the parity search ({decision.rule}",
    }[decision.evidence]
    if decision.evidence in ("seen", "proved", "search"):
        number = f": {figure(decision.figure)}" if decision.figure is not None else ""
        words += f"{number})"
    return words


def _neutral(found: Analysis, nodes: Sequence[Node], decision: Decision) -> list[str]:
    """Why neutral ops run in what they run in: the cut chose, which is not the rule's doing."""
    if decision.cls not in ("infer", "clear"):
        return []
    in_low = sum(found.plan.compute[n.name] != FLOAT32 for n in nodes)
    low = type_name(found.low)
    where = f"{low} for {in_low}, FP32 for {len(nodes) - in_low}"
    if in_low in (0, len(nodes)):
        where = low if in_low else "FP32"
    return [f"It works in either type, and the plan chose by cost: {where}."]


def _cast_lines(found: Analysis, node: Node) -> Iterator[str]:
    for cast in found.plan.casts:
        positions = [i for name, i in cast.readers if name == node.name]
        if positions:
            operands = ", ".join(node.operands[i] if node.operands else str(i) for i in positions)
            yield f"{operands} ({cast.value}) is cast to {type_name(cast.to)}{_clamped(cast)}"
        if cast.value in node.outputs:
            readers = dict.fromkeys(
                "the model's output" if n == OUTPUT else n for n, _ in cast.readers
            )
            yield f"{cast.value} is cast to {type_name(cast.to)} for {', '.join(readers)}"


def _clamped(cast: Cast) -> str:
    return ", limited to its finite range first" if cast.clamp else ""
