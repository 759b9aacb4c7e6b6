"""docs/json.md, written from the schemas themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ampconvert.report.schema import schema

INTRODUCTION = """\
# JSON

What ampconvert writes for programs: the object that `--json` prints for the commands on models, the
file of a plan, and the list that `ampconvert lint --json` prints. Each has a JSON Schema (draft
2020-12) in the package, which names every key and allows no others:

```python
import json

import jsonschema

from ampconvert.report.schema import schema

with open("report.json") as file:
    jsonschema.validate(json.load(file), schema("report-1"))
```

The number in a schema's name is its version, which objects of `--json` and plans hold as `schema`.
Keys may be added within a version, so a program should pass over keys that it does not know. A key
that goes, or changes its meaning, raises the version. Keys marked *optional* came later within the
version and are missing in what older versions wrote, or are left out of the report that a plan's
file holds.

Errors are relative L2 errors unless something else is said, times are in seconds, sizes in bytes,
shares from 0 to 1. A *number* in the objects of `--json` may be one of the strings `"NaN"`,
`"Infinity"` and `"-Infinity"`, since JSON has no such numbers.

This page is made from the schemas: `python -m ampconvert.report.schema > docs/json.md`.
"""
MODELS = ("convert", "analyze", "explain", "pareto")  # commands that begin with the same keys
Schema = Mapping[str, Any]


def page() -> str:
    """The whole page as Markdown."""
    return "\n".join([INTRODUCTION, *_report(), *_plan(), *_lint()])


def _report() -> Iterator[str]:
    whole = schema("report-1")
    parts: dict[str, Schema] = whole["$defs"]
    commands = [one["$ref"].rpartition("/")[2] for one in whole["oneOf"]]
    shared = _shared([parts[name] for name in MODELS])
    yield "## Objects of --json\n"
    yield f"`report-1.json`. {whole['description']}\n"
    listed = ", ".join(f"`{name}`" for name in MODELS)
    yield f"### In common\n\nThe keys that {listed} all have.\n"
    yield from _table(
        {key: parts[MODELS[0]]["properties"][key] for key in shared}, parts[MODELS[0]]
    )
    for name in commands:
        yield from _section(name, parts[name], shared if name in MODELS else ())
    yield "## Parts of these objects\n"
    for name, part in parts.items():
        if name not in commands and name != "real":
            yield from _section(name, part)


def _plan() -> Iterator[str]:
    whole = schema("plan-1")
    yield f"## The plan's file\n\n`plan-1.json`. {whole['description']}\n"
    yield from _table(whole["properties"], whole, "plan-")
    for name, part in whole["$defs"].items():
        yield from _section(f"plan {name}", part, prefix="plan-")


def _lint() -> Iterator[str]:
    whole = schema("lint-1")
    yield f"## The linter's list\n\n`lint-1.json`. {whole['description']}\n"
    for name, part in whole["$defs"].items():
        yield from _section(f"lint {name}", part, prefix="lint-")


def _shared(commands: list[Schema]) -> tuple[str, ...]:
    """The keys that all of them have with one meaning; `command` is each one's own."""
    first, *others = [one["properties"] for one in commands]
    late = [set(one["properties"]) - set(one["required"]) for one in commands]
    return tuple(
        key
        for key in first
        if all(one.get(key) == first[key] for one in others)
        and len({key in one for one in late}) == 1
    )


def _section(
    name: str, part: Schema, without: tuple[str, ...] = (), prefix: str = ""
) -> Iterator[str]:
    yield f"### {name}\n\n{part['description']}{' Beside the keys in common:' if without else ''}\n"
    own = {key: one for key, one in part["properties"].items() if key not in without}
    yield from _table(own, part, prefix)


def _table(keys: Mapping[str, Schema], part: Schema, prefix: str = "") -> Iterator[str]:
    yield "| key | type | meaning |\n| --- | --- | --- |"
    for key, one in keys.items():
        optional = key not in part["required"] and bool(part["required"])
        yield from _rows(key, one, optional, prefix)
    yield ""


def _rows(key: str, one: Schema, optional: bool, prefix: str) -> Iterator[str]:
    """The row of one key, and those of the objects that it holds itself."""
    meaning = one.get("description", "").replace("|", "\\|")
    yield f"| `{key}` | {_type(one, prefix)} | {'*Optional.* ' if optional else ''}{meaning} |"
    inner, suffix = _holding(one)
    for name, held in inner.get("properties", {}).items():
        yield from _rows(f"{key}{suffix}.{name}", held, False, prefix)


def _holding(one: Schema) -> tuple[Schema, str]:
    """The object that a key holds, and how its own keys are reached: in a list, by any name."""
    for choice in one.get("anyOf", ()):
        if choice.get("type") != "null":
            return _holding(choice)
    if isinstance(one.get("additionalProperties"), Mapping):
        inner, suffix = _holding(one["additionalProperties"])
        return inner, f".NAME{suffix}"
    if isinstance(one.get("items"), Mapping):
        inner, suffix = _holding(one["items"])
        return inner, f"[]{suffix}"
    return one, ""


def _type(one: Schema, prefix: str) -> str:
    """The type in words, with links to the parts of the page."""
    if "$ref" in one:
        name = one["$ref"].rpartition("/")[2]
        return "number" if name == "real" else f"[{name}](#{prefix}{name})"
    if "anyOf" in one:
        return " or ".join(_type(choice, prefix) for choice in one["anyOf"])
    if "const" in one:
        return f"`{one['const']!r}`".replace("'", '"')
    if "enum" in one:
        return ", ".join(f'`"{word}"`' for word in one["enum"])
    kinds = one.get("type", "any")
    if isinstance(kinds, list):
        return " or ".join(_type({**one, "type": kind}, prefix) for kind in kinds)
    if kinds == "array":
        return _list(one, prefix)
    if kinds == "object" and isinstance(one.get("additionalProperties"), Mapping):
        return f"object, each value {_type(one['additionalProperties'], prefix)}"
    return str(kinds)


def _list(one: Schema, prefix: str) -> str:
    if "prefixItems" in one:
        return f"[{', '.join(_type(item, prefix) for item in one['prefixItems'])}]"
    inner = _type(one["items"], prefix) if one["items"] else "any"
    return f"list of {inner}"
