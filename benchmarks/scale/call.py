"""One conversion in this process: its seconds and its memory, as a line of JSON."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def measure(convert: Callable[[], None], version: str) -> int:
    """Call `convert` and print what it took; its exception, if it raises one, under "error".

    `began` and `ended` are on the clock that all processes share, so that whoever watches this one
    from outside knows which of its samples belong to the call.
    """
    _forget_peak()
    result: dict[str, object] = {"version": version, "before_mb": status_mb("self")}
    began, processor = time.monotonic(), time.process_time()
    try:
        convert()
    except Exception as error:  # a failure is the figure
        text = " ".join(str(error).split())[:300]
        at = traceback.extract_tb(error.__traceback__)[-1]
        result["error"] = f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {text}"
    result["cpu_seconds"] = time.process_time() - processor
    result |= {"began": began, "ended": time.monotonic(), "after_mb": status_mb("self")}
    print(json.dumps(result))
    return 0


def status_mb(process: int | str) -> dict[str, float]:
    """VmRSS (held now), VmHWM (at most so far) and RssAnon (no file behind it) in MiB.

    Empty once the process has gone, and where there is no Linux /proc.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines if line.startswith(("VmRSS:", "VmHWM:", "RssAnon:")))
    return {key.rstrip(":"): int(size) / 1024 for key, size, _ in words}


def _forget_peak() -> None:
    """Make Linux count the peak anew: imports may have held more than is held now."""
    place = Path("/proc/self/clear_refs")
    if place.exists():
        place.write_text("5")
