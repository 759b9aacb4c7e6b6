"""One Decision per node: which rule settled it, and what data or neighbours overruled.

Order of evidence, later overrules earlier:

1. the first rule that names the operator; no rule names it: deny, and counted in the report;
2. a result whose type the front end knows to be fixed: deny;
3. the target has no kernel of `low` for the operator: deny;
4. constants outside `low`'s range: deny, unless the constant is a mask (below);
5. values seen outside `low`'s range, or altogether under its smallest normal: deny, for the node
   that makes them and for every node that would have to read them;
6. operands that must not have been rounded (the angles of sin and cos): deny for what makes them;
7. nodes that have to run in one type: deny for all of them when one is denied.

A mask is a constant that means "minus infinity" (finfo.min, -1e9): every way from it leads over
operators that hand it on (`mask = "carry"`) into one that turns it into zero (`mask = "absorb"`).
It gets the value MASK_SHARE * low's minimum instead, which means the same and still adds to a score
without overflowing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ampconvert.dtypes import FLOAT_TYPES, FloatType, Low
from ampconvert.graph import Graph, Node, Value
from ampconvert.masks import MaskCone, mask_sources
from ampconvert.ranges.calibrate import Range, array_range
from ampconvert.rules import OpRule, RuleBook

OpClass = Literal["allow", "deny", "infer", "clear"]
Evidence = Literal["rule", "seen", "proved", "search", "user"]
# Operator, low type, whether the user asked for it -> why it has to stay float32, "" for no reason.
Refuses = Callable[[str, Low, bool], str]

HEADROOM = 4.0  # seen magnitudes may grow this much on data not seen before `low` overflows
HARMLESS = 0.25  # of a unit roundoff: an output error that the output's own rounding hides
MASK_SHARE = 0.5
UNKNOWN = "No rule names this operator."


@dataclass(frozen=True)
class Decision:
    """The verdict on one node: class, the rule that gave it, why, and which kind of evidence
    settled it.
    """

    cls: OpClass
    rule: str
    reason: str
    source: str = ""
    evidence: Evidence = "rule"
    figure: float | None = None  # the number behind `seen` and `proved`
    work: str = "elementwise"
    keep: tuple[int, ...] = ()  # input positions that stay float32 whatever the node runs in

    @property
    def unknown(self) -> bool:
        """Whether no rule named the operator."""
        return self.reason == UNKNOWN


@dataclass(frozen=True)
class Verdicts:
    """What `classify` found: decisions by node, replaced mask constants by node and argument, mask
    values.
    """

    decisions: Mapping[str, Decision]
    scalars: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    masks: frozenset[str] = frozenset()  # inputs and weights to clamp when they are cast to `low`


def classify(
    graph: Graph,
    book: RuleBook,
    low: Low,
    ranges: Mapping[str, Range] | None = None,
    errors: Mapping[str, float] | None = None,
    refuses: Refuses | None = None,
    proved: Collection[str] = (),
) -> Verdicts:
    """Decide every node of `graph` for the target type `low`.

    `ranges` maps value names to what was seen in them, in the float32 model; without it only rules,
    constants and weights speak. `errors` is the squared relative output error of rounding a value:
    one that is all subnormal does no harm where that is predicted to be lost in rounding anyway.
    `refuses` tells of operators that have no kernel where the model is to run (`Target.refuses`).
    `proved` names values that were proved to fit `low`: what was seen in them needs no headroom.
    """
    limits = FLOAT_TYPES[low]
    rules = _rules(graph, book, low)
    decisions = {node.name: _by_rule(node, rules[node.name], low) for node in graph.nodes}
    if refuses is not None:
        _refuse(graph, decisions, low, refuses)
    seen = dict(ranges or {})
    seen |= weight_ranges(graph, seen, low)

    cone = MaskCone(graph, rules)
    scalars: dict[str, dict[str, float]] = {}
    for node in graph.nodes:
        outside = _scalars_outside(node, limits)
        if outside and all(v < 0 for v in outside.values()) and cone.holds(node.outputs):
            scalars[node.name] = dict.fromkeys(outside, -MASK_SHARE * limits.max)
        elif outside and decisions[node.name].cls != "deny":
            name, number = next(iter(outside.items()))
            decisions[node.name] = _overrule(
                decisions[node.name],
                "constant-range",
                f"Its constant {name}={number:.3g} is beyond {low}'s {limits.max:.4g}.",
                figure=number,
            )  # fmt: skip
    masks = mask_sources(graph, seen, cone, limits)
    in_mask = cone.closure(
        [out for n in graph.nodes if n.name in scalars for out in n.outputs] + list(masks)
    )
    lost = harmless_error(low)
    harmless = frozenset(name for name, energy in (errors or {}).items() if energy <= lost)
    for node in graph.nodes:
        if decisions[node.name].cls != "deny" and decisions[node.name].evidence != "user":
            refused = _by_range(
                graph, node, seen, harmless, in_mask, limits, decisions[node.name], proved
            )
            if refused is not None:
                decisions[node.name] = refused
    _protect_operands(graph, rules, decisions)
    _level_ties(graph, decisions)
    return Verdicts(decisions, scalars, masks)


def harmless_error(low: Low) -> float:
    """The squared relative output error that the rounding of the output itself hides."""
    return (HARMLESS * FLOAT_TYPES[low].unit) ** 2


def weight_ranges(
    graph: Graph, known: Mapping[str, Range], low: Low = "float16"
) -> dict[str, Range]:
    """The ranges of the float32 weights that are not `known`; each is loaded once."""
    weights = (v for v in graph.values.values() if v.const is not None and v.is_float32)
    return {v.name: weight_range(v, low) for v in weights if v.name not in known}


def vanishing(graph: Graph, ranges: Mapping[str, Range], low: Low) -> list[str]:
    """The values that never exceed `low`'s smallest normal number: candidates for float32, unless
    rounding them is known to do no harm.
    """
    tiny = FLOAT_TYPES[low].tiny
    made = (v for v in graph.values.values() if v.kind != "input" and v.name in ranges)
    return [v.name for v in made if v.is_float32 and 0 < ranges[v.name].absmax < tiny]


def weight_range(value: Value, low: Low = "float16") -> Range:
    """The range of a weight's data; loads it once. What is small is counted by `low`."""
    data = np.asarray(value.const(), dtype=np.float32) if value.const else np.empty(0, np.float32)
    return array_range(data, low)


def _rules(graph: Graph, book: RuleBook, low: Low) -> dict[str, OpRule | None]:
    """Each node's rule. A user's rule gives the class; what the operator is, the built-in rule
    still says.
    """
    known = RuleBook(rule for rule in book.rules if not rule.user)
    rules: dict[str, OpRule | None] = {}
    for node in graph.nodes:
        rule = book.match(node, graph, low)
        fact = known.match(node, graph, low) if rule is not None and rule.user else None
        if rule is not None and fact is not None:
            rule = replace(
                rule,
                work=fact.work if rule.work == "elementwise" else rule.work,
                mask=rule.mask or fact.mask,
                keep_inputs=rule.keep_inputs or fact.keep_inputs,
                exact_inputs=rule.exact_inputs or fact.exact_inputs,
            )
        rules[node.name] = rule
    return rules


def _by_rule(node: Node, rule: OpRule | None, low: Low) -> Decision:
    if rule is None:
        return Decision("deny", "unknown", UNKNOWN)
    keep = _kept(node, rule)
    evidence: Evidence = "user" if rule.user else "rule"
    decision = Decision(
        rule.class_for(low), rule.name, rule.reason, rule.source, evidence, None, rule.work, keep
    )
    if node.bound and decision.cls != "deny":
        return _overrule(decision, "fixed-type", node.bound, evidence="rule")
    return decision


def _kept(node: Node, rule: OpRule) -> tuple[int, ...]:
    """The input positions that stay float32: fixed ones, and the rule's where the format lets an
    operand differ in type from the others.
    """
    wanted = {i for name in rule.keep_inputs for i in node.operand(name)}
    if node.input_types:
        others = {t for i, t in enumerate(node.input_types) if i not in wanted}
        shared = (others | set(node.output_types)) - {""}
        wanted = {i for i in wanted if node.input_types[i] not in shared}
    return tuple(sorted(wanted | set(node.fixed_inputs)))


def _refuse(graph: Graph, decisions: dict[str, Decision], low: Low, refuses: Refuses) -> None:
    """Deny what has no kernel; what the user asked for, only where that would not load."""
    for node in graph.nodes:
        decision = decisions[node.name]
        if decision.cls == "deny":
            continue
        reason = refuses(node.op, low, decision.evidence == "user")
        if reason:
            decisions[node.name] = _overrule(decision, "no-kernel", reason, evidence="rule")


def _overrule(decision: Decision, rule: str, reason: str, *, figure: float | None = None,
              evidence: Evidence = "seen") -> Decision:  # fmt: skip
    """`decision` turned into a deny by evidence."""
    return replace(
        decision, cls="deny", rule=rule, reason=reason, source="", evidence=evidence, figure=figure
    )


def _scalars_outside(node: Node, limits: FloatType) -> dict[str, float]:
    """Finite float arguments that `limits` cannot hold, by name; integers stand for sizes and
    axes.
    """
    return {
        name: float(value)
        for name, value in node.attrs.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and abs(value) >= limits.overflow
        and (isinstance(value, float) or name in ("value", "other", "fill_value", "self"))
    }


def _by_range(
    graph: Graph,
    node: Node,
    seen: Mapping[str, Range],
    harmless: frozenset[str],
    masks: frozenset[str],
    limits: FloatType,
    decision: Decision,
    proved: Collection[str],
) -> Decision | None:
    """A deny where a value of `node` was seen not to fit, else None."""
    for value, role in _float_values(graph, node, decision):
        found = seen.get(value.name)
        if found is None or found.elements == 0:
            continue
        is_weight = value.kind == "weight"
        largest = max(found.maximum, found.unmasked) if value.name in masks else found.absmax
        headroom = 1.0 if is_weight else HEADROOM
        fits = largest < limits.overflow and value.name in proved
        if largest * headroom >= limits.overflow and not fits:
            how = f"holds {largest:.4g}" if is_weight else f"was seen at {largest:.4g}"
            near = "beyond" if largest >= limits.overflow else f"within {HEADROOM:g} times of"
            return _overrule(
                decision, "weight-range" if is_weight else "range",
                f"Its {role} {how}, {near} {limits.name}'s largest number {limits.max:.5g}.",
                figure=largest,
            )  # fmt: skip
        subnormal = 0 < found.absmax < limits.tiny and decision.cls != "clear"
        if subnormal and value.name not in harmless:
            return _overrule(
                decision, "subnormal",
                f"Its {role} never exceeds {found.absmax:.3g}: below {limits.name}'s smallest "
                f"normal number, {limits.tiny:.3g}, every halving loses another bit.",
                figure=found.absmax,
            )  # fmt: skip
    return None


def _float_values(graph: Graph, node: Node, decision: Decision) -> Iterator[tuple[Value, str]]:
    for value in graph.output_values(node):
        if value.is_float32:
            yield value, "result"
    for position, operand in enumerate(graph.input_values(node)):
        if operand is not None and operand.is_float32 and position not in decision.keep:
            name = node.operands[position] if node.operands else str(position)
            yield (
                operand,
                f"{'weight' if operand.kind == 'weight' else 'operand'} {operand.label or name}",
            )


def _protect_operands(
    graph: Graph, rules: Mapping[str, OpRule | None], decisions: dict[str, Decision]
) -> None:
    """Deny what computes the operands of `exact_inputs` rules, up to where activations begin.

    An angle, a position or a coordinate is computed from integers, weights or the model's inputs;
    one that a matrix product makes out of activations was never exact, and the walk ends there.
    """
    activations = _activations(graph, decisions)
    walked: set[str] = set()
    for node in graph.nodes:
        rule = rules[node.name]
        if rule is None or not rule.exact_inputs or decisions[node.name].cls != "deny":
            continue
        stack = [name for name in node.inputs if name is not None]
        while stack:
            producer = graph.producers.get(stack.pop())
            if producer is None or producer.name in walked:
                continue
            walked.add(producer.name)
            if not any(v.is_float32 for v in graph.output_values(producer)):
                continue
            decision = decisions[producer.name]
            reads_activations = any(name in activations for name in producer.inputs)
            by_user = decision.evidence == "user" and decision.cls != "deny"
            if by_user or (decision.cls == "allow" and reads_activations):
                continue
            if decision.cls != "deny":
                short = node.op.rpartition(":")[2]
                decisions[producer.name] = _overrule(
                    decision, "exact-operand",
                    f"It computes what {short} ({node.name}) takes: {rule.reason}", evidence="rule",
                )  # fmt: skip
            stack.extend(name for name in producer.inputs if name is not None)


def _level_ties(graph: Graph, decisions: dict[str, Decision]) -> None:
    """Deny every node that is tied to a denied one."""
    for tie in graph.ties:
        denied = next((name for name in tie if decisions[name].cls == "deny"), None)
        if denied is None:
            continue
        for name in tie:
            if decisions[name].cls != "deny":
                decisions[name] = _overrule(
                    decisions[name], "same-type",
                    f"It has to run in one type with {denied}: {decisions[denied].reason}",
                    evidence=decisions[denied].evidence,
                )  # fmt: skip


def _activations(graph: Graph, decisions: Mapping[str, Decision]) -> set[str]:
    """Float values that depend on a float input of the model or on a table looked up by an integer
    input.
    """
    found = {name for name in graph.inputs if graph.values[name].is_float32}
    for node in graph.nodes:
        values: list[Any] = [v for v in graph.input_values(node) if v is not None]
        looks_up = (
            decisions[node.name].cls == "clear"
            and any(v.kind == "weight" and v.is_float32 and len(v.sizes) > 1 for v in values)
            and any(v.kind != "weight" and not v.is_float32 for v in values)
        )
        if looks_up or any(v.name in found for v in values):
            found.update(node.outputs)
    return found
