"""Autocast regions: where they begin and end, their device and type, and whether they are on."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.devices import device_types

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

# Dotted name -> the device it is for ("" takes one as argument), and its parameters in order.
CONSTRUCTORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "torch.amp.autocast": ("", ("device_type", "dtype", "enabled", "cache_enabled")),
    "torch.cuda.amp.autocast": ("cuda", ("enabled", "dtype", "cache_enabled")),
    "torch.cpu.amp.autocast": ("cpu", ("enabled", "dtype", "cache_enabled")),
}
# What torch.get_autocast_dtype gives before anyone sets it.
_DEFAULT_TYPE = {
    "cuda": "float16", "cpu": "bfloat16", "xpu": "float16", "mps": "float16", "mtia": "float16",
    "hpu": "bfloat16", "xla": "bfloat16",
}  # fmt: skip
# Classes with an `autocast()`, and the argument of theirs that says which precision it takes.
_FRAMEWORKS = {
    "accelerate.Accelerator": "mixed_precision", "lightning.fabric.Fabric": "precision",
}  # fmt: skip
_STACKS = ("enter_context", "enter_async_context")
_GENERATORS = ("contextlib.contextmanager", "contextlib.asynccontextmanager")


@dataclass(frozen=True, eq=False)
class Autocast:
    """One call that makes an autocast context.

    `name` is the constructor, "" for a framework's or another library's, `device` the one that the
    constructor's own name fixes. `devices` and `dtypes` are what they may be ("cuda", "float16");
    empty where the file doesn't say. `enabled` is None where that depends. `framework`: made by
    Accelerate or Fabric. `opaque`: nothing is known but that its name speaks of autocast, so that
    `maybe_autocast(enabled=False)` is a region too. `arguments` are what the constructor is given
    by parameter, those of a `functools.partial` included.
    """

    call: ast.Call
    name: str
    device: str
    devices: frozenset[str]
    dtypes: frozenset[str]
    enabled: bool | None
    framework: bool = False
    opaque: bool = False
    arguments: dict[str, ast.expr] = field(default_factory=dict)

    def argument(self, name: str) -> ast.expr | None:
        """The argument for a parameter of this constructor, by position or keyword."""
        return self.arguments.get(name)


@dataclass(frozen=True, eq=False)
class Region:
    """Code under autocast: a `with` block, or a function with an autocast decorator.

    `sure` is false where the context may be another one (`nullcontext() if cpu else autocast()`).
    `entered` is the statement that enters it where an ExitStack does: what stands before it in the
    block is outside.
    """

    node: ast.With | ast.AsyncWith | ast.FunctionDef | ast.AsyncFunctionDef
    autocast: Autocast
    sure: bool
    entered: ast.stmt | None = None

    @property
    def is_off(self) -> bool:
        """Whether it casts nothing to a low type: it switches autocast off, or asks for float32."""
        wide = self.autocast.dtypes and self.autocast.dtypes <= {"float32", "float64"}
        return self.autocast.enabled is False or bool(wide)

    @property
    def is_on(self) -> bool:
        """Whether it is an autocast that may be on, and not one by its name only."""
        return not self.is_off and not self.autocast.opaque


class Autocasts:
    """All autocast calls of a file and the regions they open."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._opaque: dict[ast.Call, Autocast] = {}

    @cached_property
    def calls(self) -> list[Autocast]:
        """Every call of an autocast constructor, in the order of the text, and those that
        Accelerate and Fabric make after them.
        """
        return [*self._constructed(), *self._of_frameworks()]

    @cached_property
    def regions(self) -> dict[ast.AST, Region]:
        """The regions by their `with` or function; of several in one `with` the last."""
        found: dict[ast.AST, Region] = {}
        if b"autocast" not in self._source.data:
            return found
        known = {autocast.call: autocast for autocast in self.calls}
        for block in self._source.nodes(ast.With, ast.AsyncWith):
            for item in block.items:
                for region in self._opened(block, item.context_expr, known):
                    found[block] = region
        if not known:
            return found
        for region in self._stacked(known):
            found.setdefault(region.node, region)
        for function in self._source.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
            for decorator in function.decorator_list:
                for value in self._source.values.of(decorator):
                    if isinstance(value, ast.Call) and value in known:
                        found[function] = Region(function, known[value], True)
        for region in self._through_generators(found):
            found.setdefault(region.node, region)
        return found

    def around(self, node: ast.AST) -> Region | None:
        """The innermost region that holds `node` in the text, within its function."""
        return self._around(node, self.regions)

    def reaching(self, node: ast.AST) -> list[Region | None]:
        """The regions in which `node` runs: the one around it, or those around calls of its
        function in this file, None for a call outside of any; empty where no call is seen.
        """
        return list(self._reaching(node, frozenset()))

    def _around(self, node: ast.AST, regions: dict[ast.AST, Region]) -> Region | None:
        if not regions:
            return None
        below = node
        for above in self._source.ancestors(node):
            region = regions.get(above)
            if region is not None and _holds(region, below):
                return region
            if isinstance(
                above, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
            ):
                return None
            below = above
        return None

    def _reaching(self, node: ast.AST, seen: frozenset[ast.AST]) -> Iterator[Region | None]:
        region = self.around(node)
        function = self._source.function(node)
        if region is not None:
            yield region
        elif function is None:
            yield None
        elif function not in seen:
            for call in self._source.values.calls_of(function):
                outer = list(self._reaching(call, seen | {function}))
                yield from outer or [None]

    def _opened(
        self, block: ast.With | ast.AsyncWith, context: ast.expr, known: dict[ast.Call, Autocast]
    ) -> Iterator[Region]:
        """The region that one item of a `with` opens, if any."""
        values = self._contexts(context)
        found = [known[v] for v in values if isinstance(v, ast.Call) and v in known]
        if found:
            on = next((one for one in found if one.enabled is not False), found[0])
            sure = len(found) == len(values) == 1 and self._is_surely(on)
            yield Region(block, on, sure)
            return
        for value in values:
            autocast = self._unknown(value)
            if autocast is not None:
                yield Region(block, autocast, False)
                return

    def _contexts(self, context: ast.expr) -> tuple[ast.expr, ...]:
        """What `context` may stand for: `amp()` with `amp = lambda: autocast()` is the latter."""
        found: dict[ast.expr, None] = {}
        for value in self._source.values.of(context):
            bodies = [
                made.body
                for made in self._source.values.of(value.func)
                if isinstance(made, ast.Lambda)
            ] if isinstance(value, ast.Call) and not value.args else []  # fmt: skip
            for body in bodies or [value]:
                found.update(dict.fromkeys(self._source.values.of(body)))
        return tuple(found)

    def _stacked(self, known: dict[ast.Call, Autocast]) -> Iterator[Region]:
        """`with ExitStack() as stack: stack.enter_context(autocast())`: the rest of the block."""
        for call in self._source.names.methods(*_STACKS):
            assert isinstance(call.func, ast.Attribute)
            stack = call.func.value
            if not isinstance(stack, ast.Name) or not call.args:
                continue
            opened = [known[v] for v in self._contexts(call.args[0])
                      if isinstance(v, ast.Call) and v in known]  # fmt: skip
            statement = self._source.statement(call)
            for block in self._blocks_of(stack, statement) if opened else ():
                inner = statement
                while self._source.parents[inner] is not block:
                    above = self._source.parents[inner]
                    inner = above if isinstance(above, ast.stmt) else inner
                sure = inner is statement and self._is_surely(opened[0])
                yield Region(block, opened[0], sure, inner)

    def _blocks_of(self, stack: ast.Name, at: ast.stmt) -> Iterator[ast.With | ast.AsyncWith]:
        """The `with ... as stack` blocks around a statement that give `stack` its value."""
        bound = {binding.node for binding in self._source.scopes.bindings(stack)
                 if binding.how == "context"}  # fmt: skip
        for above in self._source.ancestors(at):
            if isinstance(above, ast.With | ast.AsyncWith) and any(
                item.optional_vars in bound for item in above.items
            ):
                yield above

    def _through_generators(self, inner: dict[ast.AST, Region]) -> Iterator[Region]:
        """`with amp():` where `@contextmanager def amp()` yields within a region."""
        source = self._source
        for block in source.nodes(ast.With, ast.AsyncWith):
            for item in block.items:
                made = item.context_expr
                called = source.values.definition(made.func) if isinstance(made, ast.Call) else None
                if not isinstance(called, ast.FunctionDef | ast.AsyncFunctionDef) or not any(
                    source.names.is_one(d, *_GENERATORS) for d in called.decorator_list
                ):
                    continue
                yields = [n for n in source.walk(called) if isinstance(n, ast.Yield)]
                around = [self._around(one, inner) for one in yields]
                found = [region for region in around if region is not None]
                if found:
                    sure = len(found) == len(yields) and all(region.sure for region in found)
                    yield Region(block, found[0].autocast, sure)

    def _is_surely(self, autocast: Autocast) -> bool:
        """Whether the call can be of nothing else: `ctx = autocast if amp else nullcontext`."""
        names = self._source.names.all_of(autocast.call.func)
        return not names or names <= set(CONSTRUCTORS)

    def _unknown(self, value: ast.expr) -> Autocast | None:
        """A region by its name only: `maybe_autocast(device_type=device, enabled=False)`."""
        if not isinstance(value, ast.Call):
            return None
        function = value.func
        last = function.attr if isinstance(function, ast.Attribute) else ""
        if isinstance(function, ast.Name):
            last = function.id
        if "autocast" not in last.lower() or "fp8" in last.lower():
            return None
        if value not in self._opaque:
            given = {k.arg: k.value for k in value.keywords if k.arg}
            devices = frozenset(device_types(self._source, given.get("device_type")))
            types = frozenset(self._types(given) or ())
            enabled = self._switch(given.get("enabled"), None)
            self._opaque[value] = Autocast(value, "", "", devices, types, enabled,
                                           opaque=True, arguments=given)  # fmt: skip
        return self._opaque[value]

    def _constructed(self) -> Iterator[Autocast]:
        source = self._source
        found: dict[ast.Call, tuple[str, list[ast.expr], list[ast.keyword]]] = {}
        for call in source.names.calls(*CONSTRUCTORS):
            for name in sorted(source.names.all_of(call.func) & set(CONSTRUCTORS))[:1]:
                found[call] = (name, call.args, call.keywords)
        partials = source.names.calls("functools.partial")
        of = {p: source.names.all_of(p.args[0]) & set(CONSTRUCTORS) for p in partials if p.args}
        if any(of.values()):
            for call in source.nodes(ast.Call):
                for made in source.values.of(call.func):
                    if isinstance(made, ast.Call) and of.get(made):
                        keywords = [*made.keywords, *call.keywords]
                        found[call] = (min(of[made]), [*made.args[1:], *call.args], keywords)
        for call in sorted(found, key=lambda call: (call.lineno, call.col_offset)):
            yield self._described(call, *found[call])

    def _of_frameworks(self) -> Iterator[Autocast]:
        """`accelerator.autocast()`; its type is what the Accelerator was made with."""
        source = self._source
        for call in source.names.methods("autocast"):
            assert isinstance(call.func, ast.Attribute)
            for value in source.values.of(call.func.value):
                precision = self._precision(value)
                if precision is None:
                    continue
                low = {"bfloat16" if "bf16" in p else "float16" for p in precision if "16" in p}
                off = bool(precision) and not low
                enabled = False if off else None
                types = frozenset(low)
                yield Autocast(call, "", "", frozenset(), types, enabled, framework=True)
                break

    def _precision(self, maker: ast.expr) -> set[str] | None:
        """What an Accelerator or Fabric was told of precision; None for what is neither."""
        source = self._source
        if isinstance(maker, ast.Name):
            annotations = [b.node.annotation for b in source.scopes.bindings(maker)
                           if isinstance(b.node, ast.arg)]  # fmt: skip
            named = any(a is not None and source.names.is_one(a, *_FRAMEWORKS) for a in annotations)
            return set() if named else None
        if not isinstance(maker, ast.Call):
            return None
        for name in sorted(source.names.all_of(maker.func) & set(_FRAMEWORKS)):
            given = [k.value for k in maker.keywords if k.arg == _FRAMEWORKS[name]]
            if not given or len(source.values.of(given[0])) > 1:
                return set()
            return {str(c) for c in source.values.constants(given[0])}
        return None

    def _described(
        self, call: ast.Call, name: str, positional: list[ast.expr], keywords: list[ast.keyword]
    ) -> Autocast:
        device, parameters = CONSTRUCTORS[name]
        given = dict(zip(parameters, _before_star(positional), strict=False))
        given.update({k.arg: k.value for k in keywords if k.arg})
        # f(*args, **more) may give what doesn't show.
        whole = all(k.arg for k in keywords) and not any(
            isinstance(a, ast.Starred) for a in positional
        )
        devices = {device} if device else device_types(self._source, given.get("device_type"))
        dtypes = self._types(given)
        if dtypes is None:
            dtypes = {_DEFAULT_TYPE.get(d, "") for d in devices} - {""} if whole else set()
        enabled = self._switch(given.get("enabled"), True if whole else None)
        return Autocast(call, name, device, frozenset(devices), frozenset(dtypes), enabled,
                        arguments=given)  # fmt: skip

    def _types(self, given: dict[str, ast.expr]) -> set[str] | None:
        """The types that the arguments may ask for; None where they leave it to the device."""
        asked = given.get("dtype")
        if asked is None or self._source.values.constants(asked) == {None}:
            return None
        return set(self._source.tensors.types(asked))

    def _switch(self, given: ast.expr | None, unless_given: bool | None) -> bool | None:
        """Whether `enabled=given` is on; None where a caller, an option or a test decides."""
        if given is None:
            return unless_given
        values = self._source.values.of(given)
        if len(values) != 1 or not isinstance(values[0], ast.Constant):
            return None
        above = self._source.parents[values[0]]
        fixed = not isinstance(above, ast.arguments) and not isinstance(
            self._source.parents.get(above), ast.ClassDef
        )
        return bool(values[0].value) if fixed else None


def _before_star(arguments: Iterable[ast.expr]) -> Iterator[ast.expr]:
    for argument in arguments:
        if isinstance(argument, ast.Starred):
            return
        yield argument


def _holds(region: Region, below: ast.AST) -> bool:
    """Whether a child of the region's node is under autocast: in its body, after it is entered."""
    body: list[ast.stmt] = region.node.body
    if below not in body:
        return False  # the `with` line itself, or a decorator
    return region.entered is None or body.index(below) > body.index(region.entered)
