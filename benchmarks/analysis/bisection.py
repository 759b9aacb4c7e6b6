"""The bisection of onnxconverter-common's `auto_convert_mixed_precision`.

    .venv-peers/bin/python -m benchmarks.analysis.bisection fp32.onnx inputs.npz --tolerance 2e-4

runs the package in the peers' environment and prints a line of JSON. It judges candidates on ONNX
Runtime's CPU provider, which computes most float16 nodes in float32, so it may accept what no GPU
would answer; and it rounds the weights of nodes that it keeps in float32 all the same. So `bisect`
is its logic alone, for a judge and a converter without these faults.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import quiet

Array = np.ndarray[Any, Any]
Run = Callable[..., Sequence[Array]]


@dataclass
class _Segment:
    """Neighbours in the order of execution. Settled: all of them may run in float16, or the one of
    them may not.
    """

    names: Sequence[str]
    low: bool = False
    settled: bool = False


def bisect(names: Sequence[str], holds: Callable[[Sequence[str]], bool]) -> list[str]:
    """The nodes of `names`, in order of execution, to keep in float32 so that the model holds.

    `holds` judges the model whose nodes of the given names stay in float32. As in the package: the
    largest open segment, the first of equals, is tried in float16 with all that held before, and
    is halved where that does not hold. The last question is about the result; ValueError where even
    that does not hold.
    """
    segments = [_Segment(names)]
    while open_ones := [s for s in segments if not s.settled and s.names]:
        segment = max(open_ones, key=lambda s: len(s.names))
        if holds(_kept(segments, segment)):
            segment.low = segment.settled = True
        elif len(segment.names) == 1:
            segment.settled = True
        else:
            half, at = len(segment.names) // 2, segments.index(segment)
            parts = (segment.names[:half], segment.names[half:])
            segments[at : at + 1] = [_Segment(part) for part in parts]
    found = _kept(segments, None)
    if not holds(found):
        raise ValueError("the model does not hold with what was found")
    return found


def _kept(segments: Sequence[_Segment], tried: _Segment | None) -> list[str]:
    return [name for s in segments if s is not tried and not s.low for name in s.names]


def main() -> int:
    """Search, and print what was kept in float32, after how many runs; why not, where it failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--tolerance", type=float, required=True)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds")
    options = parser.parse_args()
    quiet()
    package = importlib.import_module("onnxconverter_common.auto_mixed_precision")
    feed = dict(np.load(options.inputs))
    found = search(package, options.model, feed, options.tolerance, options.limit)
    print(json.dumps(found))
    return 0


def search(
    package: Any, path: Path, feed: Mapping[str, Array], tolerance: float, limit_s: float
) -> dict[str, Any]:
    """What the package's search comes to: nodes kept in float32, runs, the error by its own judge
    and by the emulated model.

    `package` is the module `auto_mixed_precision`; it is given other functions to run models with
    and to convert them with for as long as this takes.
    """
    import onnx

    runs = Runs(package.get_tensor_values_using_ort, limit_s)
    convert = package.float16.convert_float_to_float16
    blocked: list[str] = []

    def recorded(model: Any, **options: Any) -> Any:
        blocked[:] = options.get("node_block_list") or []
        return convert(model, **options)

    def accept(reference: Sequence[Array], answers: Sequence[Array]) -> bool:
        return worst_error(reference, answers) <= tolerance

    package.get_tensor_values_using_ort = runs
    package.float16.convert_float_to_float16 = recorded
    model, start = onnx.load(path), time.perf_counter()
    result: dict[str, Any] = {}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            final = package.auto_convert_mixed_precision(
                model, dict(feed), accept, keep_io_types=True
            )
        result["error"] = worst_error(runs.reference, runs.last)
        result["emulated"] = worst_error(runs.reference, emulated(final, feed))
        by_type = set(package.float16.DEFAULT_OP_BLOCK_LIST)
        result["kept"] = sorted(
            {*blocked, *(n.name for n in model.graph.node if n.op_type in by_type)}
        )
    except Exception as error:  # a peer's failure is the figure
        text = str(error).splitlines()[0][:300] if str(error) else ""
        result["why"] = f"{type(error).__name__}: {text}"
    finally:
        package.get_tensor_values_using_ort = runs.own
        package.float16.convert_float_to_float16 = convert
    return result | {"runs": runs.count, "seconds": time.perf_counter() - start}


class Runs:
    """Runs whole models in place of the package's function, and counts them; the first is the
    float32 model. Raises TimeoutError once `limit_s` seconds have passed.
    """

    def __init__(self, own: Run, limit_s: float) -> None:
        self.own, self.limit_s = own, limit_s
        self.count = 0
        self.reference: Sequence[Array] = ()
        self.last: Sequence[Array] = ()
        self.started = time.perf_counter()

    def __call__(
        self, model: Any, feed: Mapping[str, Array], names: Any = None, options: Any = None
    ) -> Sequence[Array]:
        if names is not None:  # it asks for the types of inner values, not for an answer
            return self.own(model, feed, names, options)
        if time.perf_counter() - self.started > self.limit_s:
            raise TimeoutError(f"over the limit of {self.limit_s:.0f} s after {self.count} runs")
        self.count += 1
        self.last = self.own(model, feed)
        if self.count == 1:
            self.reference = self.last
        return self.last


def emulated(model: Any, feed: Mapping[str, Array]) -> list[Array]:
    """The answers of `model` with every value rounded to the type it is stored in, in order."""
    import onnx_ir

    from ampconvert.verify.emulate import emulate
    from ampconvert.verify.runtimes import run_onnx

    (answers,) = run_onnx(emulate(onnx_ir.from_proto(model)), [feed])
    return [answers[value.name] for value in model.graph.output]


def worst_error(reference: Sequence[Array], answers: Sequence[Array]) -> float:
    """The largest relative L2 error among the float outputs; infinite where one is not finite."""
    errors = [0.0]
    for right, got in zip(reference, answers, strict=True):
        if right.dtype.kind == "f":
            size = float(np.linalg.norm(right.astype(np.float64)))
            off = float(np.linalg.norm(got.astype(np.float64) - right))
            errors.append(off / size if size else off)
    return max(errors) if np.isfinite(errors).all() else float("inf")


if __name__ == "__main__":
    sys.exit(main())
