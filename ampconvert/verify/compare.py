"""Parity of a converted ONNX model with its reference's answers, measured so that it can't lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.element_types import count_low, stores_low, typed
from ampconvert.errors import UserError
from ampconvert.verify.emulate import emulate, upcast
from ampconvert.verify.first_bad import BadTensor, first_bad
from ampconvert.verify.metrics import Measurement, Parity, default_tolerance
from ampconvert.verify.runtimes import available_provider, gpu_name, low_nodes_run, session
from ampconvert.verify.segment_cuts import Limits
from ampconvert.verify.segments import DEFAULT, Kept, visit

Answers = Mapping[str, Any] | Sequence[Any]
How = Literal["auto", "emulated", "cuda", "cpu"]


@dataclass(frozen=True)
class Verification:
    """What was measured, and on what."""

    parities: tuple[Parity, ...]  # one per output, in the model's order
    how: str  # a phrase for the report: "emulated on ONNX Runtime CPU"
    provider: str  # "cpu", "cuda", or what else ran the candidate
    low_nodes: int | None = None  # nodes that ran in a low type (emulated: would run)
    total_nodes: int | None = None  # nodes, casts and constants not counted
    first_bad: BadTensor | None = None  # where an output that is not finite comes from
    # False when what ran hides low-precision errors: then no figure verifies anything.
    faithful: bool = True

    @property
    def ok(self) -> bool:
        """Every output is within its tolerance, in a run that shows what the low type does."""
        return self.faithful and bool(self.parities) and all(p.ok for p in self.parities)


def verify_onnx(
    candidate: Path | str | ir.Model,
    references: Sequence[Answers],
    feeds: Sequence[Mapping[str, Any]],
    low: Low,
    tolerance: float | None = None,
    names: Sequence[str] | None = None,
    *,
    how: How = "auto",
    limits: Limits = DEFAULT,
) -> Verification:
    """Compare a converted model's answers to `references`, batch by batch.

    `feeds` and `references` hold one entry per batch; a reference is its outputs by name, or in the
    model's order: arrays, a list of arrays for a sequence, None for an optional without a value.
    `names` are the names that outputs are reported under, and looked up under where references go
    by name; by default the candidate's own. `tolerance` is the largest relative L2 error, by
    default `default_tolerance(low)`.

    `how` is "auto": the model itself on the CUDA provider where there is a GPU, else the emulated
    model on the CPU. "cpu" runs the model itself on the CPU provider; if it stores anything in a
    low type that is never `ok`, since that provider computes in float32 and hides overflow. What
    passes `limits` runs in segments, except where the model itself has to run.

    Raises:
        UserError: the model can't be read, does not load or run, or the inputs or outputs do not
            fit it.
    """
    model = candidate if isinstance(candidate, ir.Model) else _read(Path(candidate))
    named = _named(model, names)
    if len(references) != len(feeds) or not feeds:
        raise UserError(
            f"{len(feeds)} batches of inputs and {len(references)} of reference outputs"
        )
    columns = [_column(references, name, i, len(named)) for i, name in enumerate(named)]
    return _judged(
        model, lambda batch, i: columns[i][batch], named, feeds, low, tolerance, how, limits
    )


def verify_pair(
    reference: ir.Model,
    candidate: ir.Model,
    feeds: Sequence[Mapping[str, Any]],
    low: Low,
    tolerance: float | None = None,
    names: Sequence[str] | None = None,
    *,
    how: How = "auto",
    limits: Limits = DEFAULT,
) -> Verification:
    """Compare a converted model's answers to those of the model it was made from.

    Both take the same inputs and give the same number of outputs, in the same order. Where the
    reference itself stores tensors in a low type, it runs with all of them in float32. Neither
    model's weights nor all outputs have to fit in memory: see `Limits`. Arguments and errors are
    those of `verify_onnx`.
    """
    named = _named(candidate, names)
    own = [value.name or "" for value in reference.graph.outputs]
    if len(own) != len(named):
        raise UserError(f"{len(own)} outputs in the reference, {len(named)} in the candidate")
    if not feeds:
        raise UserError("0 batches of inputs: there is nothing to compare")
    runnable = upcast(reference) if stores_low(typed(reference)) else reference
    with closing(Kept(limits.kept)) as kept:
        visit(runnable, feeds, own, kept.put, limits=limits)
        return _judged(
            candidate, lambda batch, i: kept.get(batch, own[i]), named, feeds, low, tolerance, how,
            limits,
        )  # fmt: skip


def _named(model: ir.Model, names: Sequence[str] | None) -> list[str]:
    own = [value.name or "" for value in model.graph.outputs]
    named = list(names) if names is not None else own
    if len(named) != len(own):
        raise UserError(f"{len(named)} output names for a model with {len(own)} outputs: {own}")
    return named


def _judged(
    model: ir.Model,
    truth: Callable[[int, int], Any],
    named: Sequence[str],
    feeds: Sequence[Mapping[str, Any]],
    low: Low,
    tolerance: float | None,
    how: How,
    limits: Limits,
) -> Verification:
    """Run the candidate; `truth` gives the reference's answer by batch and output."""
    known = typed(model)
    lowered = stores_low(known)
    way = _way(how, lowered)
    runnable = emulate(model) if way == "emulated" else model
    accepted = default_tolerance(low) if tolerance is None else tolerance
    measured = [Measurement(name, accepted) for name in named]
    places: dict[str, list[int]] = {}
    for i, value in enumerate(model.graph.outputs):
        places.setdefault(value.name or "", []).append(i)

    def see(batch: int, name: str, answer: Any) -> None:
        for i in places[name]:
            measured[i].add(truth(batch, i), answer)

    if way == "cuda" or (way == "cpu" and lowered):
        with session(model, provider=way) as opened:
            for batch, feed in enumerate(feeds):
                for name, answer in opened.run(feed).items():
                    see(batch, name, answer)
    else:
        visit(runnable, feeds, list(places), see, limits=limits)
    parities = tuple(m.parity() for m in measured)
    bad = None
    if lowered and not all(p.ok for p in parities):  # an overflow may end in finite zeros
        emulated = runnable if way == "emulated" else emulate(model)
        bad = first_bad(emulated, upcast(model), feeds)
    counted = low_nodes_run(model, provider="cuda") if way == "cuda" else count_low(known)
    return Verification(
        parities=parities,
        how=_phrase(way, lowered),
        provider="cuda" if way == "cuda" else "cpu",
        low_nodes=counted.low,
        total_nodes=counted.total,
        first_bad=bad,
        faithful=way != "cpu" or not lowered,
    )


def _read(path: Path) -> ir.Model:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return ir.load(path)
    except Exception as error:  # protobuf's, onnx_ir's and the system's own: no common base
        raise UserError(f"{path}: this is no ONNX model that can be read: {error}") from error


def _way(how: How, lowered: bool) -> Literal["emulated", "cuda", "cpu"]:
    if how == "cuda" or (how == "auto" and available_provider() == "cuda"):
        return "cuda"
    return "cpu" if how == "cpu" or not lowered else "emulated"


def _phrase(way: str, lowered: bool) -> str:
    if way == "emulated":
        return "emulated on ONNX Runtime CPU"
    if way == "cuda":
        return f"ONNX Runtime CUDA provider on {gpu_name()}"
    if lowered:
        return "ONNX Runtime CPU provider, which computes in float32 and hides low-precision errors"
    return "ONNX Runtime CPU provider (the model stores nothing in a low type)"


def _column(references: Sequence[Answers], name: str, i: int, outputs: int) -> list[Any]:
    """Output `i` of every batch."""
    column = []
    for batch, answers in enumerate(references):
        if isinstance(answers, Mapping):
            if name not in answers:
                raise UserError(
                    f"batch {batch}: the reference has no output {name!r}: {sorted(answers)}"
                )
            column.append(answers[name])
            continue
        if len(answers) != outputs:
            raise UserError(
                f"batch {batch}: {len(answers)} reference outputs, the model has {outputs}"
            )
        column.append(answers[i])
    return column
