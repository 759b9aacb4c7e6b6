"""Runs scripts one after another in this process, and prints what each printed, as JSON.

    python run_scripts.py 1:before.py 0:after.py 1:after.py

The digit is what the switch in the environment is set to.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import runpy
import sys

import torch


def main() -> None:
    """Run all of them; one that raises is told by its last line."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    told = []
    for word in sys.argv[1:]:
        switch, _, path = word.partition(":")
        os.environ["AMP_ENABLED"] = switch
        logging.disable(logging.INFO)
        sys.argv = [path]
        printed = io.StringIO()
        error = ""
        with contextlib.redirect_stdout(printed):
            try:
                runpy.run_path(path, run_name="__main__")
            except Exception as raised:
                error = f"{type(raised).__name__}: {raised}"
        told.append({"printed": printed.getvalue(), "error": error})
    print(json.dumps(told))


if __name__ == "__main__":
    main()
