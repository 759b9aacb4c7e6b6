"""What computes the outputs of a Keras model: its last layers, or expressions after them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ampconvert.lint.rewrite.keras_script import KerasScript

# Layers that move or drop elements: what they pass on was computed by the layer before.
_PASSIVE = frozenset({
    "Flatten", "Reshape", "Permute", "Dropout", "SpatialDropout1D", "SpatialDropout2D",
    "Cropping1D", "Cropping2D", "ZeroPadding1D", "ZeroPadding2D", "UpSampling1D", "UpSampling2D",
    "RepeatVector",
})  # fmt: skip
_INPUTS = ("keras.Input", "keras.layers.Input", "keras.layers.InputLayer")
_TENSORS = (ast.BinOp, ast.Attribute, ast.Subscript, ast.UnaryOp)
_WRAPPERS = frozenset({"TimeDistributed", "Bidirectional"})
_ACTIVATIONS = ("softmax", "sigmoid")
# Functions whose result is as exact as their first argument.
_FUNCTIONS = {
    **{f"{module}.{name}": name for name in _ACTIVATIONS for module in (
        "keras.activations", "keras.ops", "keras.ops.nn", "keras.backend", "tensorflow.nn",
        "tensorflow", "tensorflow.math")},
    **{f"{module}.{name}": "" for name in ("reshape", "squeeze", "expand_dims", "transpose")
       for module in ("keras.ops", "keras.backend", "tensorflow")},
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class End:
    """Something that computes an output.

    "layer": `node` is the call that makes the layer. "symbolic" and "eager": `node` is the output
    itself, of a functional model or in call(). "element": `node` is the last item of a Sequential
    that takes no dtype. `activation` is the one that it ends with, "" where that isn't known.
    """

    kind: Literal["layer", "symbolic", "eager", "element"]
    node: ast.expr
    activation: str = ""
    passive: bool = False


@dataclass(frozen=True, eq=False)
class Output:
    """One output: its name, which losses may go by, and what may compute it."""

    name: str
    ends: tuple[End, ...]

    @property
    def activation(self) -> str:
        """The one activation that this output ends with, or ""."""
        found = {end.activation for end in self.ends if not end.passive}
        return found.pop() if len(found) == 1 else ""


class Outputs:
    """Finds the outputs of models. Raises UserError where they can't be told."""

    def __init__(self, script: KerasScript) -> None:
        self._script = script
        self._source = script.source
        self._known: dict[ast.Call, list[Output]] = {}

    def of(self, model: ast.Call) -> list[Output]:
        """The outputs of the model that a call makes; none for one that is loaded, or that has
        no call() and is only trained by its own train_step.
        """
        if model not in self._known:
            self._known[model] = []  # ends circles
            self._known[model] = self._find(model)
        return self._known[model]

    def _find(self, model: ast.Call) -> list[Output]:
        kind = self._script.kind(model)
        if kind == "sequential":
            return self._of_sequential(model)
        if kind == "functional":
            outputs = self._script.given(model, "outputs", 1)
            if outputs is None:
                raise self._unknown(model)
            return list(self._of_expression(outputs, "symbolic"))
        if kind == "clone" and model.args:
            return [o for made in self._script.models_of(model.args[0]) for o in self.of(made)]
        if kind == "application":
            self._refuse_whole_application(model)
        if kind == "own":
            return self._of_class(model)
        return []

    def _of_sequential(self, model: ast.Call) -> list[Output]:
        for call in self._source.names.methods("pop", "insert"):
            assert isinstance(call.func, ast.Attribute)
            base = call.func.value
            if isinstance(base, ast.Attribute) and base.attr in ("layers", "_layers"):
                base = base.value
            if model in self._source.values.of(base):
                raise self._script.refuse(
                    call, "the layers of this model are taken out or moved after they were added, "
                    "so its output layer can't be told", "build the model as it is to be",
                )  # fmt: skip
        items = self._script.items(model)
        if not items:
            raise self._unknown(model)
        ends: list[End] = []
        name = ""
        for item in reversed(items):
            new = list(self._of_item(model, item))
            ends += new
            name = name or next(
                (self._name(e.node) for e in new if isinstance(e.node, ast.Call)), ""
            )
            active = not new or not all(end.passive for end in new)
            if active and not self._is_conditional(model, item):
                break
        return [Output(name, tuple(ends))]

    def _of_item(self, model: ast.Call, item: ast.expr) -> Iterator[End]:
        """The ends that an item of a Sequential has."""
        for made in self._source.values.of(item):
            if not isinstance(made, ast.Call):
                raise self._unknown(item)
            if self._script.kind(made):
                yield from (end for output in self.of(made) for end in output.ends)
            elif self._script.is_layer(made):
                in_loop = self._source.inside(item, ast.For, ast.While)
                if in_loop is not None and in_loop is not self._source.inside(
                    model, ast.For, ast.While
                ):
                    raise self._script.refuse(
                        item, "the last layer is added in a loop, so that all of the loop's would "
                        "have to be float32", "add the output layer after the loop",
                    )  # fmt: skip
                yield from self._of_layer(made, End("element", item))
            elif self._source.names.is_one(made.func, *_INPUTS):
                continue
            else:
                raise self._unknown(made)

    def _of_class(self, model: ast.Call) -> list[Output]:
        """Of a class with call(): what that returns."""
        owner = self._script.own(model)
        method = self._script.forward(owner) if owner is not None else None
        if method is None:
            outputs = self._script.outputs_inside(owner) if owner is not None else None
            return [] if outputs is None else list(self._of_expression(outputs, "symbolic"))
        found: list[Output] = []
        for returned in self._source.values.returned(method):
            new = list(self._of_expression(returned, "eager"))
            found = _joined(found, new) if found else new
        return found

    def _of_expression(
        self, expression: ast.expr, kind: Literal["symbolic", "eager"], name: str = ""
    ) -> Iterator[Output]:
        """The outputs that an expression gives: of a list or dict one for each item."""
        values = self._source.values.of(expression)
        if len(values) == 1:
            (value,) = values
            if isinstance(value, ast.List | ast.Tuple):
                for element in value.elts:
                    yield from self._of_expression(element, kind)
                return
            if isinstance(value, ast.Dict):
                for key, element in zip(value.keys, value.values, strict=True):
                    inner = str(key.value) if isinstance(key, ast.Constant) else ""
                    yield from self._of_expression(element, kind, inner)
                return
            if isinstance(value, ast.ListComp):
                yield from self._of_expression(value.elt, kind)
                return
            if isinstance(value, ast.Call):
                found = [o for m in self._script.models_of(value.func) for o in self.of(m)]
                if found:
                    yield from found
                    return
        ends = [end for v in values for end in self._of_tensor(v, End(kind, expression))]
        named = next(
            (self._name(e.node) for e in ends if e.kind == "layer" and not e.passive
             and isinstance(e.node, ast.Call)), "",
        )  # fmt: skip
        yield Output(name or named, tuple(ends))

    def _of_tensor(self, value: ast.expr, whole: End) -> Iterator[End]:
        """What computes one tensor; `whole` is the output itself, if it has to be cast."""
        if isinstance(value, ast.Constant) and value.value is None:
            return
        if isinstance(value, ast.Call):
            yield from self._of_call(value, whole)
        elif isinstance(value, _TENSORS) or (whole.kind == "eager" and self._is_parameter(value)):
            yield whole
        elif isinstance(value, ast.Name):
            yield from self._of_unpacked(value, whole)
        else:
            raise self._unknown(value)

    def _of_unpacked(self, name: ast.Name, whole: End) -> Iterator[End]:
        """One of several outputs: `image, kind = model(x)`, `x, state = lstm(x)`."""
        for binding in self._source.scopes.bindings(name):
            made = binding.value
            if binding.how != "value" or not binding.path or not isinstance(made, ast.Call):
                raise self._unknown(name)
            models = self._script.models_of(made.func)
            outputs = [self.of(model)[binding.path[0] :] for model in models]
            layers = [one for one in self._script.made(made.func) if self._script.is_layer(one)]
            if models and all(outputs):
                yield from (end for few in outputs for end in few[0].ends)
            elif models or layers or self._is_tensor_made(made, whole):
                yield whole
            else:
                raise self._unknown(name)

    def _is_parameter(self, value: ast.expr) -> bool:
        """Whether a name is an input of call(): `x = layer(x)` in a loop may not run."""
        if not isinstance(value, ast.Name):
            return False
        return any(b.how == "parameter" for b in self._source.scopes.bindings(value))

    def _of_call(self, value: ast.Call, whole: End) -> Iterator[End]:
        script, names = self._script, self._source.names
        models = script.models_of(value.func)
        ends = [end for made in models for output in self.of(made) for end in output.ends]
        layers = [made for made in script.made(value.func) if script.is_layer(made)]
        function = next((n for n in names.all_of(value.func) if n in _FUNCTIONS), "")
        if models:
            yield from ends or [whole]
        elif names.is_one(value.func, *_INPUTS):
            return
        elif self._is_element(value.func):
            yield whole  # for layer in self.layers: x = layer(x)
        elif layers:
            for made in layers:
                if self._is_repeated(made, whole):
                    yield whole
                    continue
                for end in self._of_layer(made, whole):
                    yield end
                    if end.passive and value.args:
                        for before in self._source.values.of(value.args[0]):
                            yield from self._of_tensor(before, whole)
        elif function and value.args:
            below = [
                end for v in self._source.values.of(value.args[0])
                for end in self._of_tensor(v, whole)
            ]  # fmt: skip
            activation = _FUNCTIONS[function]
            for end in below:
                yield replace(end, activation=activation) if activation else end
        elif any(n.startswith("keras.layers.") for n in names.all_of(value.func)):
            yield End("layer", value)  # layers.add([a, b])
        elif self._is_tensor_made(value, whole):
            yield whole
        else:
            raise self._unknown(value)

    def _is_repeated(self, made: ast.Call, whole: End) -> bool:
        """Whether a layer is one of many that a loop makes, of which only the last is the end."""
        loop = self._source.inside(made, ast.For, ast.While)
        return loop is not None and loop not in self._source.ancestors(whole.node)

    def _is_tensor_made(self, value: ast.Call, whole: End) -> bool:
        """Whether a call gives one tensor, though nothing tells of which layer."""
        function = value.func
        known = self._source.names.all_of(function)
        if any(n.startswith(("tensorflow.", "keras.ops.", "keras.backend.")) for n in known):
            return True
        if whole.kind != "eager":
            return False
        if isinstance(function, ast.Subscript):
            return True  # self.blocks[-1](x)
        return isinstance(function, ast.Attribute) and function.attr == "call"  # super().call(x)

    def _is_element(self, function: ast.expr) -> bool:
        return isinstance(function, ast.Name) and any(
            b.how == "element" for b in self._source.scopes.bindings(function)
        )

    def _of_layer(self, made: ast.Call, whole: End) -> Iterator[End]:
        """A layer as an end, with the layer that it wraps; `whole` if it takes no dtype."""
        name = self._script.layer(made)
        if not name and not self.takes_dtype(made):
            yield whole
            return
        activation = self.activation(made)
        yield End("layer", made, activation, name in _PASSIVE)
        if name in _WRAPPERS and made.args:
            for inner in self._script.made(made.args[0]):
                if self._script.layer(inner):
                    yield End("layer", inner, self.activation(inner), passive=True)

    def takes_dtype(self, made: ast.Call) -> bool:
        """Whether a layer of a class of this file takes the argument dtype, and computes in it: its
        parts, if it has any, don't.
        """
        owner = self._script.own(made)
        if owner is not None and self._script.has_parts(owner):
            return False
        start = self._source.values.method(owner, "__init__") if owner is not None else None
        if start is None:
            return owner is not None
        arguments = [*start.args.args, *start.args.kwonlyargs]
        if any(a.arg == "dtype" for a in arguments):
            return True
        name = start.args.kwarg.arg if start.args.kwarg is not None else ""
        return bool(name) and any(
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__"
            and any(k.arg is None and isinstance(k.value, ast.Name) and k.value.id == name
                    for k in node.keywords)
            for node in self._source.walk(start)
        )  # fmt: skip

    def activation(self, made: ast.Call) -> str:
        """The activation of a layer: "softmax", "linear"; "" where it isn't known."""
        name = self._script.layer(made)
        if name in _WRAPPERS and made.args:
            inner = [c for c in self._script.made(made.args[0]) if self._script.layer(c)]
            return self.activation(inner[0]) if len(inner) == 1 else ""
        if name == "Softmax":
            return "softmax"
        given = self.activation_of(made)
        if given is None:
            return "linear" if name in ("Dense", "Activation") or name.startswith("Conv") else ""
        values = self._source.values.of(given)
        found = {
            str(v.value or "linear").lower() if isinstance(v, ast.Constant)
            else self._source.names.of(v.func if isinstance(v, ast.Call) else v)
            .rpartition(".")[2].lower()
            for v in values
        }  # fmt: skip
        return found.pop() if len(found) == 1 else ""

    def activation_of(self, made: ast.Call) -> ast.expr | None:
        """The argument that gives a layer its activation."""
        position = {"Activation": 0, "Dense": 1}.get(self._script.layer(made), len(made.args))
        return self._script.given(made, "activation", position)

    def _is_conditional(self, model: ast.Call, item: ast.expr) -> bool:
        """Whether an item may be left out: it is added under an `if` which isn't the model's."""
        under = self._source.inside(item, ast.If)
        return under is not None and under not in self._source.ancestors(model)

    def _name(self, node: ast.Call) -> str:
        keyword = self._script.keyword(node, "name")
        known = keyword is not None and isinstance(keyword.value, ast.Constant)
        return str(keyword.value.value) if known else ""  # type: ignore[union-attr]

    def _refuse_whole_application(self, model: ast.Call) -> None:
        top = self._script.keyword(model, "include_top")
        if top is not None and self._source.values.constants(top.value) == {False}:
            return
        raise self._script.refuse(
            model, "the output layer of this model is made inside of keras.applications, and can't "
            'be given dtype="float32"', "take include_top=False and add your own "
            'Dense(classes, activation="softmax") behind it',
        )  # fmt: skip

    def _unknown(self, node: ast.AST) -> Exception:
        return self._script.refuse(
            node, "nothing tells which layer gives the model's output from here on, and that has "
            "to be float32", "make the output layer in this file and let the model end with it",
        )  # fmt: skip


def _joined(some: Sequence[Output], others: Sequence[Output]) -> list[Output]:
    """The outputs of two ways through a function, one by one where there are as many."""
    if len(some) != len(others):
        return [*some, *others]
    return [Output(a.name, (*a.ends, *b.ends)) for a, b in zip(some, others, strict=True)]
