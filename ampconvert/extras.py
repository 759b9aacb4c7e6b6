"""Optional packages: which extra of ampconvert brings which, and what is said where one is missing.

The core needs none of them. What does need one asks with `need` before it starts, so that nobody
waits for a conversion that can't be finished.
"""

from __future__ import annotations

import importlib.util

from ampconvert.errors import UserError

# Extra -> the modules that it brings, and how the package that holds each is called. Without
# safetensors all but files of that format can be read, so `need` does not ask for it.
EXTRAS: dict[str, dict[str, str]] = {
    "torch": {"torch": "PyTorch"},
    "onnx": {
        "onnx": "onnx",
        "onnx_ir": "onnx-ir",
        "onnxscript": "onnxscript",
        "ml_dtypes": "ml_dtypes",
    },
    "ort": {"onnxruntime": "ONNX Runtime"},
    "rewrite": {"libcst": "libcst"},
}


def need(purpose: str, *extras: str, instead: str = "") -> None:
    """Raise UserError where a package of `extras` is missing; `purpose` begins the sentence, and
    `instead` ends it with what needs less.
    """
    missing = [
        package
        for extra in extras
        for module, package in EXTRAS[extra].items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        said = _sentence(purpose, missing, extras)
        raise UserError(f"{said}, or {instead}" if instead else said)


def explained(error: ModuleNotFoundError, purpose: str = "this") -> str | None:
    """What to install for the module that `error` missed; None where no extra brings it."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return _sentence(purpose, [modules[module]], (extra,))
    return None


def _sentence(purpose: str, missing: list[str], extras: tuple[str, ...]) -> str:
    *first, last = missing
    names = f"{', '.join(first)} and {last}, which are" if first else f"{last}, which is"
    return f"{purpose} needs {names} not installed: pip install '{_requirement(extras)}'"


def _requirement(extras: tuple[str, ...]) -> str:
    """What to give pip. Where all three are needed, [all] is what the documentation names."""
    every = {"torch", "onnx", "ort"} <= set(extras)
    return f"ampconvert[{'all' if every else ','.join(extras)}]"
