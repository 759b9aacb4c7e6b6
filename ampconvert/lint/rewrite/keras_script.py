"""A Keras script, read: which Keras it uses, and which of its calls make layers and models."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from ampconvert.errors import UserError
from ampconvert.lint.source import Source

Function = ast.FunctionDef | ast.AsyncFunctionDef
Low = Literal["float16", "bfloat16"]
Kind = Literal["sequential", "functional", "own", "application", "clone", "loaded"]

_SEQUENTIAL = ("keras.Sequential", "keras.models.Sequential")
_FUNCTIONAL = ("keras.Model", "keras.models.Model", "keras.Functional")
_LOADED = ("keras.models.load_model", "keras.saving.load_model", "keras.models.model_from_json",
           "keras.models.model_from_config", "tensorflow.saved_model.load")  # fmt: skip
_CLONE = ("keras.models.clone_model",)
_LAYER_BASES = ("keras.layers.*", "keras.Layer", "keras.engine.base_layer.Layer")
_ROOTS = ("tensorflow.keras", "tf_keras", "keras")


class KerasScript:
    """One script. Raises UserError, through `refuse`, where it can't be followed."""

    def __init__(self, source: Source, dtype: Low) -> None:
        self.source = source
        self.dtype = dtype

    @property
    def policy(self) -> str:
        """The policy that is to be set."""
        return f"mixed_{self.dtype}"

    def refuse(self, node: ast.AST | None, why: str, instead: str) -> UserError:
        """The error that says where, why not, and what to do."""
        line = getattr(node, "lineno", 0)
        place = f"{self.source.path}:{line}" if line else self.source.path
        return UserError(f"{place}: {why}; {instead}")

    @cached_property
    def root(self) -> str:
        """The Keras of which the layers are: "keras", "tensorflow.keras" or "tf_keras"."""
        made = [*self.layers, *(call for call in self.models if self.kind(call) != "own")]
        names = [self.imported(call.func) for call in made]
        names += [self.imported(base) for c in self.source.nodes(ast.ClassDef) for base in c.bases]
        found = Counter(
            root for name in names for root in _ROOTS if (name + ".").startswith(root + ".")
        )
        return found.most_common(1)[0][0] if found else "keras"

    @cached_property
    def is_legacy(self) -> bool:
        """Whether this is Keras 2 for certain, whose optimizers scale losses another way."""
        if self.root == "tf_keras" or self.source.names.references("keras.optimizers.legacy"):
            return True
        return any(
            isinstance(node.value, str) and node.value == "TF_USE_LEGACY_KERAS"
            for node in self.source.nodes(ast.Constant)
        )

    @cached_property
    def layers(self) -> list[ast.Call]:
        """The calls that make a layer of Keras or of a class of this file."""
        return [call for call in self.source.nodes(ast.Call) if self.is_layer(call)]

    @cached_property
    def models(self) -> list[ast.Call]:
        """The calls that make, clone or load a model."""
        return [call for call in self.source.nodes(ast.Call) if self.kind(call)]

    @cached_property
    def backend(self) -> str:
        """Which backend runs the layers: "tensorflow", "torch", "jax"; "" if the script doesn't
        say.
        """
        imports = self.source.names.imports
        if self.root != "keras" or imports("tensorflow", "tensorflow.*"):
            return "tensorflow"
        for constant in self.source.nodes(ast.Constant):
            if constant.value == "KERAS_BACKEND":
                statement = self.source.statement(constant)
                named = {
                    n.value for n in self.source.walk(statement) if isinstance(n, ast.Constant)
                }
                return next((b for b in ("torch", "jax", "tensorflow") if b in named), "")
        return next((b for b in ("torch", "jax") if imports(b, f"{b}.*")), "")

    def is_layer(self, call: ast.Call) -> bool:
        """Whether `call` makes a layer, a model excepted."""
        if self.layer(call):
            return self.layer(call) not in ("Input", "InputLayer")
        owner = self.own(call)
        return owner is not None and self.family(owner) == "layer"

    def layer(self, call: ast.Call) -> str:
        """The name of the class of keras.layers that `call` makes; "" for any other call."""
        for name in self.source.names.all_of(call.func):
            last = name.rpartition(".")[2]
            if name.startswith("keras.layers.") and last[:1].isupper():
                return last
        return ""

    def kind(self, call: ast.Call) -> Kind | Literal[""]:
        """What sort of model `call` makes; "" where it makes none."""
        is_one = self.source.names.is_one
        if is_one(call.func, *_SEQUENTIAL):
            return "sequential"
        if is_one(call.func, *_FUNCTIONAL):
            return "functional"
        if is_one(call.func, *_LOADED):
            return "loaded"
        if is_one(call.func, *_CLONE):
            return "clone"
        for name in self.source.names.all_of(call.func):
            if name.startswith("keras.applications.") and name.rpartition(".")[2][:1].isupper():
                return "application"
        owner = self.own(call)
        if owner is None or self.family(owner) != "model":
            return ""
        has_call = self.forward(owner) is not None
        return "own" if has_call or not (call.args or call.keywords) else self._inherited(owner)

    def _inherited(self, owner: ast.ClassDef) -> Kind:
        """A class without call(): `Model(inputs, outputs)` or Sequential by another name, unless it
        has its own arguments.
        """
        start = self.source.values.method(owner, "__init__")
        if start is not None and (start.args.vararg is None or len(start.args.args) > 1):
            return "own"
        bases = [base for one in self.source.values.lineage(owner) for base in one.bases]
        sequential = any(self.source.names.is_one(base, *_SEQUENTIAL) for base in bases)
        return "sequential" if sequential else "functional"

    def outputs_inside(self, owner: ast.ClassDef) -> ast.expr | None:
        """The outputs that __init__ of a model's class gives to `super().__init__`."""
        start = self.source.values.method(owner, "__init__")
        for node in self.source.walk(start) if start is not None else ():
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr == "__init__" and isinstance(node.func.value, ast.Call):
                return self.given(node, "outputs", 1)
        return None

    def items(self, model: ast.Call) -> list[ast.expr]:
        """The layers of a Sequential, in order: its list, and what is added to list or model."""
        given = self.given(model, "layers", 0)
        found: list[ast.expr] = []
        holders: list[ast.expr] = [model]
        if given is not None:
            for value in self.source.values.of(given):
                found += self._elements(value)
                holders.append(value)
        for call in self.source.names.methods("add", "append", "extend"):
            assert isinstance(call.func, ast.Attribute)
            if len(call.args) != 1 or not {*self.source.values.of(call.func.value)} & {*holders}:
                continue
            if call.func.attr == "extend":
                found += [e for v in self.source.values.of(call.args[0]) for e in self._elements(v)]
            else:
                found.append(call.args[0])
        return found

    def _elements(self, value: ast.expr) -> list[ast.expr]:
        """The items of a list, of sums of lists and of lists with a star."""
        if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
            both = (value.left, value.right)
            return [e for side in both for v in self.source.values.of(side)
                    for e in self._elements(v)]  # fmt: skip
        if not isinstance(value, ast.List | ast.Tuple):
            return [value] if isinstance(value, ast.ListComp) else []
        found: list[ast.expr] = []
        for element in value.elts:
            if isinstance(element, ast.Starred):
                inner = self.source.values.of(element.value)
                found += [e for v in inner for e in self._elements(v)]
            else:
                found.append(element)
        return found

    def forward(self, owner: ast.ClassDef) -> Function | None:
        """What a layer or model of a class of this file computes: call(), or its own __call__()."""
        method = self.source.values.method
        return method(owner, "call") or method(owner, "__call__")

    def has_parts(self, owner: ast.ClassDef) -> bool:
        """Whether a class makes layers itself, which have types of their own."""
        return any(
            isinstance(node, ast.Call) and self.is_layer(node)
            for one in self.source.values.lineage(owner)
            for node in self.source.walk(one, functions=True)
        )

    def own(self, call: ast.Call) -> ast.ClassDef | None:
        """The class of this file of which `call` makes an instance."""
        defined = self.source.values.definition(call.func)
        return defined if isinstance(defined, ast.ClassDef) else None

    def family(self, owner: ast.ClassDef) -> Literal["model", "layer", ""]:
        """Whether a class of this file is a model or a layer."""
        bases = [base for one in self.source.values.lineage(owner) for base in one.bases]
        is_one = self.source.names.is_one
        if any(is_one(base, *_FUNCTIONAL, *_SEQUENTIAL) for base in bases):
            return "model"
        return "layer" if any(is_one(base, *_LAYER_BASES) for base in bases) else ""

    def classes(self, *families: str) -> list[ast.ClassDef]:
        """The layer or model classes of this file."""
        return [c for c in self.source.nodes(ast.ClassDef) if self.family(c) in families]

    def made(self, expression: ast.expr) -> list[ast.Call]:
        """The calls that may have made what `expression` is."""
        return [v for v in self.source.values.of(expression) if isinstance(v, ast.Call)]

    def models_of(self, expression: ast.expr) -> list[ast.Call]:
        """The calls that may have made the model `expression`."""
        return [call for call in self.made(expression) if self.kind(call)]

    def keyword(self, call: ast.Call, name: str) -> ast.keyword | None:
        """A keyword argument of a call."""
        return next((k for k in call.keywords if k.arg == name), None)

    def given(self, call: ast.Call, name: str, position: int) -> ast.expr | None:
        """An argument of a call by its name or position."""
        keyword = self.keyword(call, name)
        if keyword is not None:
            return keyword.value
        at = call.args[position : position + 1]
        return at[0] if at and not isinstance(at[0], ast.Starred) else None

    @cached_property
    def loops(self) -> list[Function | ast.Module]:
        """Where a training loop by hand may stand: around a tape or a backward pass."""
        names = self.source.names
        marks: list[ast.AST] = [*names.calls("tensorflow.GradientTape")]
        marks += [c for c in names.methods("backward") if not c.args]
        marks += [*names.calls("jax.grad", "jax.value_and_grad")]
        found = {self.source.function(mark) or self.source.tree for mark in marks}
        steps = ("train_step", "test_step")
        found |= {f for f in self.source.nodes(ast.FunctionDef) if f.name in steps}
        return sorted(found, key=lambda f: getattr(f, "lineno", 0))

    @cached_property
    def roots(self) -> list[ast.Call]:
        """The models that are trained or run here for themselves, not as a part of another one."""
        found: dict[ast.Call, None] = {}
        used = ("compile", "fit", "train_on_batch", "evaluate", "predict", "predict_on_batch")
        for call in self.source.names.methods(*used):
            assert isinstance(call.func, ast.Attribute)
            found |= dict.fromkeys(self.models_of(call.func.value))
        for function in self._reached(self.loops):
            for node in self.source.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                    found |= dict.fromkeys(self.models_of(node.func))
        if not found:
            found |= dict.fromkeys(call for call in self.models if not self._is_part(call))
        return sorted(found, key=lambda call: (call.lineno, call.col_offset))

    def _reached(self, areas: list[Function | ast.Module]) -> list[Function | ast.Module]:
        """Loops, and the functions of this file that they run, methods of models included; call()
        excepted, in which a model uses its parts.
        """
        found = [*areas]
        for area in found:
            for node in self.source.walk(area):
                if isinstance(node, ast.Call):
                    found += [
                        t
                        for t in self._targets(node)
                        if t not in found and t.name not in ("call", "__call__")
                    ]
        return found

    def _targets(self, call: ast.Call) -> Iterator[Function]:
        target = self.source.values.definition(call.func)
        if isinstance(target, Function):
            yield target
        elif isinstance(call.func, ast.Attribute):
            for model in self.models_of(call.func.value):
                owner = self.own(model)
                method = None
                if owner is not None:
                    method = self.source.values.method(owner, call.func.attr)
                if method is not None:
                    yield method

    def _is_part(self, model: ast.Call) -> bool:
        """Whether a model is called or held by a layer or another model."""
        for call in self.source.nodes(ast.Call):
            if call is not model and model in self.source.values.of(call.func):
                return True
        return any(isinstance(a, ast.Call) and self.kind(a) for a in self.source.ancestors(model))

    def imported(self, expression: ast.expr, left: int = 8) -> str:
        """The dotted name of `expression` as it is imported: "tensorflow.keras.layers.Dense".

        At most `left` aliases of aliases are followed.
        """
        if isinstance(expression, ast.Attribute):
            base = self.imported(expression.value, left)
            return f"{base}.{expression.attr}" if base else ""
        if isinstance(expression, ast.Name) and left:
            bindings = self.source.scopes.bindings(expression)
            if len(bindings) == 1 and bindings[0].how == "import":
                return bindings[0].target
            if len(bindings) == 1 and bindings[0].value is not None and not bindings[0].path:
                return self.imported(bindings[0].value, left - 1)
        return ""

    def loads(self, name: ast.Name) -> Iterator[ast.Name]:
        """The places that read what `name`, an assignment's target, is given there."""
        for node in self.source.nodes(ast.Name):
            is_read = node.id == name.id and isinstance(node.ctx, ast.Load)
            if is_read and any(b.node is name for b in self.source.scopes.bindings(node)):
                yield node
