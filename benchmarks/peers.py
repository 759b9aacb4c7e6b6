"""Converts one FP32 ONNX file with one of the peers and prints a line of JSON.

    python benchmarks/peers.py modelopt model.onnx converted.onnx --dtype float16 --inputs folder

Runs in an environment of its own (benchmarks/requirements-peers.txt), so it imports nothing of this
project. Each peer is called as its documentation does, public inputs and outputs kept in float32.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path


def onnxconverter_common(source: Path, target: Path, dtype: str, inputs: Path) -> None:
    """`onnxconverter_common.float16`, its defaults but for the kept inputs and outputs."""
    import onnx
    from onnxconverter_common import float16

    model = float16.convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(model, target)


def onnxruntime(source: Path, target: Path, dtype: str, inputs: Path) -> None:
    """`onnxruntime.transformers.onnx_model.OnnxModel`: convert, and save, which sorts nodes."""
    import onnx
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(onnx.load(source))
    model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(str(target))


def modelopt(source: Path, target: Path, dtype: str, inputs: Path) -> None:
    """`modelopt.onnx.autocast`, calibrated with every batch in the folder `inputs`."""
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    model = convert_to_mixed_precision(
        onnx_path=str(source),
        low_precision_type={"float16": "fp16", "bfloat16": "bf16"}[dtype],
        keep_io_types=True,
        calibration_data=str(inputs),
    )
    onnx.save(model, target)


Convert = Callable[[Path, Path, str, Path], None]
PEERS: dict[str, tuple[Convert, str, tuple[str, ...]]] = {
    "onnxconverter-common": (onnxconverter_common, "onnxconverter-common", ("float16",)),
    "onnxruntime": (onnxruntime, "onnxruntime", ("float16",)),
    "modelopt": (modelopt, "nvidia-modelopt", ("float16", "bfloat16")),
}


def main() -> int:
    """Convert, and print what it took: seconds of the call alone, peak memory of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--inputs", type=Path, required=True, help="folder of .npz batches")
    options = parser.parse_args()
    convert, package, _ = PEERS[options.peer]
    logging.disable(logging.WARNING)
    _import(options.peer)
    before = _held_mb("VmRSS")
    start = time.perf_counter()
    result: dict[str, object] = {"version": version(package)}
    try:
        convert(options.source, options.target, options.dtype, options.inputs)
    except Exception as error:  # a peer's failure is the figure
        result["error"] = (
            f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else ''}"
        )
    result["seconds"] = {"convert": time.perf_counter() - start}
    result["memory_mb"] = {"before": before, "peak": _held_mb("VmHWM")}
    print(json.dumps(result))
    return 0


def _import(peer: str) -> None:
    """Import the peer before the clock starts: a service that converts pays for that once."""
    import onnx  # noqa: F401

    if peer == "modelopt":
        import modelopt.onnx.autocast  # noqa: F401
    elif peer == "onnxruntime":
        import onnxruntime.transformers.onnx_model  # noqa: F401
    else:
        import onnxconverter_common.float16  # noqa: F401


def _held_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (the most so far) in MiB; ru_maxrss would start at the parent's."""
    status = Path("/proc/self/status").read_text()
    line = next(ln for ln in status.splitlines() if ln.startswith(field + ":"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
