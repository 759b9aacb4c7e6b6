"""What a training script does: its backward passes, steps, schedulers and uses of gradients."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property

from ampconvert.errors import UserError
from ampconvert.lint.rewrite.roles import Area, Roles, arguments
from ampconvert.lint.source import Source

_CLIPS = (
    "torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_value_",
    "torch.nn.utils.clip_grad_norm", "torch.nn.utils.get_total_norm",
    "torch.nn.utils.clip_grads_with_norm_",
)  # fmt: skip
_REDUCED = ("torch.distributed.all_reduce", "torch.distributed.reduce")


@dataclass(frozen=True, eq=False)
class Backward:
    """`loss.backward()`: the call, the loss and the function or module around it."""

    call: ast.Call
    loss: ast.expr
    area: Area


@dataclass(frozen=True, eq=False)
class Stepped:
    """`optimizer.step()` or `scheduler.step()`; `loop` is the loop over optimizers around it."""

    call: ast.Call
    what: ast.expr
    area: Area
    statement: ast.stmt
    loop: ast.For | None = None

    @property
    def outer(self) -> ast.stmt:
        """The statement that is done once: the loop over optimizers, or the step itself."""
        return self.loop or self.statement


class Script:
    """One script, read. Raises UserError, through `refuse`, where it can't be followed."""

    def __init__(self, source: Source, dtype: str) -> None:
        self.source = source
        self.roles = Roles(source)
        self.dtype = dtype

    @property
    def scaled(self) -> bool:
        """Whether losses are to be scaled: float16's gradients need it, bfloat16's don't."""
        return self.dtype == "float16"

    def refuse(self, node: ast.AST | None, why: str, instead: str) -> UserError:
        """The error that says where, why not, and what to do."""
        line = getattr(node, "lineno", 0)
        place = f"{self.source.path}:{line}" if line else self.source.path
        return UserError(f"{place}: {why}; {instead}")

    @cached_property
    def backwards(self) -> list[Backward]:
        """Every backward pass, in the order of the text."""
        found = []
        for call in self.source.names.methods("backward"):
            assert isinstance(call.func, ast.Attribute)
            if self.source.names.of(call.func) == "torch.autograd.backward":
                if call.args:
                    found.append(Backward(call, call.args[0], self.roles.area(call)))
            elif not self.roles.targets(call) and not self._is_own(call):
                found.append(Backward(call, call.func.value, self.roles.area(call)))
        return found

    @cached_property
    def steps(self) -> list[Stepped]:
        """Every `optimizer.step()`, in the order of the text."""
        return [self._stepped(c) for c in self._step_calls if self.roles.is_optimizer(_base(c))]

    @cached_property
    def schedules(self) -> list[Stepped]:
        """Every `scheduler.step()`, in the order of the text."""
        return [
            self._stepped(c)
            for c in self._step_calls
            if not self.roles.is_optimizer(_base(c)) and self.roles.is_scheduler(_base(c))
        ]

    @cached_property
    def unknown_steps(self) -> list[ast.Call]:
        """Calls `x.step()` where nothing tells what x is, in functions that call backward."""
        training = {b.area for b in self.backwards}
        known = {s.call for s in (*self.steps, *self.schedules)}
        return [
            c
            for c in self._step_calls
            if c not in known and not c.args and not c.keywords and not self.roles.targets(c)
            and self.roles.area(c) in training
        ]  # fmt: skip

    def reads_gradients(self, node: ast.AST) -> bool:
        """Whether something below `node` reads or changes gradients of parameters, itself or in
        a function of this file, as clipping does; sums over processes don't count.
        """
        return self._any(node, "gradients", self._is_gradient) and not self._any(
            node, "reduced", self._is_reduced
        )

    def does_backward(self, node: ast.AST) -> bool:
        """Whether something below `node` runs a backward pass."""
        calls = {b.call for b in self.backwards}
        return self._any(node, "backward", lambda n: n in calls)

    def does_step(self, node: ast.AST) -> bool:
        """Whether something below `node` steps an optimizer."""
        calls = {s.call for s in self.steps}
        return self._any(node, "step", lambda n: n in calls)

    def innermost_loop(
        self, node: ast.AST, area: Area
    ) -> ast.For | ast.AsyncFor | ast.While | None:
        """The innermost loop of `area` around `node`."""
        for above in self.source.ancestors(node):
            if above is area:
                return None
            if isinstance(above, ast.For | ast.AsyncFor | ast.While):
                return above
        return None

    def _any(self, node: ast.AST, name: str, test: object) -> bool:
        assert callable(test)
        if test(node):
            return True
        below = [node] if isinstance(node, ast.Call) else []
        for inner in (*below, *self.source.walk(node)):
            if test(inner):
                return True
            if isinstance(inner, ast.Call) and any(
                self.roles.reaches(name, t, test) for t in self.roles.targets(inner)
            ):
                return True
        return False

    def _is_gradient(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute) and node.attr == "grad":
            above = self.source.parents.get(node)
            cleared = (
                isinstance(above, ast.Assign)
                and node in above.targets
                and isinstance(above.value, ast.Constant)
            )
            kept = isinstance(above, ast.Attribute) and above.attr in ("zero_", "requires_grad")
            torch_grad = self.source.names.of(node) == "torch.autograd.grad"
            return not (cleared or kept or torch_grad or _is_none_test(above))
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr == "clip_grad_norm_":
                return True
            return self.source.names.is_one(node.func, *_CLIPS)
        return False

    def _is_reduced(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and self.source.names.is_one(node.func, *_REDUCED)

    def _is_own(self, call: ast.Call) -> bool:
        """Whether `backward` is called on the class of an autograd Function, or on super()."""
        base = _base(call)
        if isinstance(base, ast.Call) and self.source.names.of(base.func) == "super":
            return True
        return isinstance(self.source.values.definition(base), ast.ClassDef)

    @cached_property
    def _step_calls(self) -> list[ast.Call]:
        return self.source.names.methods("step")

    def _stepped(self, call: ast.Call) -> Stepped:
        statement = self.source.statement(call)
        base = _base(call)
        loop = None
        for above in self.source.ancestors(statement):
            if isinstance(above, ast.For) and isinstance(base, ast.Name):
                names = {n.id for n in ast.walk(above.target) if isinstance(n, ast.Name)}
                if base.id in names and not self.does_backward(above):
                    loop = above
            if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef):
                break
        return Stepped(call, base, self.roles.area(call), statement, loop)


def step_arguments(call: ast.Call) -> list[ast.expr]:
    """What is given to `step`: a closure, as optimizers take it."""
    return list(arguments(call))


def _base(call: ast.Call) -> ast.expr:
    assert isinstance(call.func, ast.Attribute)
    return call.func.value


def _is_none_test(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Compare) and any(
        isinstance(c, ast.Constant) and c.value is None for c in node.comparators
    )
