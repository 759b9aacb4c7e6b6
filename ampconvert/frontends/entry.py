"""Finding the model a user means: in a Python file, an importable module or a saved program."""

from __future__ import annotations

import ast
import difflib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.export import ExportedProgram

from ampconvert.errors import UserError
from ampconvert.frontends.archives import is_zip
from ampconvert.frontends.candidates import Source, choose, named
from ampconvert.frontends.run_source import first_line, import_file, import_module, running
from ampconvert.frontends.weights import SUFFIXES, load_weights

_OTHER_SUFFIXES = (".py", ".pt2", ".onnx", ".ipynb", ".keras", ".h5")


@dataclass(frozen=True)
class Entry:
    """A loaded model and where it came from."""

    model: nn.Module | ExportedProgram
    name: str  # shown: the class's name, or the file's for a saved program
    path: Path | None  # the file it was found in
    namespace: ModuleType | None  # the imported file: may hold example_inputs, calibration_data
    how: str  # "function build_model at model.py:12"
    folders: tuple[Path, ...] = ()  # of the user's code: searched for its imports


def find(target: str, model: str | None = None, weights: Path | None = None) -> Entry:
    """Load the model that `target` names, in eval mode.

    `target` is a Python file ("model.py", "model.py:NAME"), an importable module ("package.module",
    "package.module:NAME") or a program saved by torch.export ("model.pt2"). `model` names a module
    class, an instance or a function without arguments in it. Without a name: a function
    build_model, get_model, load_model, create_model or make_model; else a variable model or net;
    else the only nn.Module that the file defines and that is no part of another. `weights` is
    loaded into the model. Raises UserError with the file, the line and what to do.
    """
    place, name = _split(target, model)
    path = Path(place)
    if path.suffix == ".pt2" and path.is_file():
        return _saved_program(path, name, weights)
    if path.exists() or not _is_module_name(place):
        _check_file(path)
        namespace, tree = import_file(path)
        source = Source(str(path), namespace, tree, (path.resolve().parent,))
    else:
        namespace, module_tree = import_module(place, target)
        file = getattr(namespace, "__file__", None)
        path = Path(file) if file else Path(place)
        source = Source(place, namespace, module_tree or ast.Module([], []), (Path.cwd(),))
    found = named(source, name) if name else choose(source)
    module = _plain(found.build(), found.how)
    entry_path = path if path.is_file() else None
    if isinstance(module, ExportedProgram):
        _refuse_weights(weights, found.how)
        return Entry(module, found.name, entry_path, namespace, found.how, source.folders)
    if weights is not None:
        with running(f"loading {weights.name}", source.folders):
            load_weights(module, weights)
    module.eval()
    shown = found.name if found.kind == "class" else type(module).__name__
    return Entry(module, shown, entry_path, namespace, found.how, source.folders)


def _split(target: str, model: str | None) -> tuple[str, str | None]:
    """The file or module, and the name in it: from `--model`, or after the target's last colon."""
    if Path(target).exists():
        return target, model
    place, colon, name = target.rpartition(":")
    if not colon or not place or not all(part.isidentifier() for part in name.split(".")):
        return target, model
    if model is not None and model != name:
        raise UserError(f"{target}: the target names {name!r} and --model {model!r}; give one")
    return place, name


def _is_module_name(place: str) -> bool:
    """`package.module` as opposed to a file that is not there."""
    parts = place.split(".")
    if not all(part.isidentifier() for part in parts):
        return False
    return len(parts) == 1 or f".{parts[-1]}" not in (*SUFFIXES, *_OTHER_SUFFIXES)


def _check_file(path: Path) -> None:
    """Raise UserError unless `path` is a Python file to import."""
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.py"))[:8]
        hint = f": one of {', '.join(files)}" if files else ""
        raise UserError(f"{path}: this is a folder; name the model's file in it{hint}")
    if not path.exists():
        names = [f.name for f in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, names, n=1)
        raise UserError(
            f"{path}: there is no such file" + (f"; did you mean {close[0]}?" if close else "")
        )
    if path.suffix == ".py":
        return
    if path.suffix == ".onnx":
        raise UserError(f"{path}: an ONNX model has no Python code to load; read it as ONNX")
    if path.suffix in SUFFIXES:
        raise UserError(
            f"{path}: this holds weights, not a model: give the Python file that defines the model,"
            f" and --weights {path}"
        )
    if path.suffix == ".ipynb":
        raise UserError(f"{path}: a notebook cannot be imported; save the model's cells as a .py")
    if path.suffix in (".keras", ".h5"):
        raise UserError(
            f"{path}: load it in a Python file: `def build_model(): return "
            f"keras.saving.load_model({path.name!r})`, with KERAS_BACKEND=torch set"
        )
    raise UserError(f"{path}: not a .py, .pt2 or .onnx file")


def _saved_program(path: Path, name: str | None, weights: Path | None) -> Entry:
    if name is not None:
        raise UserError(f"{path}: a saved program holds one model; leave out --model {name}")
    _refuse_weights(weights, str(path))
    if not is_zip(path):
        raise UserError(f"{path}: damaged, or not a file that torch.export.save wrote")
    try:
        program = torch.export.load(path)
    except Exception as error:  # the archive's reader raises almost anything on a damaged file
        raise UserError(
            f"{path}: torch.export.load failed: {type(error).__name__}: {first_line(error)}; "
            "it may come from a newer torch, or be no exported program"
        ) from error
    return Entry(program, path.stem, path, None, f"exported program {path.name}")


def _refuse_weights(weights: Path | None, where: str) -> None:
    if weights is not None:
        raise UserError(f"{where}: an exported program holds its weights; leave out --weights")


def _plain(model: object, how: str) -> nn.Module | ExportedProgram:
    """The module itself: without torch.compile's or data parallelism's wrapper."""
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel) or (
        isinstance(model, nn.Module) and isinstance(getattr(model, "_orig_mod", None), nn.Module)
    ):
        inner = getattr(model, "_orig_mod", None)
        model = inner if isinstance(inner, nn.Module) else model.module
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            f"{how}: gives a TorchScript module, whose Python code is gone; give the nn.Module"
        )
    if not isinstance(model, nn.Module | ExportedProgram):
        kind = type(model).__name__
        raise UserError(f"{how}: gives a {kind}, not a torch.nn.Module; return the model alone")
    if isinstance(model, nn.Module):
        empty = next((name for name, p in model.named_parameters() if p.is_meta), None)
        if empty is not None:
            raise UserError(
                f"{how}: the parameter {empty} is on the meta device and holds no numbers; "
                "build the model on the CPU"
            )
    return model
