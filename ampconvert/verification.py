"""Parity of two models that exist already: PyTorch, saved programs and ONNX files in any mix."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.extras import need
from ampconvert.pipeline_steps import PARITY_BATCHES, parity_notes
from ampconvert.report.subject import Subject

if TYPE_CHECKING:
    from ampconvert.verify.compare import Verification

Array = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]
Call = tuple[tuple[Any, ...], dict[str, Any]]

# Two float32 runs of one model differ by the order of their sums: some hundred roundoffs of 6e-8 in
# a deep network, and a wrong model by far more than this.
FULL_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """How far `candidate` is from `reference`, both as they were named, and on what inputs."""

    reference: str
    candidate: str
    reference_ran: str  # "FP64 on PyTorch", "FP32 on ONNX Runtime"
    low: Low | None  # the low type in the candidate; None when it has none
    subject: Subject
    verification: Verification
    notes: tuple[str, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether parity held."""
        return self.verification.ok


@dataclass(frozen=True)
class _Reference:
    """The right answers, and their inputs: as arrays by name, and as a PyTorch model takes them."""

    feeds: list[dict[str, Array]]
    calls: list[Call] | None
    full: list[list[Array]]
    double: list[list[Array]] | None
    names: list[str]
    subject: Subject
    ran: str
    notes: tuple[str, ...] = ()


def verify_models(
    reference: str | Path,
    candidate: str | Path,
    *,
    model: str | None = None,
    candidate_model: str | None = None,
    weights: Path | None = None,
    candidate_weights: Path | None = None,
    specs: Sequence[str] = (),
    npz: Path | None = None,
    data: Path | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare the answers of `candidate` with those of `reference`, output by output.

    Each is a .py, .pt2 or .onnx file, or "package.module:name". The reference runs in float32, and
    in float64 where PyTorch can. An ONNX candidate is judged by the emulated model or on CUDA, a
    PyTorch one by running it on the CPU. `specs`, `npz` and `data` are `--input`, `--inputs` and
    `--data`; `tolerance` defaults to the low type's, and to 1e-4 where the candidate has none.
    Raises UserError for models and inputs that do not fit together.
    """
    start = time.perf_counter()
    tell = progress or (lambda stage, done, total: None)
    reference, candidate = str(reference), str(candidate)
    _need_packages(reference, candidate)
    tell("reference", 0, 0)
    if _is_onnx(reference):
        _refuse_python_options(reference, model, weights)
        right = _onnx_reference(Path(reference), specs, npz, data, seed)
    else:
        right = _torch_reference(reference, model, weights, specs, npz, data, seed)
    tell("candidate", 0, 0)
    if _is_onnx(candidate):
        _refuse_python_options(candidate, candidate_model, candidate_weights)
        low, found, notes = _judge_onnx(Path(candidate), right, tolerance)
    else:
        low, found, notes = _judge_torch(
            candidate, candidate_model, candidate_weights, right, tolerance
        )
    if right.double is not None:
        found = _with_own_error(found, right)
    seconds = time.perf_counter() - start
    return Comparison(
        reference, candidate, right.ran, low, right.subject, found, (*right.notes, *notes), seconds
    )


def _need_packages(*targets: str) -> None:
    """Raise UserError where a package is missing that these models need."""
    torch = () if all(map(_is_onnx, targets)) else ("torch",)
    need("comparing models", *torch, "onnx", *(("ort",) if any(map(_is_onnx, targets)) else ()))


def _is_onnx(target: str) -> bool:
    return Path(target).suffix.lower() == ".onnx"


def _refuse_python_options(target: str, model: str | None, weights: Path | None) -> None:
    if model is not None or weights is not None:
        raise UserError(
            f"{target}: an ONNX file is one model with its weights; leave out the options for them"
        )


def _onnx_reference(
    path: Path, specs: Sequence[str], npz: Path | None, data: Path | None, seed: int
) -> _Reference:
    from ampconvert.verification_inputs import declared_inputs, onnx_feeds
    from ampconvert.verification_onnx import load_onnx, low_of_onnx
    from ampconvert.verify.emulate import upcast
    from ampconvert.verify.runtimes import run_onnx

    model = load_onnx(path)
    found, subject = onnx_feeds(path, declared_inputs(model), specs, npz, data, seed)
    feeds = list(found[:PARITY_BATCHES])
    low = low_of_onnx(model)
    notes = [*parity_notes(len(found))]
    if low is not None:
        # float16 tensors on the CPU provider would neither be the model's own nor FP32.
        notes.append(f"The reference holds {low} tensors; it ran with all of them raised to FP32.")
    names = [value.name or "" for value in model.graph.outputs]
    results = run_onnx(upcast(model) if low else path, feeds)
    _refuse_nan(path.name, names, [[r[n] for n in names] for r in results])
    return _Reference(
        feeds, None, [[r[name] for name in names] for r in results], None, names, subject,
        "FP32 on ONNX Runtime's CPU provider", tuple(notes),
    )  # fmt: skip


def _torch_reference(
    target: str,
    model: str | None,
    weights: Path | None,
    specs: Sequence[str],
    npz: Path | None,
    data: Path | None,
    seed: int,
) -> _Reference:
    from torch import Tensor
    from torch.utils import _pytree as pytree

    from ampconvert.commands.loading import subject_of
    from ampconvert.frontends.entry import find
    from ampconvert.frontends.inputs import resolve
    from ampconvert.verification_torch import array, in_float64, low_of_torch, run

    entry = find(target, model, weights)
    inputs = resolve(entry, specs, npz, data, seed)
    used = inputs.calibration[:PARITY_BATCHES]
    calls: list[Call] = [(args, dict(kwargs)) for args, kwargs in used]
    feeds = [
        {
            name: array(leaf)
            for name, leaf in zip(
                inputs.names,
                (t for t in pytree.tree_leaves(call) if isinstance(t, Tensor)),
                strict=True,
            )
        }
        for call in calls
    ]
    notes = [*parity_notes(len(inputs.calibration))]
    low = low_of_torch(entry.model)
    if low is not None:
        notes.append(f"The reference itself holds {low} tensors: it is no FP32 model.")
    tensors = [run(entry, call) for call in calls]
    full = [[array(t) for t in leaves.values()] for leaves in tensors]
    names = list(tensors[0])
    _refuse_nan(target, names, full)
    double = None if low else in_float64(entry, calls, full)
    ran = "FP64 on PyTorch" if double else "FP32 on PyTorch's CPU kernels"
    return _Reference(
        feeds, calls, full, double, names, subject_of(target, entry, inputs), ran, tuple(notes)
    )


def _judge_onnx(
    path: Path, right: _Reference, tolerance: float | None
) -> tuple[Low | None, Verification, list[str]]:
    from ampconvert.verification_onnx import load_onnx, low_of_onnx
    from ampconvert.verify.compare import verify_onnx

    model = load_onnx(path)
    low = low_of_onnx(model)
    inputs = [v.name or "" for v in model.graph.inputs if v.name not in model.graph.initializers]
    feeds = [_renamed(feed, inputs, path) for feed in right.feeds]
    outputs = [v.name or "" for v in model.graph.outputs]
    truth = right.double or right.full
    _same_count(str(path), len(outputs), len(truth[0]))
    if low is not None:
        found = verify_onnx(path, truth, feeds, low, tolerance=tolerance, names=outputs)
        return low, found, []
    limit = tolerance or FULL_TOLERANCE
    # Nothing is stored in a low type, so the plain CPU provider hides nothing.
    found = verify_onnx(path, truth, feeds, "float16", tolerance=limit, names=outputs, how="cpu")
    return None, found, []


def _judge_torch(
    target: str, name: str | None, weights: Path | None, right: _Reference, tolerance: float | None
) -> tuple[Low | None, Verification, list[str]]:
    import torch

    from ampconvert.frontends.entry import find
    from ampconvert.verification_torch import array, call_of, low_of_torch, run
    from ampconvert.verify.metrics import default_tolerance

    entry = find(target, name, weights)
    low = low_of_torch(entry.model)
    calls = (
        right.calls if right.calls is not None else [call_of(entry, feed) for feed in right.feeds]
    )
    tensors = [run(entry, call) for call in calls]
    truth = right.double or right.full
    _same_count(target, len(tensors[0]), len(truth[0]))
    notes = []
    how = f"PyTorch {torch.__version__.partition('+')[0]} on the CPU"
    if low is not None:
        short = "FP16" if low == "float16" else "BF16"
        how += (
            f", whose {short} kernels round at every op; a GPU's fused kernels may round less often"
        )
        notes.append(
            "CPU kernels are not a GPU's: to judge what is deployed, verify the ONNX file."
        )
    answers = [[array(t) for t in leaves.values()] for leaves in tensors]
    limit = tolerance or (default_tolerance(low) if low else FULL_TOLERANCE)
    return low, _verification(right.names, truth, answers, limit, how, "torch"), notes


def _verification(
    names: Sequence[str],
    truth: list[list[Array]],
    answers: list[list[Array]],
    tolerance: float,
    how: str,
    provider: str,
) -> Verification:
    from ampconvert.verify.compare import Verification
    from ampconvert.verify.metrics import compare

    parities = tuple(
        compare(name, [batch[i] for batch in truth], [batch[i] for batch in answers], tolerance)
        for i, name in enumerate(names)
    )
    return Verification(parities=parities, how=how, provider=provider)


def _with_own_error(found: Verification, right: _Reference) -> Verification:
    """`found` with what the float32 model itself is off from float64."""
    from ampconvert.verify.metrics import compare

    assert right.double is not None
    parities = []
    for i, parity in enumerate(found.parities):
        own = compare(
            parity.output, [b[i] for b in right.double], [b[i] for b in right.full], math.inf
        )
        parities.append(replace(parity, reference_rel_l2=own.rel_l2))
    return replace(found, parities=tuple(parities))


def _renamed(feed: Mapping[str, Array], inputs: Sequence[str], path: Path) -> dict[str, Array]:
    """The reference's inputs under the candidate's names: by name, or else by position."""
    if set(inputs) <= set(feed):
        return {name: feed[name] for name in inputs}
    if len(inputs) == len(feed):
        return dict(zip(inputs, feed.values(), strict=True))
    raise UserError(
        f"{path}: takes {', '.join(inputs) or 'no inputs'}; the reference takes "
        f"{', '.join(feed) or 'none'}: the two can't be matched"
    )


def _same_count(target: str, own: int, wanted: int) -> None:
    if own != wanted:
        raise UserError(
            f"{target}: gives {own} outputs and the reference {wanted}: they can't be compared"
        )


def _refuse_nan(target: str, names: Sequence[str], batches: list[list[Array]]) -> None:
    for arrays in batches:
        for name, array in zip(names, arrays, strict=True):
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise UserError(
                    f"{target}: the reference itself gives NaN in {name} on these inputs: "
                    "nothing can be compared with NaN"
                )
