"""A process that measures many cases, one after the other, and keeps each result as it comes.

    python -m benchmarks.conformance.child job.json

A job names a task, which is a module with `measure(folder, **arguments)`, and its units: a case's
folder, the result's file in it, and the arguments. A unit that ends the process, or takes over its
limit, has no result file: whoever started the process reads from that which unit it was. Runs in
the peers' environment too, so it imports nothing but the task.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.child import quiet


def main() -> int:
    """Measure every unit of the job; print how many there were as a line of JSON."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    quiet()
    task = importlib.import_module(job["task"])
    for folder, name, arguments in job["units"]:
        # Its default action ends the process even inside a runtime's own code.
        signal.alarm(int(job["limit_s"]))
        result: dict[str, Any]
        try:
            result = task.measure(Path(folder), **arguments)
        except Exception as error:  # the figure of a case that can't be measured is its reason
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:300]
            where = f"{Path(at.filename).name}:{at.lineno}"
            result = {"error": f"{type(error).__name__} at {where}: {text}"}
        signal.alarm(0)
        write(Path(folder) / name, result)
    print(json.dumps({"measured": len(job["units"])}))
    return 0


def write(path: Path, result: dict[str, Any]) -> None:
    """Put `result` at `path` in one step: a file that is there is whole."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result), encoding="utf-8")
    os.replace(part, path)


if __name__ == "__main__":
    sys.exit(main())
