"""Getting models out of packages whose own import would ask for more than the model needs."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType


@cache
def repair_torchvision() -> None:
    """Make torchvision import beside a torch that its compiled part was not built for.

    Its Python part registers fakes for two operators of the compiled one, so they have to be
    declared when that did not load. transformers, timm and onnx2torch import it as well. No zoo
    model calls the operators.
    """
    import torch

    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _KEEP.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")


_KEEP: list[object] = []  # a Library undoes its definitions when it is collected


def package_folder(name: str) -> Path:
    """Where the installed package `name` lies; ImportError when it is not installed."""
    spec = importlib.machinery.PathFinder.find_spec(name)  # also while a bare package stands in
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{name} is not installed: see benchmarks/requirements-zoo.txt")
    return Path(next(iter(spec.submodule_search_locations)))


def submodule(package: str, path: str) -> ModuleType:
    """Import `package.path` without running the `__init__` of `package`.

    Several packages import audio or image readers there that the network itself never touches.
    """
    if package not in sys.modules:
        bare_package(package)
    return importlib.import_module(f"{package}.{path}")


def bare_package(name: str, **attributes: object) -> None:
    """Put an empty package with `attributes` in place of the installed one's `__init__`."""
    bare = ModuleType(name)
    bare.__path__ = [str(package_folder(name))]
    vars(bare).update(attributes)
    sys.modules[name] = bare
