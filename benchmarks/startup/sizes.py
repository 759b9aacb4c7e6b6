"""Sizes of the wheel, the sdist and what they unpack to, and of environments with each extra."""

from __future__ import annotations

import json
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Run in another environment: the bytes of each distribution's files there.
_INSTALLED = """
import importlib.metadata, json, sys
def size(name):
    files = [f.locate() for f in importlib.metadata.distribution(name).files or []]
    return sum(p.stat().st_size for p in files if p.is_file() and p.suffix != ".pyc")
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = [importlib.metadata.version(name), size(name)]
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Size:
    """Bytes of an archive or of what is installed, and the number of files; 0 where unknown."""

    name: str
    bytes: int
    files: int = 0


def archives(dist: Path) -> Iterator[Size]:
    """The wheel and the sdist in `dist`, packed and unpacked."""
    for wheel in sorted(dist.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            inside = [entry for entry in archive.infolist() if not entry.is_dir()]
        yield Size(wheel.name, wheel.stat().st_size, len(inside))
        yield Size("the wheel, installed", sum(entry.file_size for entry in inside), len(inside))
    for sdist in sorted(dist.glob("*.tar.gz")):
        with tarfile.open(sdist) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
        yield Size(sdist.name, sdist.stat().st_size, len(members))
        yield Size("the sdist, unpacked", sum(member.size for member in members), len(members))


def environments(folder: Path) -> Iterator[Size]:
    """Virtual environments in `folder`: all that is installed there but pip and setuptools."""
    for place in sorted(folder.iterdir()):
        for packages in place.glob("lib/python*/site-packages"):
            files = [
                path for path in packages.rglob("*")
                if path.is_file() and not path.is_symlink() and path.suffix != ".pyc"
                and not path.relative_to(packages).parts[0].startswith(("pip", "setuptools"))
            ]  # fmt: skip
            yield Size(place.name, sum(path.stat().st_size for path in files), len(files))


def installed(python: Path, names: tuple[str, ...]) -> Iterator[Size]:
    """Packages as they lie in the environment of `python`, without compiled bytecode."""
    done = subprocess.run(
        [str(python), "-c", _INSTALLED, *names], capture_output=True, text=True, check=True
    )
    for name, (version, size) in json.loads(done.stdout).items():
        yield Size(f"{name} {version}", size)
