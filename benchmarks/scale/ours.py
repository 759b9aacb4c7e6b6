"""Converts one model with ampconvert, in a process of its own.

python -m benchmarks.scale.ours model.onnx converted.onnx --verify
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.child import quiet
from benchmarks.scale.call import measure


def main() -> int:
    """Convert once; print the line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--verify", action="store_true")
    options = parser.parse_args()
    quiet()
    from ampconvert.pipeline_onnx import convert

    def run() -> None:
        convert(options.source, dtype="float16", out=options.target, verify=options.verify)

    return measure(run, f"ampconvert {version('ampconvert')}")


if __name__ == "__main__":
    sys.exit(main())
