"""The version, the changelog, the citation and the pages of a release agree with each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from datetime import date
from pathlib import Path

import pytest
import yaml

import ampconvert
from ampconvert.commands.options import COMMANDS
from ampconvert.extras import EXTRAS

ROOT = Path(__file__).parent.parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RELEASE = (ROOT / "docs/release.md").read_text(encoding="utf-8")
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
# Heading -> date, of the changelog's releases, newest first.
RELEASES = dict(
    re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - (\S+)$",
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.M,
    )
)


def test_changelog_has_an_entry_for_the_version() -> None:
    assert next(iter(RELEASES)) == ampconvert.__version__
    dates = [date.fromisoformat(text) for text in RELEASES.values()]
    assert dates == sorted(dates, reverse=True)


def test_citation_is_that_of_the_version() -> None:
    assert CITATION["version"] == ampconvert.__version__
    assert str(CITATION["date-released"]) == RELEASES[ampconvert.__version__]
    assert CITATION["license"] in PROJECT["license"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cffconvert") is None, reason="cffconvert is not installed")
def test_citation_is_valid() -> None:
    subprocess.run(["cffconvert", "--validate", "-i", str(ROOT / "CITATION.cff")], check=True)


def test_supported_pythons_are_those_of_the_classifiers() -> None:
    named = re.findall(
        r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])
    )
    (line,) = (ln for ln in RELEASE.splitlines() if ln.startswith("- **Python**"))
    assert re.findall(r"3\.\d+", line) == named
    assert PROJECT["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize(
    ("shown", "extra", "package"),
    [
        ("PyTorch", "torch", "torch"),
        ("onnx", "onnx", "onnx"),
        ("onnx-ir", "onnx", "onnx-ir"),
        ("onnxscript", "onnx", "onnxscript"),
        ("ONNX Runtime", "ort", "onnxruntime"),
    ],
)
def test_lowest_versions_are_those_of_the_extras(shown: str, extra: str, package: str) -> None:
    (version,) = re.findall(rf"\*\*{shown}\*\* (\d+\.\d+)", RELEASE)
    assert f"{package}>={version}" in PROJECT["optional-dependencies"][extra]


def test_lowest_versions_are_not_above_the_tested_ones() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.M))
    extras = PROJECT["optional-dependencies"].values()
    every = [*PROJECT["dependencies"], *(r for requirements in extras for r in requirements)]
    for requirement in every:
        name, _, lowest = requirement.partition(">=")
        if lowest and name in pinned:
            assert numbers(lowest) <= numbers(pinned[name]), requirement


def test_extras_bring_the_modules_that_messages_name() -> None:
    names = {"onnxruntime": "onnxruntime", "onnx_ir": "onnx-ir"}
    for extra, modules in EXTRAS.items():
        asked = {r.partition(">=")[0] for r in PROJECT["optional-dependencies"][extra]}
        assert {names.get(module, module) for module in modules} <= asked
    shown = PROJECT["optional-dependencies"]["all"]
    assert shown == [f"ampconvert[{','.join(EXTRAS)}]"]


def test_the_table_of_extras_names_every_command() -> None:
    table = RELEASE[RELEASE.index("| install |") : RELEASE.index("A command that lacks")]
    assert not [name for name in COMMANDS if f"`{name}`" not in table]


def numbers(version: str) -> tuple[int, ...]:
    """1.22 as (1, 22), to be compared."""
    return tuple(map(int, version.split(".")))
