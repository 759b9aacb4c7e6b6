"""Whether a converted file is one: valid, loaded by ONNX Runtime, and how many casts it has.

python -m benchmarks.scale.check converted.onnx --load
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.child import quiet
from benchmarks.onnx_counts import cast_count


def main() -> int:
    """Print valid, loads (None: not tried), casts and the reason of a failure as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--load", action="store_true", help="make a session as well")
    options = parser.parse_args()
    quiet()
    print(json.dumps(check(options.model, options.load)))
    return 0


def check(path: Path, load: bool) -> dict[str, object]:
    """The verdict on one file; `why` holds the first complaint."""
    import onnx
    import onnxruntime

    found: dict[str, object] = {"valid": False, "loads": None, "why": ""}
    found["casts"] = cast_count(onnx.load(path, load_external_data=False), "float16")
    try:
        onnx.checker.check_model(str(path), full_check=True)
        found["valid"] = True
        if load:
            found["loads"] = False
            session = onnxruntime.SessionOptions()
            session.log_severity_level = 4
            session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            onnxruntime.InferenceSession(str(path), session, providers=["CPUExecutionProvider"])
            found["loads"] = True
    except Exception as error:  # the reason is the verdict
        found["why"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return found


if __name__ == "__main__":
    sys.exit(main())
