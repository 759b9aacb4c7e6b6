"""Converts a case with a peer, in the peers' own environment: imports nothing of ampconvert."""

from __future__ import annotations

import logging
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, Convert


def measure(folder: Path, *, peer: str, low: str, file: str) -> dict[str, Any]:
    """Write `file`, the peer's conversion of the case in `folder`; convert that once more.

    Gives the peer's version, seconds, the first line of its `error`, and `again`: "same" where
    converting its own result changes nothing, else "changed" or the error.
    """
    convert, package, _ = PEERS[peer]
    if peer == "modelopt" and not (folder / "inputs").exists():
        convert = _without_data
    logging.disable(logging.WARNING)
    source, target = folder / "model.onnx", folder / file
    start = time.perf_counter()
    result: dict[str, Any] = {"version": version(package)}
    error = _attempt(convert, source, target, low, folder)
    result["seconds"] = time.perf_counter() - start
    if error:
        target.unlink(missing_ok=True)
        return {**result, "error": error}
    twice = target.with_suffix(".twice.onnx")
    error = _attempt(convert, target, twice, low, folder)
    result["again"] = error or ("same" if _same(target, twice) else "changed")
    twice.unlink(missing_ok=True)
    return result


def _attempt(convert: Convert, source: Path, target: Path, low: str, folder: Path) -> str:
    try:
        convert(source, target, low, folder / "inputs")
    except Exception as error:  # a peer's failure is the figure
        text = str(error).splitlines()[0][:300] if str(error) else ""
        return f"{type(error).__name__}: {text}"
    return ""


def _without_data(source: Path, target: Path, low: str, inputs: Path) -> None:
    """modelopt for inputs that are no plain tensors: its own random data, as its default is."""
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision  # type: ignore[import-not-found]

    kinds = {"float16": "fp16", "bfloat16": "bf16"}
    model = convert_to_mixed_precision(
        onnx_path=str(source), low_precision_type=kinds[low], keep_io_types=True
    )
    onnx.save(model, target)


def _same(first: Path, second: Path) -> bool:
    """Whether two files hold the same graph: nodes and weights, whatever is written beside them."""
    import onnx

    def graph(path: Path) -> bytes:
        found = onnx.load(path).graph
        del found.value_info[:]
        return bytes(found.SerializeToString(deterministic=True))

    return graph(first) == graph(second)
