"""Batches in .npz files: their arrays, or only the types and shapes of these."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from ampconvert.errors import UserError
from ampconvert.frontends.archives import is_zip

Array = np.ndarray[Any, Any]
# What reading a damaged archive raises; RuntimeError is a compression that Python lacks, or a key.
_DAMAGES = (
    ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_HEADERS: dict[tuple[int, int], Callable[..., Any]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def npz_files(data: Path) -> list[Path]:
    """The .npz files of a folder, in the order of their names; a file stands for itself.

    Raises UserError where there is nothing by that name, or no .npz file in it.
    """
    if not data.exists():
        raise UserError(f"{data}: there is no such file or folder of calibration data")
    files = sorted(data.glob("*.npz")) if data.is_dir() else [data]
    if not files:
        raise UserError(f"{data}: holds no .npz file; save one per batch with numpy.savez")
    return files


def read_arrays(path: Path) -> dict[str, Array]:
    """All arrays of a file by name. Raises UserError for a missing or damaged one, and objects."""
    # numpy leaves a file that it opens itself open where the archive is damaged.
    with _opened(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = {str(key): archive[key] for key in archive.files}
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} is no array")
    return _some(arrays, path)


def read_headers(path: Path) -> dict[str, Array]:
    """The same, with arrays of the right type and shape that hold one repeated zero: nothing but
    the head of each is read, whatever its size. They can't be written to.
    """
    headers: dict[str, Array] = {}
    with _opened(path), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                read = _HEADERS.get(npy.read_magic(stream))
                if read is None:  # a newer form of the header
                    return read_arrays(path)
                shape, _, dtype = read(stream)
            if dtype.hasobject:
                raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
            headers[member.removesuffix(".npy")] = np.broadcast_to(np.zeros((), dtype), shape)
    return _some(headers, path)


@contextmanager
def _opened(path: Path) -> Iterator[None]:
    """Tell what is wrong with the file `path` where reading it, which happens inside, fails."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file of inputs")
    if path.suffix != ".npz" or path.is_dir():
        raise UserError(f"{path}: inputs are read from .npz; write it with numpy.savez")
    try:
        if not is_zip(path):
            raise ValueError("it is no archive of arrays; write it with numpy.savez")
        yield
    except _DAMAGES as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path}: holds Python objects; save arrays of numbers of one shape each"
            ) from None
        raise UserError(f"{path}: damaged .npz file: {' '.join(str(error).split())}") from None


def _some(arrays: dict[str, Array], path: Path) -> dict[str, Array]:
    if not arrays:
        raise UserError(f"{path}: holds no array")
    return arrays
