"""Parity of a converted ONNX model with its reference's answers, measured so that it can't lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.element_types import count_low, stores_low, typed
from ampconvert.errors import UserError
from ampconvert.verify.emulate import emulate, upcast
from ampconvert.verify.first_bad import BadTensor, first_bad
from ampconvert.verify.metrics import Parity, compare, default_tolerance
from ampconvert.verify.runtimes import (
    Provider,
    available_provider,
    gpu_name,
    low_nodes_run,
    run_onnx,
)

Array = np.ndarray[Any, Any]
Answers = Mapping[str, Array] | Sequence[Array]
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
    feeds: Sequence[Mapping[str, Array]],
    low: Low,
    tolerance: float | None = None,
    names: Sequence[str] | None = None,
    *,
    how: How = "auto",
) -> Verification:
    """Compare a converted model's answers to `references`, batch by batch.

    `feeds` and `references` hold one entry per batch; a reference is its outputs by name, or in the
    model's order. `names` are the names that outputs are reported under, and looked up under where
    references go by name; by default the candidate's own. `tolerance` is the largest relative L2
    error, by default `default_tolerance(low)`.

    `how` is "auto": the model itself on the CUDA provider where there is a GPU, else the emulated
    model on the CPU. "cpu" runs the model itself on the CPU provider; if it stores anything in a
    low type that is never `ok`, since that provider computes in float32 and hides overflow.

    Raises:
        UserError: the model can't be read, does not load or run, or the inputs or outputs do not
            fit it.
    """
    model = candidate if isinstance(candidate, ir.Model) else _read(Path(candidate))
    own = [value.name or "" for value in model.graph.outputs]
    named = list(names) if names is not None else own
    if len(named) != len(own):
        raise UserError(f"{len(named)} output names for a model with {len(own)} outputs: {own}")
    if len(references) != len(feeds) or not feeds:
        raise UserError(
            f"{len(feeds)} batches of inputs and {len(references)} of reference outputs"
        )
    known = typed(model)
    lowered = stores_low(known)
    way = _way(how, lowered)
    runnable = emulate(model) if way == "emulated" else model
    provider: Provider = "cuda" if way == "cuda" else "cpu"
    results = run_onnx(runnable, feeds, provider=provider)
    accepted = default_tolerance(low) if tolerance is None else tolerance
    parities = tuple(
        compare(name, _column(references, name, i, len(own)), [r[mine] for r in results], accepted)
        for i, (name, mine) in enumerate(zip(named, own, strict=True))
    )
    bad = None
    if lowered and not all(p.ok for p in parities):  # an overflow may end in finite zeros
        emulated = runnable if way == "emulated" else emulate(model)
        bad = first_bad(emulated, upcast(model), feeds)
    counted = low_nodes_run(model, provider="cuda") if way == "cuda" else count_low(known)
    return Verification(
        parities=parities,
        how=_phrase(way, lowered),
        provider=provider,
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


def _column(references: Sequence[Answers], name: str, i: int, outputs: int) -> list[Array]:
    """Output `i` of every batch."""
    column = []
    for batch, answers in enumerate(references):
        if isinstance(answers, Mapping):
            if name not in answers:
                raise UserError(
                    f"batch {batch}: the reference has no output {name!r}: {sorted(answers)}"
                )
            column.append(np.asarray(answers[name]))
            continue
        if len(answers) != outputs:
            raise UserError(
                f"batch {batch}: {len(answers)} reference outputs, the model has {outputs}"
            )
        column.append(np.asarray(answers[i]))
    return column
