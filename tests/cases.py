"""What a test model is, and a plan for any of them; the models themselves are in tests/models.py.

A `Case` is built by name (`build("tied")`), seeded, in eval mode. `plan_for` plans it by the
built-in rules, or with types set at random so that every kind of operator gets operands of both
types.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.classify import classify
from ampconvert.cost import load_target
from ampconvert.dtypes import Low
from ampconvert.frontends import fx, fx_run
from ampconvert.frontends.capture import capture
from ampconvert.graph import Graph, Node
from ampconvert.plan import Plan, make_plan
from ampconvert.rules import LOWS, OpRule, RuleBook, load


@dataclass(frozen=True)
class Case:
    """One model with inputs that it runs on."""

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    onnx: bool = True  # False: torch.onnx has no translation for it, in float32 neither
    gradients: bool = True  # False: nothing in it can be trained


CASES: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    """Register a case under its function's name."""
    CASES[make.__name__] = make
    return make


def build(name: str) -> Case:
    """The case `name`, the same every time."""
    torch.manual_seed(zlib.crc32(name.encode()))
    found = CASES[name]()
    found.module.eval()
    return found


class Fn(nn.Module):
    """A function as a module, with submodules under their names."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.function(self, *args)


def captured(found: Case, **options: Any) -> ExportedProgram:
    return capture(found.module, found.args, found.kwargs, **options).program


def plan_for(
    program: ExportedProgram,
    found: Case,
    low: Low = "float16",
    *,
    rules: Sequence[OpRule] = (),
    scatter: int = 0,
) -> tuple[Graph, Plan]:
    """The graph and a plan for it.

    `scatter` 0 leaves it to the rules and the cut. 1 sets every neutral node in `low`. A larger
    number sets neutral nodes in either type and denies some that are allow, others for each number.
    """
    graph = fx.read(program)
    ranges = fx_run.calibrate(program, [(found.args, found.kwargs)])
    book = RuleBook((*rules, *load(), anything("infer")))
    if scatter:
        chosen = [
            _scattered(node, book.match(node, graph, low), low, scatter) for node in graph.nodes
        ]
        book = RuleBook((*[rule for rule in chosen if rule], *book.rules))
    verdicts = classify(graph, book, low, ranges)
    return graph, make_plan(graph, verdicts, low, load_target())


def _scattered(node: Node, rule: OpRule | None, low: Low, scatter: int) -> OpRule | None:
    """A rule for `node` alone by the chance of its name; None where the built-in one is to hold."""
    cls = rule.class_for(low) if rule else "deny"
    chance = zlib.crc32(f"{node.name}/{scatter}".encode()) % 3
    if cls == "deny" or (scatter > 1 and chance == 2) or (scatter == 1 and cls == "allow"):
        return None
    denied = scatter > 1 and chance == 0
    word = "deny" if denied else "allow"
    base = rule or anything(word)
    return replace(
        base,
        name="scatter",
        classes=dict.fromkeys(LOWS, word),
        nodes=(node.name,),
        onnx=(),
        aten=(),
    )


def anything(cls: Any) -> OpRule:
    """A rule for whatever no other rule names."""
    return OpRule("anything", dict.fromkeys(LOWS, cls), "test", nodes=("*",))


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
