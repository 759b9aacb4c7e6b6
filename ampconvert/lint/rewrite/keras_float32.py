"""What stays float32 under a mixed policy: outputs, raw features, and layers that insist on it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.lint.callees import is_self_attribute
from ampconvert.lint.rewrite.keras_draft import Draft
from ampconvert.lint.rewrite.keras_outputs import End, Outputs
from ampconvert.lint.rewrite.keras_script import Function, KerasScript
from ampconvert.lint.rewrite.keras_top import Top

_LARGEST = 65504.0  # of float16
_SMALLEST = 2.0**-25  # what is not above it rounds to 0 in float16
_MASK = "3e4"
_LOW = {"float16", "bfloat16", "half"}
# What makes float32 tensors unless it is told otherwise.
_MAKERS = tuple(
    f"{module}.{name}"
    for module, names in {
        "tensorflow": ("ones", "zeros", "eye"),
        "tensorflow.random": ("normal", "uniform", "truncated_normal"),
        "keras.ops": ("ones", "zeros", "eye"),
        "keras.random": ("normal", "uniform", "truncated_normal"),
        "keras.backend": ("random_normal", "random_uniform", "ones", "zeros"),
    }.items()
    for name in names
)
_FLOAT32 = ("tensorflow.float32", "tensorflow.dtypes.float32", "numpy.float32")


class Float32:
    """Plans what is to stay float32, and constants that float16 can't hold."""

    def __init__(self, script: KerasScript, outputs: Outputs, top: Top, draft: Draft) -> None:
        self._script = script
        self._source = script.source
        self._outputs = outputs
        self._top = top
        self._draft = draft
        self._done: set[ast.AST] = set()

    def plan(self) -> None:
        """Everything, in the order of the text."""
        self._low_layers()
        for model in self._script.roots:
            for output in self._outputs.of(model):
                for end in output.ends:
                    self._end(end, model)
        if not any(self._outputs.of(model) for model in self._script.roots):
            self._draft.note("no model's output was found here; it should be float32")
        for call in self._script.layers:
            if self._script.layer(call) == "Normalization":
                self._layer(
                    call, "its inputs are raw features, which float16 overflows above 65504 and "
                    "16 bits round to 3 digits",
                )  # fmt: skip
        self._first_embeddings()
        for owner in self._script.classes("layer", "model"):
            self._class(owner)

    def _low_layers(self) -> None:
        """Layers that are made float16 themselves, weights and all."""
        for call in self._script.layers:
            keyword = self._script.keyword(call, "dtype")
            if keyword is not None and self._source.values.constants(keyword.value) & _LOW:
                self._draft.without_argument(call, keyword)
                self._draft.step(
                    call, f"{self._source.segment(keyword)} removed",
                    "it makes the layer's weights 16 bits wide too, and small updates of them get "
                    "lost; the policy keeps them float32",
                )  # fmt: skip

    def _first_embeddings(self) -> None:
        """Embeddings that a Sequential without Input begins with."""
        exact = 2048 if self._script.dtype == "float16" else 256
        for model in self._script.models:
            if self._script.kind(model) != "sequential":
                continue
            for first in self._script.items(model)[:1]:
                for made in self._script.made(first):
                    if self._script.layer(made) == "Embedding":
                        self._layer(
                            made, "a Sequential without Input casts what it gets to the type of "
                            f"its first layer, and {self._script.dtype} rounds ids above {exact}",
                        )  # fmt: skip

    def _end(self, end: End, model: ast.Call) -> None:
        if end.node in self._done:
            return
        why = "losses and metrics start from it, and in 16 bits it has 3 digits"
        if end.activation in ("softmax", "sigmoid") and not self._is_dropped(end):
            why = (
                f"a {end.activation} in {self._script.dtype} has 3 digits, and the loss takes the "
                "logarithm of it"
            )
        if end.kind == "layer":
            assert isinstance(end.node, ast.Call)
            self._layer(end.node, f"it gives the model's output: {why}")
            return
        self._done.add(end.node)
        text = self._source.segment(end.node)
        what = f"{_short(text)} as float32"
        if end.kind == "eager":
            self._draft.wrap(end.node, self._top.cast("{}", end.node))
        elif end.kind == "symbolic":
            layer = self._top.spelled("layers.Activation", end.node)
            self._draft.wrap(end.node, layer + '("linear", dtype="float32")({})')
        else:
            self._append(end, model)
        self._draft.step(end.node, what, f"it is the model's output: {why}")

    def _is_dropped(self, end: End) -> bool:
        """Whether the activation of an end was taken out: what is left are logits."""
        if end.kind != "layer" or not isinstance(end.node, ast.Call):
            return False
        given = self._outputs.activation_of(end.node)
        return given is not None and self._draft.is_gone(given)

    def _layer(self, call: ast.Call, why: str) -> None:
        """`dtype="float32"` for a layer, unless it has one."""
        if call in self._done:
            return
        self._done.add(call)
        keyword = self._script.keyword(call, "dtype")
        known = set() if keyword is None else self._source.values.constants(keyword.value)
        if keyword is not None and not known & _LOW:
            if known != {"float32"}:
                self._draft.note(
                    f"line {call.lineno}: the output layer has a dtype of its own; it should be "
                    "float32 when training in mixed precision"
                )
            return
        self._draft.argument(call, "dtype", '"float32"')
        name = _short(self._source.segment(call.func))
        self._draft.step(call, f'dtype="float32" for {name}', why)

    def _append(self, end: End, model: ast.Call) -> None:
        """A float32 Activation as another item of a Sequential."""
        layer = f'{self._top.spelled("layers.Activation", end.node)}("linear", dtype="float32")'
        above = self._source.parents[end.node]
        if isinstance(above, ast.List | ast.Tuple):
            self._draft.edit(self._source.edits.after(end.node, f", {layer}"))
            return
        statement = self._source.statement(end.node)
        added = isinstance(above, ast.Call) and isinstance(above.func, ast.Attribute)
        if added and isinstance(statement, ast.Expr) and statement.value is above:
            function = self._source.segment(above.func)  # type: ignore[attr-defined]
            if self._draft.insert_after(statement, [f"{function}({layer})"]):
                return
        raise self._script.refuse(
            end.node, "this layer gives the output of the model and takes no dtype",
            "let its __init__ take **kwargs and give them to super().__init__()",
        )  # fmt: skip

    # Classes of this file.

    def _class(self, owner: ast.ClassDef) -> None:
        """A layer or model of this file: types that it names, and constants out of range."""
        call = self._script.forward(owner)
        if call is None or call not in owner.body:
            return  # a base of it has been or will be looked at
        reached = self._reached(call)
        named = [node for function in reached for node in self._float32_named(function)]
        if named:
            self._named(owner, named[0])
        if self._script.dtype == "float16" and not named:
            for function in reached:
                for node in self._source.walk(function):
                    if isinstance(node, ast.Constant) and node not in self._done:
                        self._done.add(node)
                        self._constant(node)
        for node in self._source.names.methods("add_loss"):
            if self._source.function(node) in reached:
                self._draft.note(
                    f"line {node.lineno}: this loss is computed in {self._script.dtype}; cast "
                    "what it is computed of to float32 first"
                )
        embeds = any(
            self._script.layer(made) == "Embedding"
            for made in self._source.walk(owner, functions=True) if isinstance(made, ast.Call)
        )  # fmt: skip
        if embeds and self._script.family(owner) == "model":
            self._draft.note(
                f"line {owner.lineno}: {owner.name} has an Embedding: give it integers, for ids "
                f"that come as floats are cast to {self._script.dtype} and rounded"
            )

    def _reached(self, call: Function) -> list[Function]:
        """call() and the functions of this file that it calls, directly or not."""
        found = [call]
        for function in found:
            for node in self._source.walk(function):
                if isinstance(node, ast.Call):
                    target = self._source.values.definition(node.func)
                    if isinstance(target, Function) and target not in found:
                        found.append(target)
        return found

    def _float32_named(self, function: Function) -> Iterator[ast.expr]:
        """Where call() makes float32 tensors. Functions of Keras promote types, and PyTorch and JAX
        do so everywhere; TensorFlow doesn't.
        """
        if self._script.backend not in ("tensorflow", ""):
            return
        forward = function.name in ("call", "__call__")
        returned = {*self._source.values.returned(function)} if forward else set()
        for node in self._source.walk(function):
            if isinstance(node, ast.Call) and node not in returned and self._makes_float32(node):
                yield node
            elif is_self_attribute(node) and isinstance(node, ast.Attribute):
                yield from (node for made in self._script.made(node) if self._makes_float32(made))

    def _makes_float32(self, call: ast.Call) -> bool:
        names = self._source.names.all_of(call.func)
        typed = self._script.keyword(call, "dtype") is not None or len(call.args) > 3
        if "tensorflow.Variable" in names or (not typed and names & {*_MAKERS}):
            return True
        given = [*call.args, *(k.value for k in call.keywords)]
        return any(name.startswith("tensorflow.") for name in names) and any(
            self._source.names.is_one(one, *_FLOAT32)
            or (isinstance(one, ast.Constant) and one.value == "float32")
            for one in given
        )

    def _named(self, owner: ast.ClassDef, where: ast.expr) -> None:
        """A class whose call() makes float32 tensors: TensorFlow mixes no types."""
        why = (
            f"{owner.name}.call() makes a float32 tensor in line {where.lineno}, and TensorFlow "
            f"multiplies or adds no {self._script.dtype} with it"
        )
        composite = self._script.has_parts(owner) or self._script.family(owner) == "model"
        if composite and self._script.backend == "":
            self._draft.note(f"line {where.lineno}: {why}; give it the dtype of its input")
            return
        made = [c for c in self._source.values.calls_of(owner) if self._script.own(c) is owner]
        if composite:
            raise self._script.refuse(
                where, why, "let it follow its input there: x.dtype, or self.compute_dtype"
            )
        if made and all(self._outputs.takes_dtype(call) for call in made):
            for call in made:
                self._layer(call, why)
            return
        start = self._source.values.method(owner, "__init__")
        supers = [
            node for node in (self._source.walk(start) if start is not None else ())
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            and node.func.attr == "__init__" and not any(k.arg is None for k in node.keywords)
        ]  # fmt: skip
        if len(supers) != 1:
            raise self._script.refuse(
                where, why, "let it follow its input there: x.dtype, or self.compute_dtype"
            )
        if self._script.keyword(supers[0], "dtype") is None:
            self._draft.argument(supers[0], "dtype", '"float32"')
            self._draft.step(supers[0], f'dtype="float32" for {owner.name}', why)

    def _constant(self, node: ast.Constant) -> None:
        """A number in call() that float16 can't hold."""
        value = node.value
        if not isinstance(value, float) or not self._is_operand(node):
            return
        if abs(value) > _LARGEST:
            whole = self._masking(node)
            if whole is None:
                self._draft.note(
                    f"line {node.lineno}: {value:g} is infinite in float16, whose largest number "
                    "is 65504"
                )
                return
            sign = "-" if isinstance(whole, ast.UnaryOp) else ""
            text = f"({sign}{_MASK} if {self._top.switch} else {self._source.segment(whole)})"
            self._draft.replace(whole, text)
            self._draft.step(
                node, f"{sign}{_MASK} instead of {sign}{value:g}",
                f"{sign}{value:g} is {sign}infinity in float16, and 0 times that is NaN; a softmax "
                f"gives 0 for {sign}{_MASK} as well",
            )  # fmt: skip
        elif 0 < abs(value) <= _SMALLEST:
            self._draft.note(
                f"line {node.lineno}: {value:g} is 0 in float16; take 1e-6 or more, or give this "
                'layer dtype="float32"'
            )

    def _is_operand(self, node: ast.expr) -> bool:
        """Whether a number meets a tensor: in a sum or product, or in where(...)."""
        above = self._source.parents[node]
        if isinstance(above, ast.UnaryOp):
            above = self._source.parents[above]
        if isinstance(above, ast.BinOp):
            return not all(self._source.values.numbers(side) for side in (above.left, above.right))
        return isinstance(above, ast.Call) and any(
            name.endswith((".where", ".maximum")) for name in self._source.names.all_of(above.func)
        )

    def _masking(self, node: ast.Constant) -> ast.expr | None:
        """A large constant that masks: negative, or in a product that is subtracted."""
        above = self._source.parents[node]
        if isinstance(above, ast.UnaryOp) and isinstance(above.op, ast.USub):
            return above
        if isinstance(above, ast.BinOp) and isinstance(above.op, ast.Mult):
            outer = self._source.parents[above]
            if isinstance(outer, ast.BinOp) and isinstance(outer.op, ast.Sub):
                return node if outer.right is above else None
        return None


def _short(text: str) -> str:
    """A text for a message: one line, and not a long one."""
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:37] + "..."
