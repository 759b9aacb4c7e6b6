"""Files to lint, and what linting them gives, for tests from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ampconvert.lint.run import Options, Report, run

OLD = "import torch\n\nwith torch.cuda.amp.autocast():\n    pass\n"
NEW = OLD.replace("torch.cuda.amp.autocast()", 'torch.amp.autocast("cuda")')


def lint(*paths: str, **options: Any) -> Report:
    """Lint by few rules and without a cache, if `options` don't say otherwise."""
    given: dict[str, Any] = {"select": ("AMP001", "AMP9"), "cache": False}
    return run(Options(paths=paths or (".",), **(given | options)))


def told(report: Report) -> list[tuple[str, int, str]]:
    """Path, line and code of each finding."""
    return [(f.where.path, f.where.line, f.code) for f in report.findings]


def put(name: str, content: str | bytes) -> Path:
    """Write a file in the working directory."""
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def notebook(*sources: str) -> str:
    """A notebook with these code cells."""
    cells = [{"cell_type": "code", "metadata": {}, "source": s.splitlines(True)} for s in sources]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}, indent=1) + "\n"
