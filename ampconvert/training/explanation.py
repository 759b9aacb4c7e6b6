"""Which operator of a prepared model runs in which type, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ampconvert.errors import UserError
from ampconvert.training.prepare import trainings_of
from ampconvert.training.subgraph import Part


@dataclass(frozen=True)
class Explained:
    """One operator: its place ("blocks.3.attn/linear#0"), the type that it computes in, and the
    verdict on it with rule, reason, source and kind of evidence. `where` is the line of the model.
    """

    place: str
    dtype: str
    verdict: str
    rule: str
    reason: str
    source: str = ""
    evidence: str = "rule"
    where: str = ""


@dataclass(frozen=True)
class Explanation:
    """The operators of a model's graphs, in the order in which they were captured.

    `graphs` counts those, `casts` the casts of activations in them. Its text is a table.
    """

    operators: Sequence[Explained]
    graphs: int
    casts: int

    def __str__(self) -> str:
        types = Counter(op.dtype for op in self.operators)
        counts = ", ".join(f"{number} in {dtype}" for dtype, number in sorted(types.items()))
        many = "graph" if self.graphs == 1 else "graphs"
        head = f"{self.graphs} {many}, {counts}, {self.casts} casts of activations"
        width = max((len(op.place) for op in self.operators), default=0)
        rows = [
            f"{op.place:{width}}  {op.dtype:8}  {op.verdict:6}  {op.rule}: {op.reason}"
            for op in self.operators
        ]
        return "\n".join((head, *rows))


def explain_training(model: nn.Module) -> Explanation:
    """What became of each operator of `model`, once it ran: graphs are captured when they are
    called. Raises UserError for a model that was not prepared, or did not run yet.
    """
    trainings = trainings_of(model)
    if not trainings:
        raise UserError("the model is not prepared: call ampconvert.prepare_training(model) first")
    subgraphs = [s for training in trainings for s in training.subgraphs]
    subgraphs.sort(key=lambda subgraph: subgraph.number)
    if not subgraphs:
        raise UserError("the model did not run since it was prepared: call it on a batch first")
    parts = [part for subgraph in subgraphs for part in _with_bodies(subgraph.whole)]
    return Explanation(
        [op for part in parts for op in _operators(part)],
        len(subgraphs),
        sum(len(part.plan.casts) for part in parts),
    )


def _with_bodies(part: Part) -> list[Part]:
    return [part, *(inner for body in part.bodies.values() for inner in _with_bodies(body))]


def _operators(part: Part) -> list[Explained]:
    found = []
    for node in part.graph.nodes:
        if node.name in part.plan.compute:
            decision = part.plan.decisions[node.name]
            found.append(
                Explained(
                    part.places[node.name].name, part.plan.compute[node.name], decision.cls,
                    decision.rule, decision.reason, decision.source, decision.evidence, node.where,
                )
            )  # fmt: skip
    return found
