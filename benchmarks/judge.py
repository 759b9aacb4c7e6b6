"""Judges converted ONNX files of one model, ours or a peer's, by the same measures.

    python -m benchmarks.judge a.onnx b.onnx --work out/zoo/resnet50 --dtype float16 --axis -1

Valid: onnx.checker with full_check. Loads: ONNX Runtime's CPU provider makes a session, or has no
bfloat16 kernel for a node (None). The error is the emulated model's: every value that the file
stores in the low type is rounded to it, which ONNX Runtime's CPU provider does not do when it runs
the file itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import quiet
from benchmarks.onnx_counts import cast_count, low_share

Array = np.ndarray[Any, Any]


def main() -> int:
    """Print the verdict on every file, by its path, as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument(
        "--work", type=Path, required=True, help="the model's folder of the baseline"
    )
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), required=True)
    parser.add_argument("--axis", type=int, help="where output 0 holds classes; left out: no top-1")
    options = parser.parse_args()
    quiet()
    found = {
        str(path): judge(path, options.work, options.dtype, options.axis) for path in options.models
    }
    print(json.dumps(found))
    return 0


def judge(path: Path, work: Path, low: str, axis: int | None) -> dict[str, Any]:
    """valid, loads, runs, finite, rel_l2 (the worst), exact, top1, casts, low_share, bytes.

    A step that fails is told in `why`, and what depends on it is absent.
    """
    import onnx

    model = onnx.load(path)
    feeds = _arrays(work / "inputs")
    found: dict[str, Any] = {"valid": False, "loads": False, "finite": False, "why": ""}
    found["bytes"] = sum(
        f.stat().st_size for f in (path, *path.parent.glob(f"{path.name}*data")) if f.exists()
    )
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("valid", lambda: onnx.checker.check_model(str(path), full_check=True)),
        ("loads", lambda: _session(path)),
        ("counted", lambda: found.update(_counts(model, work, feeds[0], low))),
        ("runs", lambda: found.update(_errors(path, work, feeds, axis))),
    )
    for name, step in steps:
        try:
            step()
            found[name] = True
        except Exception as error:  # the reason is the verdict
            found[name] = None if name == "loads" and _lacks_kernel(error, low) else False
            text = " ".join(str(error).split())[:300]
            if found[name] is False and not found["why"]:
                found["why"] = f"{name}: {type(error).__name__}: {text}"
    return found


def _lacks_kernel(error: Exception, low: str) -> bool:
    """Whether the file does not load for want of a kernel: most bfloat16 nodes have none there."""
    return low == "bfloat16" and "NOT_IMPLEMENTED" in str(error)


def _session(path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        str(path),
        options,
        providers=["CPUExecutionProvider"],
        # ONNX Runtime 1.32 ends the process in this pass, whoever converted the model: an FP16
        # Transpose before a MatMul with a stored weight.
        disabled_optimizers=["MatmulTransposeFusion"],
    )


def _counts(model: Any, work: Path, feed: dict[str, Array], low: str) -> dict[str, Any]:
    import onnx

    source = work / "fp32.onnx"  # absent where torch.onnx can't export the float32 model
    before = cast_count(onnx.load(source), low) if source.exists() else 0
    names = [value.name for value in model.graph.input]
    shapes = {name: array.shape for name, array in zip(names, feed.values(), strict=True)}
    return {"casts": cast_count(model, low) - before, "low_share": low_share(model, low, shapes)}


def _errors(
    path: Path, work: Path, feeds: list[dict[str, Array]], axis: int | None
) -> dict[str, Any]:
    """Errors of the emulated model against the float32 module, over all batches together."""
    import onnx_ir

    from ampconvert.verify.emulate import emulate
    from ampconvert.verify.runtimes import run_onnx

    model = onnx_ir.load(path)
    inputs = [value.name or "" for value in model.graph.inputs]
    names = [value.name or "" for value in model.graph.outputs]
    renamed = [dict(zip(inputs, feed.values(), strict=True)) for feed in feeds]
    results = [[batch[name] for name in names] for batch in run_onnx(emulate(model), renamed)]
    truth = [list(batch.values()) for batch in _arrays(work / "outputs")]
    return measures(names, truth, results, axis)


def measures(
    names: list[str], truth: list[list[Array]], results: list[list[Array]], axis: int | None
) -> dict[str, Any]:
    """The worst float output's relative L2 error, whether all is finite, and integers are equal.

    An output that comes back in a low type is compared as it is. `top1` is the share of rows of
    output 0 with the same argmax along `axis`, absent without one.
    """
    from ampconvert.verify.metrics import compare

    found: dict[str, Any] = {"finite": True, "exact": True}
    errors: list[float] = [0.0]
    for i, name in enumerate(names):
        wanted = [batch[i] for batch in truth]
        parity = compare(name, wanted, [batch[i] for batch in results], tolerance=0.0)
        found["finite"] = found["finite"] and parity.finite
        if wanted[0].dtype.kind == "f":
            errors.append(parity.rel_l2)
        else:
            found["exact"] = found["exact"] and parity.exact == 1.0
    worst = float(np.max(errors))  # NaN, of arrays that can't be compared, stays NaN
    found["rel_l2"] = worst if np.isfinite(worst) else None
    if axis is not None:
        hits = [
            np.argmax(t[0], axis) == np.argmax(r[0], axis)
            for t, r in zip(truth, results, strict=True)
        ]
        found["top1"] = float(np.mean(np.concatenate([np.ravel(h) for h in hits])))
    return found


def _arrays(folder: Path) -> list[dict[str, Array]]:
    files = sorted(folder.glob("*.npz"), key=lambda path: int(path.stem))
    return [dict(np.load(path)) for path in files]


if __name__ == "__main__":
    sys.exit(main())
