"""What a model's file would do when it is imported, read from its syntax tree before it runs.

A training script without an `if __name__ == "__main__":` guard trains for hours when it is only
asked for its model. Such a file is refused here, with the line, before anything of it runs.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ampconvert.errors import UserError

_TRAINERS = ("trainer", "runner", "estimator")
_OPTIMIZERS = {
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "lamb", "lbfgs", "lion",
    "muon", "nadam", "radam", "rmsprop", "rprop", "sgd", "sparseadam",
}  # fmt: skip
ADVICE = (
    'put the training code under `if __name__ == "__main__":`, or write the model into a file of '
    "its own with `def build_model(): ...`"
)


def parse(path: Path) -> ast.Module:
    """The syntax tree of the Python file at `path`.

    Raises UserError when the file is empty, no text in its declared encoding (UTF-8 unless a
    coding comment says otherwise, PEP 263), or no Python.
    """
    data = path.read_bytes()
    if not data.strip():
        raise UserError(f"{path}: the file is empty; it should define a torch.nn.Module")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (UnicodeDecodeError, SyntaxError) as error:
        raise UserError(f"{path}: not a Python source file in UTF-8 ({error})") from None
    try:
        return ast.parse(text, filename=str(path))
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        source = f"\n    {error.text.strip()}" if error.text and error.text.strip() else ""
        raise UserError(f"{path}{line}: SyntaxError: {error.msg}{source}") from None
    except ValueError as error:  # null bytes, on Python 3.11
        raise UserError(f"{path}: not Python source ({error})") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply for Python's parser") from None


def refuse_training(tree: ast.Module, path: Path) -> None:
    """Raise UserError when importing the module would train, or wait for a key press.

    Function bodies count only when the module calls that function itself; what stands under
    `if __name__ == "__main__":` never does.
    """
    marks = sorted(training_marks(tree), key=lambda mark: mark.line)
    if marks:
        mark = marks[0]
        raise UserError(f"{path}:{mark.line}: importing this file would {mark.what}; {ADVICE}")


@dataclass(frozen=True)
class Mark:
    """One line that would train, or read the keyboard, while the file is imported."""

    line: int
    what: str
    certain: bool = True  # `.fit(` and loops over epochs can also be something harmless


def training_marks(tree: ast.Module) -> Iterator[Mark]:
    """Every mark of training among the statements that run when the module is imported."""
    names = _Names.of(tree)
    called: set[str] = set()
    for node in _executed(tree.body):
        yield from _marks_of(node, names)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        function = names.functions.get(node.func.id)
        if function is not None and function.name not in called:
            called.add(function.name)
            inner = _marks_inside(function, names, set())
            if inner is not None:
                what = f"call {function.name}(), which would {inner.what} (line {inner.line})"
                yield Mark(node.lineno, what)


def _marks_inside(function: ast.FunctionDef, names: _Names, seen: set[str]) -> Mark | None:
    """The first mark in a function's body, or in a function of the same file that it calls.

    Only certain marks count here: `def build_model()` may well fit a scaler.
    """
    seen.add(function.name)
    inner = names.inside(function)
    for node in _executed(function.body):
        for mark in _marks_of(node, inner):
            if mark.certain:
                return mark
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            callee = names.functions.get(node.func.id)
            if callee is not None and callee.name not in seen:
                mark_there = _marks_inside(callee, names, seen)
                if mark_there is not None:
                    return mark_there
    return None


def _marks_of(node: ast.AST, names: _Names) -> Iterator[Mark]:
    if isinstance(node, ast.For) and _over_epochs(node):
        yield Mark(node.lineno, "train (it holds a loop over epochs)", certain=False)
    if not isinstance(node, ast.Call):
        return
    if isinstance(node.func, ast.Name):
        if node.func.id == "input" and "input" not in names.assigned:
            yield Mark(node.lineno, "wait for the keyboard (it calls input())")
        return
    if not isinstance(node.func, ast.Attribute):
        return
    method, receiver = node.func.attr, _last_name(node.func.value)
    if method == "backward":
        yield Mark(node.lineno, "train (it calls .backward())")
    elif method == "fit":
        yield Mark(node.lineno, "train (it calls .fit())", certain=False)
    elif method == "step" and _is_optimizer(receiver, names):
        yield Mark(node.lineno, f"train (it calls {receiver}.step())")
    elif method in ("train", "learn") and _is_trainer(receiver, names):
        yield Mark(node.lineno, f"train (it calls {receiver}.{method}())")


def _over_epochs(loop: ast.For) -> bool:
    words = [n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)]
    for node in ast.walk(loop.iter):
        if isinstance(node, ast.Name):
            words.append(node.id)
        elif isinstance(node, ast.Attribute):
            words.append(node.attr)
    return any("epoch" in word.lower() for word in words)


def _is_optimizer(name: str, names: _Names) -> bool:
    lowered = name.lower()
    return name in names.optimizers or lowered.startswith("opt") or "optim" in lowered


def _is_trainer(name: str, names: _Names) -> bool:
    return name in names.trainers or any(word in name.lower() for word in _TRAINERS)


@dataclass(frozen=True)
class _Names:
    """What a file's own names stand for, as far as assignments tell."""

    functions: dict[str, ast.FunctionDef]
    assigned: frozenset[str]
    optimizers: frozenset[str]
    trainers: frozenset[str]

    @classmethod
    def of(cls, tree: ast.Module) -> _Names:
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        bound, optimizers, trainers = _bindings(tree.body)
        return cls(functions, bound | frozenset(functions), optimizers, trainers)

    def inside(self, function: ast.FunctionDef) -> _Names:
        """The same with the names that the function's own body binds."""
        bound, optimizers, trainers = _bindings(function.body)
        parameters = frozenset(a.arg for a in ast.walk(function.args) if isinstance(a, ast.arg))
        return _Names(
            self.functions,
            self.assigned | bound | parameters,
            self.optimizers | optimizers,
            self.trainers | trainers,
        )


def _bindings(
    body: list[ast.stmt],
) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Names that the statements bind: all of them, those of optimizers, those of trainers."""
    bound: set[str] = set()
    optimizers: set[str] = set()
    trainers: set[str] = set()
    for node in _executed(body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [_last_name(target) for target in targets]
            maker = _last_name(node.value.func).lower()
            if maker in _OPTIMIZERS or "optimizer" in maker:
                optimizers.update(names)
            elif "trainer" in maker:
                trainers.update(names)
    return frozenset(bound), frozenset(optimizers), frozenset(trainers)


def _last_name(node: ast.expr) -> str:
    """`self.optimizer` -> "optimizer", `torch.optim.Adam(...)` -> "Adam", `x` -> "x"; else ""."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    if isinstance(node, ast.Subscript):
        return _last_name(node.value)
    return ""


def _executed(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Every node that runs with the statements of `body`, in source order.

    Class bodies run with them; bodies of functions and lambdas, and the `__main__` guard, do not.
    """
    for statement in body:
        yield from _executed_node(statement)


def _executed_node(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for part in (*node.decorator_list, *node.args.defaults, *node.args.kw_defaults):
            if part is not None:
                yield from _executed_node(part)
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, ast.If):
        guard = _guard(node.test)
        if guard != "never":
            yield from _executed_node(node.test)
            yield from _executed(node.body)
        if guard != "always":
            yield from _executed(node.orelse)
        return
    for child in ast.iter_child_nodes(node):
        yield from _executed_node(child)


def _guard(test: ast.expr) -> str:
    """Whether an `if` on import is taken: "never" (the `__main__` guard), "always" or ""."""
    if isinstance(test, ast.Constant):
        return "always" if test.value else "never"
    if isinstance(test, ast.BoolOp):
        parts = {_guard(value) for value in test.values}
        decisive = "never" if isinstance(test.op, ast.And) else "always"
        return decisive if decisive in parts else ""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return {"never": "always", "always": "never"}.get(_guard(test.operand), "")
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return ""
    sides = (test.left, test.comparators[0])
    names = {side.id for side in sides if isinstance(side, ast.Name)}
    words = {side.value for side in sides if isinstance(side, ast.Constant)}
    if "__name__" not in names or "__main__" not in words:
        return ""
    if isinstance(test.ops[0], ast.Eq):
        return "never"
    return "always" if isinstance(test.ops[0], ast.NotEq) else ""
