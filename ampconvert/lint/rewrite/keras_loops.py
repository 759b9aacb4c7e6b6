"""Training loops by hand: losses scaled for float16, and optimizers that take the scale back."""

from __future__ import annotations

import ast
import re

from ampconvert.lint.rewrite.keras_draft import Draft
from ampconvert.lint.rewrite.keras_optimizers import UNSCALED, Applied, Optimizers
from ampconvert.lint.rewrite.keras_script import KerasScript
from ampconvert.lint.rewrite.keras_top import Top

_TAPE = "tensorflow.GradientTape"
_VARIABLES = frozenset({"trainable_variables", "trainable_weights", "variables", "weights"})
_WHY = (
    "small gradients are 0 in float16; the optimizer divides by the scale again, and skips steps "
    "that overflowed"
)


class Loops:
    """Plans loss scaling where no compile() and fit() does it. For float16 only."""

    def __init__(self, script: KerasScript, top: Top, draft: Draft) -> None:
        self._script = script
        self._source = script.source
        self._top = top
        self._draft = draft
        self._names: dict[tuple[ast.AST, str, str], str] = {}
        self._optimizers = Optimizers(script, top, draft)
        self._renamed: set[ast.AST] = set()

    def plan(self) -> None:
        """Every loop. Raises UserError for one that scaling would break."""
        names = self._source.names
        for call in [*names.calls("jax.grad", "jax.value_and_grad"),
                     *names.methods("stateless_apply")]:  # fmt: skip
            raise self._script.refuse(
                call, "a training loop in JAX keeps the loss scale in the optimizer's variables, "
                "which have to be threaded through it by hand", UNSCALED,
            )  # fmt: skip
        for call in names.methods("gradient"):
            assert isinstance(call.func, ast.Attribute)
            tape = self._tape(call.func.value)
            if tape is not None:
                self._gradient(call, tape)
        for call in names.methods("backward"):
            if not names.of(call.func):
                self._backward(call)
        for call in names.methods("minimize"):
            assert isinstance(call.func, ast.Attribute)
            if self._optimizers.is_optimizer(call.func.value):
                self._optimizers.with_scaling(
                    call.func.value
                )  # Keras 2: minimize() scales by itself then

    def plan_unscaled(self) -> None:
        """For bfloat16: loops that scale for float16 do so no more."""
        for call in self._source.names.methods("get_scaled_loss", "get_unscaled_gradients"):
            if call.args:
                self._draft.unwrap(call, call.args[0])
                self._draft.step(
                    call, f"{_attribute(call)} removed",
                    "bfloat16 has float32's range: no loss scaling is needed",
                )  # fmt: skip

    # TensorFlow's tape.

    def _tape(self, name: ast.expr) -> ast.With | None:
        """The `with tf.GradientTape() as name`."""
        if not isinstance(name, ast.Name):
            return None
        for binding in self._source.scopes.bindings(name):
            value = binding.value
            if not isinstance(value, ast.Call) or not self._source.names.is_one(value.func, _TAPE):
                continue
            if binding.how != "context":
                raise self._script.refuse(
                    value, "this tape is made before its `with`",
                    "write `with tf.GradientTape() as tape:`",
                )  # fmt: skip
            return self._source.inside(value, ast.With)
        return None

    def _gradient(self, call: ast.Call, tape: ast.With) -> None:
        target = self._script.given(call, "target", 0)
        sources = self._script.given(call, "sources", 1)
        if target is None or sources is None:
            raise self._script.refuse(call, "nothing tells what is derived by what here", UNSCALED)
        scaled = [v for v in self._script.made(target) if _attribute(v) == "get_scaled_loss"]
        if scaled:
            self._rename(call, scaled)
            return
        if self._is_scaled(target):
            return
        steps = self._optimizers.applied
        applied = [a for a in steps if call in self._source.values.of(a.gradients)]
        if not applied and not self._are_variables(sources):
            self._refuse_penalty(call, tape)
            self._draft.note(
                f"line {call.lineno}: this gradient is not scaled, and parts of it below 6e-8 are "
                "0 in float16; if that matters, use --dtype bfloat16"
            )
            return
        if self._script.is_legacy:  # they are divided by the scale at once, and may be changed then
            function = self._source.function(call)
            beside = [a for a in steps if self._source.function(a.call) is function]
            applied = applied or beside
        if len({self._source.segment(a.optimizer) for a in applied}) != 1:
            raise self._changed(call)
        optimizer = applied[0].optimizer
        if not self._script.is_legacy:
            self._refuse_readers([a.gradients for a in applied])
        self._optimizers.with_scaling(optimizer)
        text, loss = self._source.segment(optimizer), self._source.segment(target)
        if self._script.is_legacy:
            made = f"{text}.get_scaled_loss({loss}) if {self._top.switch} else {loss}"
            self._unscale(call, text)
        else:
            made = f"{text}.scale_loss({loss})"
            if self._script.root == "tensorflow.keras":
                self._draft.note(
                    f"line {call.lineno}: scale_loss() needs TensorFlow 2.16 or later, with Keras 3"
                )
        self._scale(tape, call, target, text, made)

    def _is_scaled(self, loss: ast.expr) -> bool:
        """Whether the script calls scale_loss() itself: only its optimizer is to scale then."""
        scaled = [v for v in self._script.made(loss) if _attribute(v) == "scale_loss"]
        for call in scaled:
            assert isinstance(call.func, ast.Attribute)
            self._optimizers.with_scaling(call.func.value)
        return bool(scaled)

    def _are_variables(self, sources: ast.expr) -> bool:
        """Whether gradients are of weights, and not of inputs."""
        for value in self._source.values.of(sources):
            for node in [value, *self._source.walk(value)]:
                if isinstance(node, ast.Attribute) and node.attr in _VARIABLES:
                    return True
        return False

    def _refuse_penalty(self, call: ast.Call, tape: ast.With) -> None:
        """Of a gradient of an input, which is part of a loss where another tape watches."""
        for outer in self._source.ancestors(tape):
            if isinstance(outer, ast.With) and any(
                isinstance(i.context_expr, ast.Call)
                and self._source.names.is_one(i.context_expr.func, _TAPE) for i in outer.items
            ):  # fmt: skip
                raise self._penalty(call)
        function = self._source.function(call)
        for inner in self._source.values.calls_of(function) if function is not None else ():
            if self._is_under_a_tape(inner):
                raise self._penalty(call)

    def _is_under_a_tape(self, call: ast.Call) -> bool:
        return any(
            isinstance(above, ast.With) and any(
                isinstance(i.context_expr, ast.Call)
                and self._source.names.is_one(i.context_expr.func, _TAPE) for i in above.items)
            for above in self._source.ancestors(call)
        )  # fmt: skip

    def _penalty(self, call: ast.Call) -> Exception:
        return self._script.refuse(
            call, "this gradient of an input is part of a loss (a gradient penalty): it is not "
            "scaled itself, and small parts of it are 0 in float16", UNSCALED,
        )  # fmt: skip

    def _changed(self, call: ast.AST) -> Exception:
        return self._script.refuse(
            call, "these gradients are multiplied by the loss scale until an optimizer applies "
            "them, and are read or changed before that, or nothing tells which optimizer it is",
            "clip in the optimizer (clipnorm=, global_clipnorm= or clipvalue=), or " + UNSCALED,
        )  # fmt: skip

    def _refuse_readers(self, gradients: list[ast.expr]) -> None:
        """Of gradients that something else than the optimizer reads."""
        inside = {n for a in self._optimizers.applied for n in self._source.walk(a.call)}
        for name in gradients:
            if not isinstance(name, ast.Name):
                continue
            for binding in self._source.scopes.bindings(name):
                if not isinstance(binding.node, ast.Name):
                    continue
                for read in self._script.loads(binding.node):
                    passed = self._source.inside(read, ast.Call)
                    zipped = passed is not None and self._source.names.of(passed.func) == "zip"
                    if read not in inside and not zipped:
                        raise self._changed(read)

    def _scale(
        self, tape: ast.With, call: ast.Call, target: ast.expr, optimizer: str, made: str
    ) -> None:
        """`scaled_loss = ...` as the last line under the tape, and `scaled_loss` derived."""
        text = self._source.segment(target)
        if not isinstance(target, ast.Name | ast.Attribute | ast.Subscript):
            raise self._script.refuse(
                target, "this loss has no name, and has to be scaled under its tape",
                "give it a name under the tape",
            )  # fmt: skip
        key = (tape, optimizer, text)
        if key not in self._names:
            name = self._names[key] = self._name(tape, optimizer, text)
            lines = [f"{name} = {made}"]
            if tape in self._source.ancestors(call):
                placed = self._draft.insert_before(self._source.statement(call), lines)
            else:
                placed = self._draft.insert_after(tape.body[-1], lines)
            if not placed:
                raise self._script.refuse(
                    tape, "the block of this tape stands on the tape's own line",
                    "give it lines of its own",
                )  # fmt: skip
            self._draft.step(target, f"{name} = {made}", _WHY)
        self._draft.replace(target, self._names[key])

    def _name(self, tape: ast.With, optimizer: str, text: str) -> str:
        """What a scaled loss is called: scaled_loss for loss, another one for each optimizer."""
        words = re.findall(r"[A-Za-z_]\w*", text)
        wanted = self._top.fresh(f"scaled_{words[-1] if words else 'loss'}")
        function = self._source.function(tape)
        taken = {
            name for (other, by, of), name in self._names.items()
            if self._source.function(other) is function and (by, of) != (optimizer, text)
        }  # fmt: skip
        numbers = (f"{wanted}_{number}" for number in range(2, 1000))
        return wanted if wanted not in taken else next(n for n in numbers if n not in taken)

    def _unscale(self, call: ast.Call, optimizer: str) -> None:
        """Keras 2: get_unscaled_gradients right after the gradient."""
        statement = self._source.statement(call)
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        made = isinstance(statement, ast.Assign) and statement.value is call
        if not made or not isinstance(target, ast.Name):
            raise self._script.refuse(
                call, "these gradients have no name, and have to be divided by the loss scale",
                "give them one: grads = tape.gradient(...)",
            )  # fmt: skip
        name = target.id
        lines = [
            f"if {self._top.switch}:", f"    {name} = {optimizer}.get_unscaled_gradients({name})"
        ]  # fmt: skip
        if self._draft.insert_after(statement, lines):
            self._draft.step(call, f"{name} divided by the loss scale", _WHY)

    def _rename(self, call: ast.Call, scaled: list[ast.Call]) -> None:
        """A loop for Keras 2 that scales already: Keras 3 has only scale_loss()."""
        if self._script.is_legacy:
            raise self._script.refuse(
                call, "this loop scales its loss already, and always does",
                "set the policy by hand: set_global_policy(...)",
            )  # fmt: skip
        for one in scaled:
            if one in self._renamed:
                continue
            self._renamed.add(one)
            assert isinstance(one.func, ast.Attribute)
            base = self._source.segment(one.func.value)
            self._draft.replace(one.func, f"{base}.scale_loss")
            self._draft.step(
                one, "scale_loss instead of get_scaled_loss",
                "Keras 3 has only this one; without loss scaling it gives the loss as it is",
            )  # fmt: skip
        for other in self._source.names.methods("get_unscaled_gradients"):
            if other in self._renamed or not other.args:
                continue
            if call not in self._source.values.of(other.args[0]):
                continue
            self._renamed.add(other)
            statement = self._source.statement(other)
            if not isinstance(statement, ast.Assign) or not isinstance(
                statement.targets[0], ast.Name
            ):
                raise self._changed(other)
            inside = {n for a in self._optimizers.applied for n in self._source.walk(a.call)}
            if any(read not in inside for read in self._script.loads(statement.targets[0])):
                raise self._changed(other)
            self._draft.unwrap(other, other.args[0])
            self._draft.step(
                other, "get_unscaled_gradients removed",
                "Keras 3's LossScaleOptimizer divides by the scale in apply_gradients()",
            )  # fmt: skip

    # Keras on PyTorch.

    def _backward(self, call: ast.Call) -> None:
        """`loss.backward()` of a loop whose optimizer is one of Keras."""
        assert isinstance(call.func, ast.Attribute)
        if self._is_scaled(call.func.value):
            return
        applied = self._after(call)
        optimizers = {self._source.segment(a.optimizer) for a in applied}
        if not applied:
            raise self._script.refuse(
                call, "no optimizer of Keras applies what this backward pass gives: one of PyTorch "
                "needs torch.amp.GradScaler",
                "take an optimizer of keras.optimizers, or " + UNSCALED,
            )  # fmt: skip
        if len(optimizers) != 1:
            raise self._script.refuse(
                call, "several optimizers apply the gradients of one backward pass, each with a "
                "loss scale of its own", UNSCALED,
            )  # fmt: skip
        for node in self._source.walk(self._source.function(call) or self._source.tree):
            if isinstance(node, ast.Call) and self._source.names.is_one(
                node.func, "torch.nn.utils.*", "torch.autograd.grad"
            ):
                raise self._changed(node)
        self._refuse_readers([a.gradients for a in applied])
        self._optimizers.with_scaling(applied[0].optimizer)
        (text,) = optimizers
        self._draft.wrap(call.func.value, f"{text}.scale_loss({{}})")
        loss = self._source.segment(call.func.value)
        self._draft.step(call, f"{text}.scale_loss({loss}).backward()", _WHY)

    def _after(self, backward: ast.Call) -> list[Applied]:
        """The steps that follow a backward pass, up to the next one that others follow."""
        around = self._turn(backward)
        events: list[tuple[tuple[int, int], Applied | None]] = [
            ((a.call.lineno, a.call.col_offset), a) for a in self._optimizers.applied
            if self._turn(a.call) is around
        ]  # fmt: skip
        events += [
            ((c.lineno, c.col_offset), None) for c in self._source.names.methods("backward")
            if self._turn(c) is around
        ]  # fmt: skip
        found: list[Applied] = []
        for place, applied in sorted(events, key=lambda event: event[0]):
            if place > (backward.lineno, backward.col_offset):
                if applied is not None:
                    found.append(applied)
                elif found:
                    break
        return found

    def _turn(self, node: ast.AST) -> ast.AST:
        """The function or loop of which each run does `node` once."""
        turns = (ast.FunctionDef, ast.AsyncFunctionDef, ast.For, ast.While)
        return next((a for a in self._source.ancestors(node) if isinstance(a, turns)),
                    self._source.tree)  # fmt: skip


def _attribute(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""
