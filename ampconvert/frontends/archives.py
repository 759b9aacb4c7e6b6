"""Whether a file is a zip archive, which is what .npz and .pt2 files are."""

from __future__ import annotations

import zipfile
from pathlib import Path


def is_zip(path: Path) -> bool:
    """Whether it looks like a whole one. zipfile's own function raises for some damaged ones."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False
