"""The wheel and the sdist that the slow tests look at: built once, or those of AMPCONVERT_DIST."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.packaging.distributions import ROOT, build


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sdist and the wheel that was built from it."""
    given = os.environ.get("AMPCONVERT_DIST")
    if given:
        return ROOT / given
    if importlib.util.find_spec("build") is None:
        pytest.skip("building needs the package build: pip install build")
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(dist: Path) -> Path:
    """The sdist."""
    found = list(dist.glob("*.tar.gz"))
    if not found:
        pytest.skip("AMPCONVERT_DIST holds no sdist")
    return found[0]
