"""The published schemas hold for what the commands print, and name all of it and nothing else."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from jsonschema import Draft202012Validator

from ampconvert.files import read_json
from ampconvert.report.schema import NAMES, schema
from ampconvert.report.schema.page import page
from tests.report import reports
from tests.report.reports import REPORTS

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    with pytest.raises(KeyError, match="there are report-1"):
        schema("report-0")


def drift() -> dict[str, Any]:
    """What `diff` says of the plans of two models."""
    plans = [
        str(reports.written(reports.conversion("plain.onnx", *more), "plan"))
        for more in ((), ("--dtype", "bf16"))
    ]
    return reports.report("diff", *plans)


# No pages are made of these.
DATA: dict[str, Callable[[], dict[str, Any]]] = {
    "diff": drift,
    "build check": lambda: reports.conversion("plain.onnx", "--check-build"),
}
# PyTorch models again where an ONNX model has covered the command.
SLOW: dict[str, Callable[[], dict[str, Any]]] = {
    "torch bfloat16, a tolerance": lambda: reports.conversion(
        "net.py", "--dtype", "bf16", "--tolerance", "0.004"
    ),
    "torch repaired": lambda: reports.conversion("net.py", "--repair"),
    "torch explain": lambda: reports.report("explain", "net.py", "hidden"),
    "torch pareto": lambda: reports.report("convert", "net.py", "--pareto"),
    "torch verify": lambda: reports.report("verify", "net.py", "net.py"),
}


@pytest.mark.parametrize(
    "made",
    [
        *REPORTS.values(),
        *DATA.values(),
        *(pytest.param(made, marks=pytest.mark.slow) for made in SLOW.values()),
    ],
    ids=[*REPORTS, *DATA, *SLOW],
)
def test_reports_are_as_the_schema_says(made: Callable[[], dict[str, Any]]) -> None:
    data = made()
    complain(data)
    jsonschema.validate(data, schema("report-1"))  # exactly one of the commands


def test_the_cases_are_what_they_are_called() -> None:
    failed = REPORTS["onnx failed"]()
    assert failed["ok"] is False and not failed["parity"]["outputs"][0]["ok"]
    overflowed = REPORTS["verify failed"]()
    assert overflowed["parity"]["outputs"][0]["rel_l2"] == "Infinity"
    assert overflowed["parity"]["first_bad"]["tensor"] == "big"
    assert REPORTS["onnx unverified"]()["parity"] is None
    assert REPORTS["onnx repaired"]()["repairs_made"]
    assert REPORTS["torch analyze"]()["proof"]["bounds"]
    assert REPORTS["torch analyze"]()["loss_scale"] is not None
    assert "parity" not in REPORTS["old plan"]()


def test_every_key_of_the_schema_is_printed_by_some_command() -> None:
    seen: set[tuple[str, str]] = set()
    for made in (*REPORTS.values(), *DATA.values()):
        seen |= set(keys_seen(made()))
    # Fixes of source lines and of places that no repair fits need models of their own.
    elsewhere = {"edit_of_source", "declined", "edit"}
    wanted = {
        (name, key)
        for name, part in schema("report-1")["$defs"].items()
        for key in part.get("properties", {})
        if name not in elsewhere
    }
    assert wanted - seen == set()


@pytest.mark.parametrize("case", ["torch", "onnx", "onnx repaired"])
def test_plan_files_are_as_the_schema_says(case: str) -> None:
    data = read_json(reports.written(REPORTS[case](), "plan"))
    jsonschema.validate(data, schema("plan-1"))
    assert data["repairs"] or case != "onnx repaired"
    complain(data["report"])
    del data["report"]  # a file of an older version
    jsonschema.validate(data, schema("plan-1"))


def test_lint_s_list_is_as_the_schema_says(tmp_path: Path) -> None:
    source = tmp_path / "train.py"
    source.write_text(
        "import torch\nscaler = torch.cuda.amp.GradScaler()\n"
        "def step(model, loss, optimizer):\n    scaler.scale(loss).backward()\n"
        "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
        "    scaler.step(optimizer)\n    scaler.update()\n"
    )
    found = json.loads(reports.printed("lint", str(source), "--json", "--no-cache"))
    assert any(one["fix"] for one in found)
    jsonschema.validate(found, schema("lint-1"))
    found[0]["extra"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, schema("lint-1"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.update(extra=1),
        lambda data: data.pop("summary"),
        lambda data: data["nodes"][0].update(extra=1),
        lambda data: data["nodes"][0].update(runs_in=16),
        lambda data: data["parity"]["outputs"][0].update(rel_l2="much"),
        lambda data: data["summary"].update(weight_bytes=[1, 2, 3]),
        lambda data: data.update(schema=2),
        lambda data: data.update(command="convertt"),
    ],
)
def test_what_is_not_described_is_refused(damage: Callable[[dict[str, Any]], Any]) -> None:
    data = copy.deepcopy(REPORTS["onnx"]())
    damage(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema("report-1"))


def test_every_key_is_described_and_every_object_is_closed() -> None:
    for name in NAMES:
        for place, part in objects(schema(name)):
            if "properties" in part:
                assert part["additionalProperties"] is False, place
                for key, held in part["properties"].items():
                    text = held.get("description", "")
                    assert text.endswith("."), f"{place}.{key}"


def test_the_page_is_fresh() -> None:
    written = (ROOT / "docs/json.md").read_text(encoding="utf-8")
    assert written == page(), "python -m ampconvert.report.schema > docs/json.md"


def test_links_of_the_page_lead_to_its_parts() -> None:
    text = page()
    titles = {
        line.lstrip("# ").replace(" ", "-") for line in text.splitlines() if line.startswith("#")
    }
    links = {part.split(")")[0] for part in text.split("](#")[1:]}
    assert links and links <= titles


def complain(data: Mapping[str, Any]) -> None:
    """Validate against the one command's part: `oneOf` alone would not say what is wrong."""
    whole = schema("report-1")
    name = "plan_only" if data["command"] == "convert" and "parity" not in data else data["command"]
    chosen = {**whole, "$ref": f"#/$defs/{name}"}
    del chosen["oneOf"]
    errors = Draft202012Validator(chosen).iter_errors(data)
    assert not [f"{list(error.absolute_path)}: {error.message[:300]}" for error in errors]


def keys_seen(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each named part of the schema with the keys that `data` has of it."""
    whole = schema("report-1")
    name = "plan_only" if data["command"] == "convert" and "parity" not in data else data["command"]
    yield from _walk(whole["$defs"], name, whole["$defs"][name], data)


def _walk(
    parts: Mapping[str, Any], name: str, part: Mapping[str, Any], data: Any
) -> Iterator[tuple[str, str]]:
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        yield from _walk(parts, name, parts[name], data)
    for choice in part.get("anyOf", ()) if data is not None else ():
        if choice.get("type") != "null":
            yield from _walk(parts, name, choice, data)
    if isinstance(data, Mapping):
        for key, held in data.items():
            if key in part.get("properties", {}):
                # Keys of objects without a name are those of the part they stand in: not asked for.
                if part is parts.get(name):
                    yield name, key
                yield from _walk(parts, "", part["properties"][key], held)
            elif isinstance(part.get("additionalProperties"), Mapping):
                yield from _walk(parts, "", part["additionalProperties"], held)
    elif isinstance(data, list) and isinstance(part.get("items"), Mapping):
        for held in data:
            yield from _walk(parts, "", part["items"], held)


def objects(part: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a schema that describes something, and where it stands."""
    if isinstance(part, dict):
        if "type" in part:
            yield place, part
        for key, held in part.items():
            yield from objects(held, f"{place}.{key}")
    elif isinstance(part, list):
        for number, held in enumerate(part):
            yield from objects(held, f"{place}[{number}]")
