"""Where autocast goes: around the forward pass and the loss of training, and of validation."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ampconvert.lint.rewrite.flow import Flow
from ampconvert.lint.rewrite.losses import Losses
from ampconvert.lint.rewrite.roles import Area, words
from ampconvert.lint.rewrite.script import Backward, Script

_PLAIN = frozenset({"item", "numpy", "tolist", "cpu"})
_OUTSIDE = ("print", "torch.save", "time.time", "wandb.*", "torch.distributed.*", "mlflow.*",
            "tqdm.tqdm.write", "time.perf_counter", "torch.cuda.synchronize")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Region:
    """A run of statements of one block that goes under autocast. `extracted` is an expression of
    the statement behind it that has to run there too; with `bare` it is all there is.
    """

    first: ast.stmt
    last: ast.stmt
    training: bool
    extracted: ast.expr | None = None
    bare: bool = False


class Regions:
    """Finds them."""

    def __init__(self, script: Script, flow: Flow, losses: Losses) -> None:
        self._script = script
        self._flow = flow
        self._losses = losses
        self._covered: dict[Area, set[ast.stmt]] = {}
        self._extracted: dict[ast.stmt, ast.expr] = {}
        self._seen: set[tuple[ast.AST, frozenset[str]]] = set()

    def find(self) -> list[Region]:
        """All regions, in the order of the text. UserError where a loss comes from nowhere."""
        for backward in self._script.backwards:
            self._train(backward)
        training = {s for covered in self._covered.values() for s in covered}
        self._evaluate()
        self._set_apart()
        found: list[Region] = []
        for area, covered in self._covered.items():
            found += self._runs(area.body, covered, training)
        self._refuse_left_out(found)
        return sorted(found, key=lambda r: (r.first.lineno, r.first.col_offset))

    def _refuse_left_out(self, found: list[Region]) -> None:
        """Every run of a model that was to be covered has to be: no half-done rewrite."""
        source = self._script.source
        inside: set[ast.AST] = {r.extracted for r in found if r.extracted is not None}
        for region in (r for r in found if not r.bare):
            block = source.block(region.first)
            for statement in block[block.index(region.first) : block.index(region.last) + 1]:
                inside |= {statement, *source.walk(statement)}
        wanted = {s for covered in self._covered.values() for s in covered
                  if not self._losses.is_apart(s) and s not in self._extracted}  # fmt: skip
        for node in [*wanted, *self._extracted.values()]:
            if node not in inside:
                raise self._script.refuse(
                    node, "autocast can't be put around this", "give it a statement of its own"
                )

    def outside(self) -> set[ast.stmt]:
        """Losses in float32 that stand in the loop itself, and not in a function that it calls."""
        return {
            s for covered in self._covered.values() for s in covered if self._losses.is_apart(s)
        }

    def _train(self, backward: Backward) -> None:
        """Cover what the loss of one backward pass is computed by."""
        script = self._script
        place = (backward.call.lineno, backward.call.col_offset)
        statement = script.source.statement(backward.call)
        found = self._cover(backward.area, statement, place, backward.loss)
        if not found:
            raise script.refuse(
                backward.call,
                "no forward pass can be seen that computes this loss",
                "the call of the model and its loss have to be in this file",
            )
        if self._is_computed(backward):
            self._extracted[statement] = backward.loss
            self._covered.setdefault(backward.area, set())
            if self._losses.is_apart(statement):
                self._covered[backward.area].add(statement)

    def _cover(
        self, area: Area, statement: ast.stmt, until: tuple[int, int], value: ast.expr
    ) -> bool:
        """Cover what `value`, used in `statement`, depends on; whether a module was run for it."""
        script, flow = self._script, self._flow
        wanted = flow.names_of(value)
        key = (statement, frozenset(wanted))
        if key in self._seen:
            return True
        self._seen.add(key)
        sliced, needed = flow.slice(area, until, wanted)
        inside = self._nearest(area, statement, sliced & flow.hot(area))
        self._covered.setdefault(area, set()).update(inside)
        found = flow.runs_network(value) or any(self._is_network(s) for s in inside)
        outer = self._outer_values(area, needed, with_parameters=not found)
        for call, given in outer:
            caller = script.roles.area(call)
            at = script.source.statement(call)
            for expression in given:
                place = (call.lineno, call.col_offset)
                runs = flow.runs(expression) or self._is_functional(expression)
                found |= self._cover(caller, at, place, expression) | runs
                if runs and not isinstance(expression, ast.Name):
                    self._extracted[at] = expression
        return found

    def _outer_values(
        self, area: Area, needed: set[str], *, with_parameters: bool
    ) -> Iterator[tuple[ast.Call, list[ast.expr]]]:
        """Calls of `area`, and what of them the needed names stand for there."""
        if isinstance(area, ast.Module):
            return
        script = self._script
        arguments = area.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        for call in script.source.values.calls_of(area):
            given: list[ast.expr] = []
            if with_parameters:
                for name in (n for n in names if n in needed):
                    value = script.source.values.argument(call, area, name)
                    if value is not None:
                        given.append(value)
            own = [n for n in needed if n.startswith("self.")]
            if own and script.source.class_of(call) is script.source.class_of(area):
                given += [self._attribute(n) for n in own]
            if given:
                yield call, given

    @staticmethod
    def _attribute(name: str) -> ast.expr:
        made = ast.parse(name, mode="eval").body
        return made

    def _nearest(self, area: Area, at: ast.stmt, found: set[ast.stmt]) -> set[ast.stmt]:
        """Those of `found` in the innermost loop around `at` that holds a run of a module."""
        source = self._script.source
        for above in source.ancestors(at):
            if above is area:
                break
            if isinstance(above, ast.For | ast.AsyncFor | ast.While):
                inside = {s for s in found if above in set(source.ancestors(s))}
                if any(self._is_network(s) for s in inside) or self._flow.runs_network(at):
                    return inside
        return found

    def _is_network(self, statement: ast.stmt) -> bool:
        return any(self._flow.runs_network(part) for part in _heads(statement))

    def _is_computed(self, backward: Backward) -> bool:
        """Whether the expression before `.backward()` computes more than arithmetic of losses: the
        model's run, the loss, or the sum of an output.
        """
        flow, loss = self._flow, backward.loss
        if flow.runs(loss) or self._is_functional(loss):
            return True
        if not any(isinstance(n, ast.Call) for n in [loss, *self._script.source.walk(loss)]):
            return False
        names = flow.names_of(loss)
        made = [u.statement for u in flow.units(backward.area)
                if u.sets & names and u.statement in flow.hot(backward.area)]  # fmt: skip
        return bool(made) and not all(self._is_functional(s) for s in made)

    def _is_functional(self, expression: ast.AST) -> bool:
        below = [expression, *self._script.source.walk(expression)]
        return any(isinstance(n, ast.Call) and self._flow.computes_loss(n) for n in below)

    def _evaluate(self) -> None:
        """Cover validation: modules run without gradients, and losses of what they give."""
        script, flow = self._script, self._flow
        for area in script.roles.areas():
            if script.roles.in_module_class(area):
                continue
            hot = flow.hot(area)
            mine = {
                s
                for s in hot
                if flow.without_gradients(s)
                and s not in self._covered.get(area, ())
                and any(flow.runs(p) or self._is_functional(p)
                        for p in _heads(s) if isinstance(p, ast.expr | ast.stmt))
            }  # fmt: skip
            for container in dict.fromkeys(self._container(s, area) for s in mine):
                inside = {s for s in mine if self._container(s, area) is container}
                if any(self._is_network(s) for s in inside) and self._judges(container, hot):
                    self._covered.setdefault(area, set()).update(inside)

    def _container(self, statement: ast.stmt, area: Area) -> ast.AST:
        """The innermost loop around a statement, or the whole function."""
        for above in self._script.source.ancestors(statement):
            if above is area or isinstance(above, ast.For | ast.AsyncFor | ast.While):
                return above
        return area

    def _judges(self, container: ast.AST, hot: set[ast.stmt]) -> bool:
        """Whether a block computes a loss or a metric of outputs: what only shows samples, or hands
        them on, stays in float32.
        """
        return any(
            (isinstance(node, ast.Call) and (
                self._flow.computes_loss(node) or (isinstance(node.func, ast.Attribute)
                                                   and node.func.attr in words("judges"))))
            or isinstance(node, ast.Compare)
            for node in self._script.source.walk(container)
            if isinstance(node, ast.Call | ast.Compare)
            and self._script.source.statement(node) in hot
        )  # fmt: skip

    def _set_apart(self) -> None:
        """The model's call inside of a loss that stays in float32 gets a line of its own."""
        for covered in self._covered.values():
            for statement in (s for s in covered if self._losses.is_apart(s)):
                self._extracted.pop(statement, None)
                for given in self._losses.inputs(statement):
                    if self._flow.runs_network(given):
                        self._extracted[statement] = given

    def _runs(
        self, block: Sequence[ast.stmt], covered: set[ast.stmt], training: set[ast.stmt]
    ) -> Iterator[Region]:
        """Runs of covered statements in a block, and in the blocks below it."""
        first: ast.stmt | None = None
        last: ast.stmt | None = None
        inner: list[Region] = []
        for statement in block:
            kind = self._kind(statement, covered)
            extracted = self._extracted.get(statement)
            if kind == "in":
                first, last = first or statement, statement
                continue
            if extracted is not None:
                trains = statement in training or not self._flow.without_gradients(statement)
                if first is not None and last is not None and _adjoin(block, last, statement):
                    yield Region(first, last, trains, extracted)
                else:
                    if first is not None and last is not None:
                        yield Region(first, last, first in training)
                    yield Region(statement, statement, trains, extracted, bare=True)
                first = last = None
                continue
            if kind != "gap" and first is not None and last is not None:
                yield Region(first, last, self._any_in(first, last, block, training))
                first = last = None
            if kind == "descend":
                for below in _blocks(statement):
                    inner += self._runs(below, covered, training)
        if first is not None and last is not None:
            yield Region(first, last, self._any_in(first, last, block, training))
        yield from inner

    def _any_in(
        self, first: ast.stmt, last: ast.stmt, block: Sequence[ast.stmt], training: set[ast.stmt]
    ) -> bool:
        run = block[block.index(first) : block.index(last) + 1]
        return any(n in training for s in run for n in (s, *self._script.source.walk(s)))

    def _kind(self, statement: ast.stmt, covered: set[ast.stmt]) -> str:
        """What it is: "in" a region, a "gap" in one, to "descend" into, or a "break" of one."""
        source = self._script.source
        if self._losses.is_apart(statement):
            return "break"
        compound = bool(_blocks(statement))
        if not compound:
            if statement in covered:
                return "in"
            return "break" if self._is_outside(statement) else "gap"
        below = [n for n in source.walk(statement) if isinstance(n, ast.stmt)]
        if statement not in covered and not any(
            n in covered or n in self._extracted for n in below
        ):
            return "break"
        stands_apart = any(self._is_outside(n) or self._losses.is_apart(n)
                           or n in self._extracted for n in below)  # fmt: skip
        if isinstance(statement, ast.For | ast.AsyncFor) and self._loads(statement):
            stands_apart = True
        if isinstance(statement, ast.With) and statement not in covered:
            beside = [s for s in source.block(statement) if s is not statement and s in covered]
            if not beside or not self._flow.is_no_grad(statement):
                return "descend"
        if not stands_apart:
            return "in"
        if statement in covered:
            raise self._script.refuse(
                statement, "the head of this statement runs a model, and its body does more",
                "call the model in a statement of its own before it",
            )  # fmt: skip
        return "descend"

    def _is_outside(self, statement: ast.stmt) -> bool:
        """Whether a statement has no business under autocast."""
        script = self._script
        if isinstance(statement, ast.Return | ast.Break | ast.Continue | ast.Raise | ast.Import
                      | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Global):  # fmt: skip
            return True
        for node in _heads(statement):
            for call in [node, *script.source.walk(node)]:
                if isinstance(call, ast.Call) and self._is_call_outside(call):
                    return True
        return False

    def _is_call_outside(self, call: ast.Call) -> bool:
        script = self._script
        if isinstance(call.func, ast.Attribute):
            method = call.func.attr
            if method in ("backward", "step", "zero_grad", "train", "eval", "to"):
                return True
            if method in words("logs") or method in _PLAIN:
                return True
        if script.source.names.is_one(call.func, *_OUTSIDE):
            return True
        return script.does_backward(call) or script.does_step(call)

    def _loads(self, loop: ast.For | ast.AsyncFor) -> bool:
        """Whether a loop goes over batches."""
        source = self._script.source
        below = [loop.iter, *source.walk(loop.iter)]
        if any(isinstance(n, ast.expr) and source.kinds.is_a(n, "loader") for n in below):
            return True
        return any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
            and n.func.attr in ("to", "cuda")
            for n in source.walk(loop)
        )  # fmt: skip


def _adjoin(block: Sequence[ast.stmt], last: ast.stmt, statement: ast.stmt) -> bool:
    return block.index(statement) == block.index(last) + 1


def _heads(statement: ast.stmt) -> list[ast.AST]:
    if isinstance(statement, ast.For | ast.AsyncFor):
        return [statement.iter]
    if isinstance(statement, ast.While | ast.If):
        return [statement.test]
    if isinstance(statement, ast.With | ast.AsyncWith):
        return [item.context_expr for item in statement.items]
    if _blocks(statement):
        return []
    return [statement]


def _blocks(statement: ast.stmt) -> list[list[ast.stmt]]:
    """The blocks of a compound statement; functions and classes are none."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return []
    found = [getattr(statement, n, None) for n in ("body", "orelse", "finalbody")]
    handlers = [h.body for h in getattr(statement, "handlers", ())]
    cases = [c.body for c in getattr(statement, "cases", ())]
    return [b for b in (*found, *handlers, *cases) if b]
