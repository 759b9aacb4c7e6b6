"""Who may import what: the core no framework, a front end no rules, and nobody the command line."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ampconvert"

# Module, or package with all in it -> ampconvert's modules and other packages that it may import.
# The longest name that fits decides. "*": every module but cli. The standard library is free.
LAYERS: dict[str, tuple[str, str]] = {
    "errors": ("", ""),
    "dtypes": ("", ""),
    "findings": ("", ""),
    "extras": ("errors", ""),
    "graph": ("", "numpy"),
    "conditions": ("dtypes errors graph", "numpy"),
    "rules": ("conditions dtypes errors graph", ""),
    "ranges": ("dtypes errors functions graph ranges", "numpy scipy"),
    "cost": ("dtypes errors graph rules targets", "numpy"),
    "functions": ("dtypes errors graph rules", "numpy"),
    "cut": ("dtypes errors graph", "numpy scipy"),
    "masks": ("dtypes graph ranges rules", ""),
    "classify": ("dtypes errors graph masks ranges rules", "numpy"),
    "plan": ("classify cost cut dtypes errors graph ranges rules", "numpy scipy"),
    "plan_diff": ("classify plan", ""),
    "front": ("classify graph plan summary", ""),
    "temporary": ("", ""),
    "plan_check": ("graph plan rules", ""),
    "files": ("dtypes errors plan plan_check temporary", "torch"),
    # Element types of ONNX values: what the ONNX front end and the emulation both need to know.
    "element_types": ("", "numpy onnx onnx_ir onnxruntime"),
    "differences": ("graph", "numpy"),
    "summary": ("cost dtypes graph plan", ""),
    "frontends": (
        "dtypes errors findings frontends graph plan ranges",
        "ml_dtypes numpy safetensors torch",
    ),
    "frontends.stack_trace": ("", ""),
    # Hands torch's program to torch's ONNX exporter, so it knows both formats.
    "frontends.fx_export": (
        "dtypes errors findings frontends graph plan",
        "ml_dtypes numpy onnx onnx_ir onnxscript torch",
    ),
    "frontends.onnx": (
        "dtypes element_types errors findings graph plan ranges verify"
        " frontends.onnx frontends.stack_trace temporary",
        "ml_dtypes numpy onnx onnx_ir onnxscript",
    ),
    # Compares torch's program with the ONNX model that it became.
    "frontends.fx_differences": (
        "differences dtypes errors frontends graph verify",
        "numpy onnx_ir torch",
    ),
    "frontends.onnx_differences": (
        "differences element_types errors graph verify",
        "numpy onnx_ir",
    ),
    "verify": (
        "dtypes element_types errors ranges verify",
        "ml_dtypes numpy onnx onnx_ir onnxruntime onnxscript",
    ),
    "verify.search": ("classify front graph plan verify", ""),
    "hazards": ("dtypes findings functions graph hazards plan ranges", "numpy"),
    "repairs": ("classify cost dtypes errors functions graph plan ranges repairs", "numpy"),
    # Spell the edits of repairs in each format.
    "frontends.fx_repair": ("dtypes errors frontends graph ranges repairs", "numpy torch"),
    "frontends.onnx_repair": (
        "dtypes element_types errors frontends.onnx graph ranges repairs verify",
        "ml_dtypes numpy onnx onnx_ir",
    ),
    "training": ("*", "numpy torch"),
    "training.keras": ("*", "keras torch"),
    "training.transformers": ("*", "torch transformers"),
    "lint": ("errors extras findings lint", "libcst"),
    "reference": ("commands conditions cost dtypes reference report rules", ""),
    "report": ("*", "numpy plotext rich"),
    # Writes on models, and asks onnx_ir what viewers will call their nodes.
    "report.overlays": ("*", "onnx_ir"),
    "conversion": ("*", "numpy onnx_ir torch"),
    "commands": ("*", "onnx_ir rich torch"),
    "pipeline_steps": ("*", ""),
    "public": ("*", "onnx onnx_ir torch"),
    "exporting": ("*", "torch"),
    "integrations": ("*", "olive"),
    "pipeline_onnx": ("*", "numpy onnx onnx_ir"),
    "targets": ("dtypes", ""),
    "verification": ("*", "numpy onnx onnx_ir torch"),
    "verification_inputs": ("*", "numpy onnx onnx_ir torch"),
    "verification_onnx": ("*", "numpy onnx onnx_ir torch"),
    "verification_torch": ("*", "numpy onnx onnx_ir torch"),
    "pipeline": ("*", "numpy onnx onnx_ir rich torch"),
    "distributed": ("*", "torch"),
    "cli": ("*", "rich"),
    "__main__": ("cli", ""),
    "__init__": ("*", ""),
}
CORE = ("errors", "dtypes", "graph", "conditions", "rules", "ranges", "cost", "classify", "plan")
FRAMEWORKS = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "libcst")

FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_only_what_its_layer_allows(path: Path) -> None:
    module = module_name(path)
    own, others = (words.split() for words in layer(module))
    for target in imports(path):
        top, _, inner = target.partition(".")
        if top != "ampconvert":
            assert top in sys.stdlib_module_names or top in others, f"{module} imports {target}"
        elif inner:
            assert allowed(inner, own), f"{module} imports ampconvert.{inner}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_onnxruntime_is_imported_where_it_runs(path: Path) -> None:
    """It is optional and slow to load: inside a function, never when a module is imported."""
    top_level = ast.parse(path.read_text(encoding="utf-8")).body
    tree = ast.Module([s for s in top_level if isinstance(s, ast.Import | ast.ImportFrom)], [])
    assert not [name for name in imported(tree) if name.split(".")[0] == "onnxruntime"]


@pytest.mark.parametrize("modules", [CORE, ("", "cli")], ids=["core", "command line"])
def test_starts_without_a_framework(modules: tuple[str, ...]) -> None:
    names = [f"ampconvert.{m}".rstrip(".") for m in modules]
    code = f"import sys, {', '.join(names)}\nprint([m for m in {FRAMEWORKS} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch.nn as nn", ["torch.nn"]),
        ("from ampconvert import graph", ["ampconvert.graph"]),
        ("def f():\n    from ampconvert.cli import main", ["ampconvert.cli.main"]),
        (
            "from ampconvert.plan import Cast, Plan",
            ["ampconvert.plan.Cast", "ampconvert.plan.Plan"],
        ),
    ],
)
def test_imports_are_found(source: str, found: list[str]) -> None:
    assert list(imported(ast.parse(source))) == found


def test_a_forbidden_import_is_seen() -> None:
    assert allowed("graph.Node", ["graph"])
    assert not allowed("rules.OpRule", layer("frontends.fx")[0].split())
    assert not allowed("frontends.fx.read", layer("frontends.onnx_write")[0].split())
    assert not allowed("cli.main", ["*"])


def layer(module: str) -> tuple[str, str]:
    """The table's entry for a module; a file that no entry names has to be given one."""
    fitting = [name for name in LAYERS if allowed(module, [name])]
    assert fitting, f"ampconvert/{module.replace('.', '/')}.py has no entry in LAYERS: add one"
    return LAYERS[max(fitting, key=len)]


def allowed(target: str, names: list[str]) -> bool:
    """Is `target` one of `names` or inside one? frontends.onnx_write belongs to frontends.onnx."""
    if "*" in names and target.split(".")[0] != "cli":
        return True
    return any(target == n or target.startswith((f"{n}.", f"{n}_")) for n in names)


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, in functions too; bare `ampconvert` names kept."""
    yield from imported(ast.parse(path.read_text(encoding="utf-8")))


def imported(tree: ast.AST) -> Iterator[str]:
    """`import a.b` and `from a import b` both give a.b, whether b is a module or a name in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    """ampconvert/report/rules.py is "report.rules", ampconvert/report/__init__.py is "report"."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
