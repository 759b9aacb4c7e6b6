"""Running the user's own Python: importing a file as its owner would, and saying what broke."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch

from ampconvert.errors import UserError
from ampconvert.frontends.static_check import parse, refuse_training

# Modules imported from the folder of a model's file: a later file from another folder that has a
# sibling of the same name must get its own. Name -> file.
_siblings: dict[str, Path] = {}


def import_file(path: Path) -> tuple[ModuleType, ast.Module]:
    """Import the Python file at `path`; gives the module and its syntax tree.

    The module stands in sys.modules under the file's name, so that its dataclasses and pickles
    work. Its folder is searched first, as when the file is run. A file that uses relative
    imports is imported as part of its package. Raises UserError for a file that cannot be
    read, would train on import, or raises.
    """
    path = path.resolve()
    tree = parse(path)
    refuse_training(tree, path)
    root, name = _module_name(path, tree)
    _forget_other_siblings(path.parent)
    with running(f"importing {path.name}", (path.parent, *root)):
        if root:
            importlib.import_module(name.rpartition(".")[0])
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise UserError(f"{path}: Python cannot import a file of this kind")
        module = importlib.util.module_from_spec(spec)
        before = sys.modules.get(name)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            _restore(name, before)
            raise
    return module, tree


def import_module(name: str, target: str) -> tuple[ModuleType, ast.Module | None]:
    """Import an installed or local module by its dotted name; its tree is None if it has no source.

    Raises UserError when there is no such module, or when importing it raises or would train.
    """
    folder = Path.cwd()
    with running(f"importing {name}", (folder,)):
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name + ".").startswith(error.name + "."):
                raise  # a package on the way is there, but misses something of its own
            spec = None
    if spec is None:
        raise UserError(f"{target}: there is no file and no Python module of that name")
    tree = None
    if spec.origin is not None and spec.origin.endswith(".py"):
        tree = parse(Path(spec.origin))
        refuse_training(tree, Path(spec.origin))
    with running(f"importing {name}", (folder,)):
        module = importlib.import_module(name)
    return module, tree


@contextlib.contextmanager
def running(doing: str, folders: tuple[Path, ...] = (), seed: int = 0) -> Iterator[None]:
    """Around every call into the user's code: `doing` says what for, in error messages.

    `folders` are searched first for modules. torch's random numbers start from `seed` and are put
    back afterwards, so that one command gives one result. What the code prints goes to stderr:
    stdout belongs to the report. Raises UserError, with the user's line, for whatever it raises.
    """
    added = [str(folder) for folder in folders]
    earlier = set(sys.modules)
    arguments = sys.argv
    sys.path[:0] = added
    sys.argv = arguments[:1]  # a parser that runs on import must not read our options
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
            torch.manual_seed(seed)
            yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(describe(error, doing, folders)) from error
    finally:
        sys.argv = arguments
        _remember_siblings(folders, sys.modules.keys() - earlier)
        for folder in added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


def describe(error: BaseException, doing: str, folders: tuple[Path, ...] = ()) -> str:
    """One message for an exception out of the user's code: where, while doing what, and which."""
    where = user_line(error, folders)
    if isinstance(error, SystemExit):
        what = f"it called sys.exit({error.code!r})"
        return f'{where}{doing} failed: {what}; put that under `if __name__ == "__main__":`'
    text = f"{type(error).__name__}: {first_line(error)}"
    advice = ""
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        advice = f"; install the package that provides {top!r} in this Python, or mend the import"
    elif isinstance(error, AssertionError) and "not compiled with CUDA" in str(error):
        advice = "; this machine has no GPU: build the model on the CPU"
    return f"{where}{doing} failed: {text}{advice}"


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an exception's message that says something, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "(no message)"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def user_line(error: BaseException, folders: tuple[Path, ...] = ()) -> str:
    """`model.py:12: ` for the innermost line of the user's own code that the error went through.

    Code in `folders` is the user's unless it is installed there; without folders, everything
    outside installed packages and this one is.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    own = Path(__file__).resolve().parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if not file.is_file() or {"site-packages", "dist-packages"} & set(file.parts):
            continue
        file = file.resolve()
        if file.is_relative_to(own):
            continue
        if not folders or any(file.is_relative_to(folder.resolve()) for folder in folders):
            return f"{frame.filename}:{frame.lineno}: "
    return ""


def _module_name(path: Path, tree: ast.Module) -> tuple[tuple[Path, ...], str]:
    """The name to import `path` under, and its package's root folder if it needs one."""
    relative = any(isinstance(n, ast.ImportFrom) and n.level > 0 for n in ast.walk(tree))
    if relative and (path.parent / "__init__.py").is_file():
        folder, parts = path.parent, [path.stem]
        while (folder / "__init__.py").is_file():
            parts.insert(0, folder.name)
            folder = folder.parent
        return (folder,), ".".join(parts)
    name = "".join(c if c.isalnum() or c == "_" else "_" for c in path.stem)
    # json.py or torch.py of the user's must not take the place of the real one.
    return (), name if name.isidentifier() and _is_free(name, path) else f"model_file_{name}"


def _is_free(name: str, path: Path) -> bool:
    if name in sys.modules:
        return name in _siblings
    known = importlib.util.find_spec(name)
    return known is None or known.origin == str(path)


def _restore(name: str, before: ModuleType | None) -> None:
    if before is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = before


def _remember_siblings(folders: tuple[Path, ...], names: set[str]) -> None:
    for name in names:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and "site-packages" not in file and any(map(Path(file).is_relative_to, folders)):
            _siblings[name] = Path(file)


def _forget_other_siblings(folder: Path) -> None:
    """Drop what an earlier file imported from its folder, where this folder has the same name."""
    for name, file in list(_siblings.items()):
        top = name.partition(".")[0]
        here = (folder / f"{top}.py").exists() or (folder / top).is_dir()
        if here and not file.is_relative_to(folder):
            sys.modules.pop(name, None)
            del _siblings[name]
    importlib.invalidate_caches()
