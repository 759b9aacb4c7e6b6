"""Building, unpacking and installing the package, for the tests of what is published.

Three settings, all optional:

- AMPCONVERT_DIST: a folder with a wheel (and sdist) to test, instead of one that is built here.
- AMPCONVERT_ENVS: a folder where virtual environments are kept for the next run.
- AMPCONVERT_ALL_EXTRAS=1: PyTorch in the environments of every Python, not only of this one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
EPOCH = "1767225600"  # any fixed second will do for a test: the start of 2026


def build(source: Path, out: Path, *kinds: str) -> list[Path]:
    """Build the sdist and, from it, the wheel of `source` into `out`; `kinds` may be one option,
    such as "--wheel", which builds the wheel from the folder itself.
    """
    if out.exists():
        shutil.rmtree(out)
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": EPOCH,
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
    }
    done(
        [sys.executable, "-m", "build", "--outdir", str(out), *kinds, str(source)],
        environment=environment,
    )
    return sorted(out.iterdir())


def unpack(sdist: Path, into: Path) -> Path:
    """Unpack an sdist below `into`; gives the folder that it holds."""
    into.mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(into, filter="data")
    (folder,) = into.iterdir()
    return folder


def wheel_names(wheel: Path) -> set[str]:
    """The names of all files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def sdist_names(sdist: Path) -> set[str]:
    """The names of all files in an sdist, without its outer folder."""
    with tarfile.open(sdist) as archive:
        return {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}


def bin_of(environment: Path, program: str) -> Path:
    """A program of a virtual environment."""
    return environment / ("Scripts" if os.name == "nt" else "bin") / program


def environment(python: str, wheel: Path, extras: Sequence[str], folder: Path) -> Path:
    """A virtual environment with nothing but `wheel` and its `extras`, kept in AMPCONVERT_ENVS if
    that is set: then only the wheel is installed anew.
    """
    version = done([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    kept = os.environ.get("AMPCONVERT_ENVS")
    place = (Path(kept) if kept else folder) / f"{version}-{'-'.join(extras) or 'none'}"
    pip = [str(bin_of(place, "python")), "-m", "pip", "--disable-pip-version-check", "install",
           "--quiet", "-c", str(ROOT / "constraints.txt")]  # fmt: skip
    if not place.exists():
        done([python, "-m", "venv", str(place)])
        done([*pip, f"{wheel}[{','.join(extras)}]" if extras else str(wheel)])
    elif kept:
        done([*pip, "--no-deps", "--force-reinstall", str(wheel)])
    return place


def done(
    command: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """Run a command that has to succeed; gives what it printed."""
    found = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    assert found.returncode == 0, f"{' '.join(command)}\n{found.stdout}{found.stderr}"
    return found.stdout


@cache
def pythons() -> tuple[tuple[str, str], ...]:
    """This Python and the others of `VERSIONS` that are found: (version, program)."""
    own = "{}.{}".format(*sys.version_info)
    found = {own: sys.executable}
    for version in VERSIONS:
        for program in _candidates(version):
            if version not in found and _is_version(program, version):
                found[version] = program
    return tuple(sorted(found.items()))


def _candidates(version: str) -> list[str]:
    """Programs that may be that Python: on the PATH, and in pyenv's folder."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    kept = sorted((root / "versions").glob(f"{version}.*/bin/python"))
    named = shutil.which(f"python{version}")
    return [*([named] if named else []), *map(str, kept)]


def _is_version(program: str, version: str) -> bool:
    """Whether `program` starts, as that version: pyenv's shims exist without one behind them."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    found = subprocess.run([program, "-c", code], capture_output=True, text=True, check=False)
    return found.returncode == 0 and found.stdout.strip() == version
