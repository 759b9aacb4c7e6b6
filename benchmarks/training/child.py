"""One measurement of the training benchmark in a process of its own: a line of JSON.

python -m benchmarks.training.child accuracy mlp float32
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import Any

from benchmarks.child import quiet
from benchmarks.zoo.report import _portable as portable

PARTS = ("accuracy", "speed", "memory", "micikevicius", "half", "dynamic")


def main() -> int:
    """Measure and print; an exception is told under "error"."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("arguments", nargs="*", help="of the part's measure()")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    quiet()
    settings: dict[str, Any] = {} if options.part == "memory" else {"quick": options.quick}
    if options.part == "accuracy":
        settings["seeds"] = options.seeds
    if options.part == "speed":
        settings["device"] = options.device
    arguments = [int(a) if a.isdigit() else a for a in options.arguments]
    try:
        measure = importlib.import_module(f"benchmarks.training.{options.part}").measure
        result = measure(*arguments, **settings)
    except Exception as error:  # the figure of what can't be measured is its reason
        text = " ".join(str(error).split())
        result = {"error": f"{type(error).__name__}: {text[:300]}"}
    print(json.dumps(portable(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
