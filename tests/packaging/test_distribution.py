"""The sdist and the wheel: reproducible, complete, with nothing else in them, and valid."""

from __future__ import annotations

import email
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

import ampconvert
from tests.packaging.distributions import (
    ROOT,
    build,
    done,
    sdist_names,
    unpack,
    wheel_names,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("build") is None, reason="building needs the package build"
    ),
]

# Of what git has, what an sdist may do without.
NOT_IN_SDIST = (".ci/",)
# What the wheel may hold, by the end of the name.
KINDS = {".py", ".typed", ".toml", ".json", ".js", ".css", ".html", ".svg", ".txt"}
NEEDED = (
    "ampconvert/py.typed",
    "ampconvert/__main__.py",
    "ampconvert/rules_data/matmul.toml",
    "ampconvert/rules_data/functions/functions.toml",
    "ampconvert/rules_data/targets/trt.toml",
    "ampconvert/lint/data/autocast.toml",
)


def test_builds_are_the_same_bytes_from_any_folder(sdist: Path, tmp_path: Path) -> None:
    """Twice, from two folders of other depth, times and permissions, and as sdist and wheel."""
    first = unpack(sdist, tmp_path / "a")
    second = unpack(sdist, tmp_path / "deep" / "er" / "b")
    for path in second.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        if path.is_file():
            path.chmod(0o600)
    built = [build(first, tmp_path / "1"), build(first, tmp_path / "2"),
             build(second, tmp_path / "3")]  # fmt: skip
    (direct,) = build(second, tmp_path / "4", "--wheel")
    for same in zip(*built, strict=True):
        assert len({path.name for path in same}) == 1
        assert len({path.read_bytes() for path in same}) == 1, same[0].name
    (wheel,) = (path for path in built[0] if path.suffix == ".whl")
    assert wheel.read_bytes() == direct.read_bytes()  # with the sdist between, and without


def test_wheel_holds_what_runs(wheel: Path) -> None:
    names = wheel_names(wheel)
    assert not [name for name in NEEDED if name not in names]
    ours = {
        f"ampconvert/{path.relative_to(ROOT / 'ampconvert').as_posix()}"
        for path in (ROOT / "ampconvert").rglob("*.py")
    }
    assert ours <= names
    rules = {path.name for path in (ROOT / "rules").glob("*.toml")}
    assert rules <= {PurePosixPath(name).name for name in names if "/rules_data/" in name}
    for folder in ("report/page", "report/schema"):
        there = {path.name for path in (ROOT / "ampconvert" / folder).glob("*.*")} - {"VENDOR.md"}
        assert there == {
            PurePosixPath(name).name
            for name in names
            if PurePosixPath(name).parent.as_posix() == f"ampconvert/{folder}"
        }


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    names = wheel_names(wheel)
    info = f"ampconvert-{ampconvert.__version__}.dist-info/"
    others = [name for name in names if not name.startswith(("ampconvert/", info))]
    assert not others
    strange = [
        name for name in names
        if name.startswith("ampconvert/") and PurePosixPath(name).suffix not in KINDS
    ]  # fmt: skip
    assert strange == ["ampconvert/rules_data/README.md"]
    assert not [name for name in names if "test" in name.split("/") or "__pycache__" in name]
    built_from = ("package.json", "package-lock.json", ".entry.js", "VENDOR.md")
    assert not [name for name in names if name.endswith(built_from)]


def test_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(name))
        points = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
        licences = {n for n in archive.namelist() if "/licenses/" in n}
    assert about["Version"] == ampconvert.__version__
    assert about["Requires-Python"] == ">=3.11"
    assert about["License-Expression"].startswith("Apache-2.0")
    assert "ampconvert = ampconvert.cli:main" in points
    assert "[torch_dynamo_backends]" in points
    files = about.get_all("License-File")
    assert "LICENSE" in files
    assert all(any(name.endswith(f"/licenses/{file}") for name in licences) for file in files)
    vendored = list((ROOT / "ampconvert").rglob("*LICENSE*"))
    assert {path.relative_to(ROOT).as_posix() for path in vendored} <= set(files)


@pytest.mark.skipif(importlib.util.find_spec("twine") is None, reason="needs the package twine")
def test_twine_finds_no_fault(wheel: Path, sdist: Path) -> None:
    done([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)])


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs the checkout"
)
def test_sdist_holds_what_git_has(sdist: Path) -> None:
    tracked = done(["git", "-C", str(ROOT), "ls-files"]).split("\n")
    wanted = {
        name for name in tracked
        if name and not name.startswith(NOT_IN_SDIST) and (ROOT / name).is_file()
    }  # fmt: skip
    names = sdist_names(sdist)
    assert not sorted(wanted - names)
    inside = {"PKG-INFO", *names}
    listed = done(["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]).split("\n")
    assert not sorted(inside - set(listed) - {"PKG-INFO"})  # nothing that git ignores


def test_sdist_runs_its_tests(sdist: Path, tmp_path: Path) -> None:
    """A part of them, quick ones that read most folders; `make test` runs all the same way."""
    folder = unpack(sdist, tmp_path / "sdist")
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_rules.py",
         "tests/test_layers.py", "tests/test_docs.py", "tests/test_cli.py"],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-3000:]
    where = done(
        [sys.executable, "-c", "import ampconvert; print(ampconvert.__file__)"], folder=folder
    )
    assert Path(where.strip()).is_relative_to(folder)
