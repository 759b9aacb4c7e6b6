"""The published formats of what programs read: `--json`, the plan's file, `lint --json`.

The JSON Schemas (draft 2020-12) in this folder describe every key with its type, unit and meaning;
docs/json.md is made from them.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

NAMES = ("report-1", "plan-1", "lint-1")


def schema(name: str) -> dict[str, Any]:
    """The JSON Schema of that name: "report-1" for the commands on models, "plan-1" for the plan's
    file, "lint-1" for the linter. The number is the version that documents name as `schema`.

    Raises KeyError for a name that is none of NAMES.
    """
    if name not in NAMES:
        raise KeyError(f"no schema is named {name!r}; there are {', '.join(NAMES)}")
    text = files(__name__).joinpath(f"{name}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
