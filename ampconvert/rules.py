"""Op rules: what is known of each operator, read from TOML, and the first rule that fits a node.

A rule is data (`rules/README.md` describes the format); this file knows no operator. Rules stand in
order of precedence and the first match wins: a user's rules stand before the built-in ones.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ampconvert.conditions import CONDITIONS
from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.graph import Graph, Node

OpClass = Literal["allow", "deny", "infer", "clear"]
CLASSES: tuple[OpClass, ...] = ("allow", "deny", "infer", "clear")
LOWS: tuple[Low, ...] = ("float16", "bfloat16")
WORKS = ("matmul", "conv", "attention", "recurrent", "einsum", "elementwise", "view")
MASKS = ("", "carry", "absorb")
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class OpRule:
    """One entry of a rule file: it fits a node when operator, place and every `when` word do."""

    name: str
    classes: Mapping[Low, OpClass]
    reason: str
    source: str = ""
    when: Mapping[str, Any] = field(default_factory=dict)
    onnx: tuple[str, ...] = ()  # "Softmax", "com.microsoft::Gelu"
    aten: tuple[str, ...] = ()  # "add" is every overload, "add.Tensor" one; "torchvision::nms"
    nodes: tuple[str, ...] = ()  # globs on module path or node name
    keep_inputs: tuple[str, ...] = ()  # operands, by schema name, that stay float32
    work: str = "elementwise"  # which cost formula
    mask: str = ""  # "carry", "absorb" or "absorb:attn_mask": what becomes of an additive mask
    exact_inputs: bool = False  # what computes the operands must not round them either
    example: str = ""  # an ONNX text graph whose last node this rule decides
    example_torch: str = ""  # the same as Python: `lambda x: ...`, for operators that ONNX lacks
    witness: str = ""  # Python: an input that goes wrong in `low`
    note: str = ""
    file: str = ""
    user: bool = False  # from the user: its decisions yield to no evidence
    loose: bool = False  # operator names compare without case, underscores and namespace

    def class_for(self, low: Low) -> OpClass:
        """allow, deny, infer or clear, for the target type `low`."""
        return self.classes[low]

    def matches(self, node: Node, graph: Graph, low: Low) -> bool:
        """Whether the operator, the place of `node` in the model and every condition fit."""
        named = self.names_op(node.op, node.overload) if self.onnx or self.aten else True
        return named and self.fits(node, graph, low)

    def names_op(self, op: str, overload: str) -> bool:
        """Whether `onnx` or `aten` holds this operator."""
        if self.loose:
            return _loosely(op) in {_loosely(name) for name in self.onnx + self.aten}
        return not {op, f"{op}.{overload}"}.isdisjoint(self.operators())

    def operators(self) -> tuple[str, ...]:
        """Every operator as nodes spell it: "onnx::Softmax", "aten::add", "aten::add.Tensor"."""
        return tuple(_qualified(name, "onnx") for name in self.onnx) + tuple(
            _qualified(name, "aten") for name in self.aten
        )

    def fits(self, node: Node, graph: Graph, low: Low) -> bool:
        """Everything but the operator's name: node globs and conditions."""
        if self.nodes and not any(_lies_in(pattern, node) for pattern in self.nodes):
            return False
        return all(
            CONDITIONS[word].holds(argument, node, graph, low)
            for word, argument in self.when.items()
        )


class RuleBook:
    """Rules in order of precedence, indexed by operator; remembers which of them decided a node."""

    def __init__(self, rules: Iterable[OpRule]) -> None:
        self.rules = tuple(rules)
        self._used: set[int] = set()
        self._by_op: dict[tuple[str, str], tuple[int, ...]] = {}
        self._named: dict[str, list[int]] = {}
        self._everywhere: list[int] = []  # rules that name no operator, or only loosely
        for order, rule in enumerate(self.rules):
            if rule.loose or not (rule.onnx or rule.aten):
                self._everywhere.append(order)
            for name in () if rule.loose else rule.operators():
                self._named.setdefault(name, []).append(order)

    def match(self, node: Node, graph: Graph, low: Low) -> OpRule | None:
        """The first rule that fits `node`, or None when no rule names it."""
        key = (node.op, node.overload)
        candidates = self._by_op.get(key)
        if candidates is None:
            candidates = self._by_op[key] = self._candidates(*key)
        for order in candidates:
            if self.rules[order].fits(node, graph, low):
                self._used.add(order)
                return self.rules[order]
        return None

    @property
    def unused(self) -> tuple[OpRule, ...]:
        """The user's rules that have decided no node so far: most likely misspelt."""
        return tuple(r for i, r in enumerate(self.rules) if r.user and i not in self._used)

    def _candidates(self, op: str, overload: str) -> tuple[int, ...]:
        named = {*self._named.get(op, ()), *self._named.get(f"{op}.{overload}", ())}
        for order in self._everywhere:
            rule = self.rules[order]
            if not rule.loose or rule.names_op(op, overload):
                named.add(order)
        return tuple(sorted(named))


def load(files: Sequence[Path] = (), *, builtin: bool = True) -> tuple[OpRule, ...]:
    """The rules of the user's `files`, in the order given, and behind them the built-in ones.

    Raises UserError, naming file and rule, for a file that cannot be read, an unknown key or
    condition, a missing reason, a class that does not exist, or a rule that names nothing.
    """
    rules = [rule for path in files for rule in _read(Path(path), user=True)]
    if builtin:
        rules += _builtin()
    return tuple(rules)


def command_line_rule(pattern: str, cls: str) -> OpRule:
    """The rule behind `--deny Softmax` (an operator) and `--deny 'encoder.layer.0.*'` (a place).

    A pattern with a dot, a slash or a glob character is matched against module paths and node
    names; anything else is an operator's ONNX or ATen name, in any case, or else the place of that
    name (`placed`). Raises UserError for an
    empty pattern or an unknown class.
    """
    if not pattern.strip():
        raise UserError(
            f"--{cls} needs an operator name or a glob on module paths, got an empty string"
        )
    if cls not in CLASSES:
        raise UserError(f"unknown class {cls!r}: use one of {', '.join(CLASSES)}")
    place = any(character in pattern for character in ".*?[/")
    names = () if place else (pattern,)
    return OpRule(
        name=f"--{cls} {pattern}",
        classes=dict.fromkeys(LOWS, cls),
        reason=COMMAND_LINE,
        source=COMMAND_LINE,
        aten=names,
        nodes=(pattern,) if place else (),
        file=COMMAND_LINE,
        user=True,
        loose=not place,
    )


def placed(rule: OpRule, graph: Graph) -> OpRule:
    """A rule of the command line, taken for the place that it names where `graph` has no such
    operator: `--deny head` is the module `head` with all in it, or the node of that name.
    """
    if not rule.loose or any(rule.names_op(node.op, node.overload) for node in graph.nodes):
        return rule
    places = {name for node in graph.nodes for name in (node.name, node.scope.partition(".")[0])}
    if places.isdisjoint(rule.aten):
        return rule
    return replace(rule, aten=(), nodes=rule.aten, loose=False)


def first_match(rules: Iterable[OpRule], node: Node, graph: Graph, low: Low) -> OpRule | None:
    """The first of `rules` that fits `node`; for many nodes build one RuleBook instead."""
    return next((rule for rule in rules if rule.matches(node, graph, low)), None)


def data_directory() -> Path:
    """Where the built-in rules lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for place in (package / "rules_data", package.parent / "rules"):
        if place.is_dir():
            return place
    raise UserError(f"the rule files are missing beside {package}: install ampconvert again")


@lru_cache
def _builtin() -> tuple[OpRule, ...]:
    paths = sorted(data_directory().glob("*.toml"))
    return tuple(rule for path in paths for rule in _read(path, user=False))


def _read(path: Path, *, user: bool) -> list[OpRule]:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read this rule file: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise UserError(f"{path}: not valid TOML: {error}") from None
    entries = data.pop("op", [])
    if data:
        raise UserError(
            f"{path}: unknown key {next(iter(data))!r}: a rule file holds [[op]] entries only"
        )
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{path}: write each rule as [[op]], with double brackets")
    return [_rule(entry, path, number, user=user) for number, entry in enumerate(entries, 1)]


_TEXTS = ("name", "reason", "source", "mask", "work", "example", "example_torch", "witness", "note")
_LISTS = {"onnx": "onnx", "aten": "aten", "node": "nodes", "keep_inputs": "keep_inputs"}
_KEYS = (*_TEXTS, *_LISTS, "class", "when", "exact_inputs")


def _rule(entry: Mapping[str, Any], path: Path, number: int, *, user: bool) -> OpRule:
    """One checked [[op]] entry."""
    where = f"{path}: rule {entry.get('name') or f'number {number}'!r}"
    for key in entry:
        if key not in _KEYS:
            raise UserError(
                f"{where}: unknown key {key!r}: the keys are {', '.join(sorted(_KEYS))}"
            )
    made: dict[str, Any] = {"file": path.name, "user": user}
    for key in _TEXTS:
        if not isinstance(entry.get(key, ""), str):
            raise UserError(f"{where}: {key} must be text")
        if key in entry:
            made[key] = entry[key]
    for key, target in _LISTS.items():
        given = entry.get(key, [])
        given = [given] if isinstance(given, str) else given
        if not isinstance(given, list) or not all(isinstance(g, str) for g in given):
            raise UserError(f"{where}: {key} must be a list of names")
        made[target] = tuple(given)
    for key in ("name", "reason"):
        if not made.get(key, "").strip():
            raise UserError(f"{where}: {key} is missing; every rule says its name and its reason")
    if not (made["onnx"] or made["aten"] or made["nodes"]):
        raise UserError(f"{where}: it names nothing: give onnx, aten or node")
    if not isinstance(entry.get("exact_inputs", False), bool):
        raise UserError(f"{where}: exact_inputs must be true or false")
    made["exact_inputs"] = entry.get("exact_inputs", False)
    made["classes"] = _classes(entry.get("class"), where)
    made["when"] = _conditions(entry.get("when", {}), where)
    _one_of(made.get("work", "elementwise"), WORKS, "work", where)
    _one_of(made.get("mask", "").partition(":")[0], MASKS, "mask", where)
    return OpRule(**made)


def _classes(given: Any, where: str) -> dict[Low, OpClass]:
    table = given if isinstance(given, dict) else dict.fromkeys(LOWS, given)
    if set(table) != set(LOWS):
        raise UserError(
            f"{where}: class must be one word or a table with exactly {' and '.join(LOWS)}"
        )
    for cls in table.values():
        _one_of(cls, CLASSES, "class", where)
    return {low: table[low] for low in LOWS}


def _conditions(given: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise UserError(f"{where}: when must be a table, such as {{ reduces_more_than = 1024 }}")
    for word, argument in given.items():
        if word not in CONDITIONS:
            known = ", ".join(sorted(CONDITIONS))
            raise UserError(f"{where}: unknown condition {word!r}: the words are {known}")
        complaint = CONDITIONS[word].complaint(argument)
        if complaint:
            raise UserError(f"{where}: {word} takes {complaint}, got {argument!r}")
    return dict(given)


def _one_of(given: Any, choices: Sequence[str], key: str, where: str) -> None:
    if given not in choices:
        shown = ", ".join(choice or '""' for choice in choices)
        raise UserError(f"{where}: {key} is {given!r}: use one of {shown}")


def _qualified(name: str, namespace: str) -> str:
    return name if "::" in name else f"{namespace}::{name}"


def _loosely(name: str) -> str:
    return name.rpartition("::")[2].replace("_", "").lower()


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern))


def _lies_in(pattern: str, node: Node) -> bool:
    """Whether the glob fits the node's name, its module path or a module around it.

    "encoder.layer.0", "encoder.layer.0.*" and "encoder.layer.?" all hold what layer 0 itself
    computes and what its submodules do.
    """
    fits = _compiled(pattern).match
    if fits(node.name) or fits(node.scope) or fits(f"{node.scope}."):
        return True
    parts = node.scope.split(".")
    return any(fits(".".join(parts[:depth])) for depth in range(1, len(parts)))
