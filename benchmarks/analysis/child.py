"""One measurement of the analysis benchmark in a process of its own: a line of JSON.

python -m benchmarks.analysis.child errors small_gpt --dtype float16 --work out/analysis
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.analysis.subjects import subject
from benchmarks.child import quiet
from benchmarks.zoo.report import _portable as portable

# What each measurement is called with, besides nothing: the subject, the type, the work folder.
PARTS = {
    "cut": ("cut", "measure", ()),
    "zoo": ("zoo", "measure", ()),
    "proof": ("proof", "measure", ("subject", "dtype")),
    "plan": ("errors", "measure_plan", ("subject", "dtype")),
    "errors": ("errors", "measure", ("subject", "dtype")),
    "front": ("front", "measure", ("subject", "dtype")),
    "search": ("search", "measure", ("subject", "work")),
    "bisected": ("search", "bisected", ("subject", "work")),
    "price": ("search", "price", ("subject", "work")),
}


def main() -> int:
    """Measure and print; an exception is told under "error"."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("name", nargs="?", help="of a subject")
    parser.add_argument("--dtype", choices=("float16", "bfloat16"), default="float16")
    parser.add_argument("--work", type=Path, default=Path("out/analysis"))
    options = parser.parse_args()
    quiet()
    module, function, wanted = PARTS[options.part]
    given = {"dtype": options.dtype, "work": options.work}
    if "subject" in wanted:
        given["subject"] = subject(options.name)
    result: dict[str, Any]
    try:
        measure = getattr(importlib.import_module(f"benchmarks.analysis.{module}"), function)
        result = measure(*(given[key] for key in wanted))
    except Exception as error:  # the figure of a model that can't be measured is its reason
        text = " ".join(str(error).split())[:300]
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        result = {"error": f"{type(error).__name__} at {where}: {text}"}
    print(json.dumps(portable(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
