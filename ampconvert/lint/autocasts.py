"""Autocast regions: where they begin and end, their device and type, and whether they are on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

# Dotted name -> the device it is for ("" takes one as argument), and its parameters in order.
CONSTRUCTORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "torch.amp.autocast": ("", ("device_type", "dtype", "enabled", "cache_enabled")),
    "torch.cuda.amp.autocast": ("cuda", ("enabled", "dtype", "cache_enabled")),
    "torch.cpu.amp.autocast": ("cpu", ("enabled", "dtype", "cache_enabled")),
}
_DEFAULT_TYPE = {"cuda": "float16", "cpu": "bfloat16", "xpu": "float16", "mps": "float16"}
# Objects of these classes have an `autocast()` whose type comes from their configuration.
_FRAMEWORKS = ("accelerate.Accelerator", "lightning.fabric.Fabric")


@dataclass(frozen=True, eq=False)
class Autocast:
    """One call of an autocast constructor.

    `devices` and `dtypes` are what they may be ("cuda", "float16"); empty where the file doesn't
    say. `enabled` is None where that depends. `device` is the device that the constructor's own
    name fixes, "" for torch.autocast. `framework`: made by Accelerate or Fabric.
    """

    call: ast.Call
    name: str
    device: str
    devices: frozenset[str]
    dtypes: frozenset[str]
    enabled: bool | None
    framework: bool = False

    def argument(self, name: str) -> ast.expr | None:
        """The argument for a parameter of this constructor, by position or keyword."""
        for keyword in self.call.keywords:
            if keyword.arg == name:
                return keyword.value
        parameters = CONSTRUCTORS[self.name][1] if self.name in CONSTRUCTORS else ()
        at = parameters.index(name) if name in parameters else len(self.call.args)
        given = self.call.args[at : at + 1]
        return given[0] if given and not isinstance(given[0], ast.Starred) else None


@dataclass(frozen=True, eq=False)
class Region:
    """Code under autocast: a `with` block, or a function with an autocast decorator.

    `sure` is false where the context may be another one (`nullcontext() if cpu else autocast()`).
    """

    node: ast.With | ast.AsyncWith | ast.FunctionDef | ast.AsyncFunctionDef
    autocast: Autocast
    sure: bool

    @property
    def is_off(self) -> bool:
        """Whether it switches autocast off."""
        return self.autocast.enabled is False


class Autocasts:
    """All autocast calls of a file and the regions they open."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @cached_property
    def calls(self) -> list[Autocast]:
        """Every call of an autocast constructor, in the order of the text."""
        found = [
            self._described(call, name)
            for call in self._source.names.calls(*CONSTRUCTORS)
            for name in sorted(self._source.names.all_of(call.func) & set(CONSTRUCTORS))[:1]
        ]
        for call in self._source.names.methods("autocast"):
            assert isinstance(call.func, ast.Attribute)
            makers = self._source.values.of(call.func.value)
            if any(isinstance(m, ast.Call) and self._source.names.is_one(m.func, *_FRAMEWORKS)
                   for m in makers):  # fmt: skip
                found.append(Autocast(call, "", "", frozenset(), frozenset(), None, framework=True))
        return found

    @cached_property
    def regions(self) -> dict[ast.AST, Region]:
        """The regions by their `with` or function; of several in one `with` the last."""
        known = {autocast.call: autocast for autocast in self.calls}
        found: dict[ast.AST, Region] = {}
        if not known:
            return found
        for block in self._source.nodes(ast.With, ast.AsyncWith):
            for item in block.items:
                for region in self._opened(block, item.context_expr, known):
                    found[block] = region
        for function in self._source.nodes(ast.FunctionDef, ast.AsyncFunctionDef):
            for decorator in function.decorator_list:
                if isinstance(decorator, ast.Call) and decorator in known:
                    found[function] = Region(function, known[decorator], True)
        return found

    def around(self, node: ast.AST) -> Region | None:
        """The innermost region that holds `node` in the text, within its function."""
        if not self.regions:
            return None
        for above in self._source.ancestors(node):
            region = self.regions.get(above)
            if region is not None and not self._in_header(node, above):
                return region
            if isinstance(
                above, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef
            ):
                return None
        return None

    def reaching(self, node: ast.AST) -> list[Region | None]:
        """The regions in which `node` runs: the one around it, or those around calls of its
        function in this file, None for a call outside of any; empty where no call is seen.
        """
        return list(self._reaching(node, frozenset()))

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
        values = self._source.values.of(context)
        found = [known[v] for v in values if isinstance(v, ast.Call) and v in known]
        if found:
            yield Region(block, found[0], len(found) == len(values))

    def _in_header(self, node: ast.AST, above: ast.AST) -> bool:
        """Whether `node` is in the `with` line or the decorators, before the region begins."""
        statement: ast.AST = node
        while self._source.parents.get(statement) is not above:
            statement = self._source.parents[statement]
        return not (isinstance(statement, ast.stmt) and statement in getattr(above, "body", ()))

    def _described(self, call: ast.Call, name: str) -> Autocast:
        source = self._source
        device = CONSTRUCTORS[name][0]
        bare = Autocast(call, name, device, frozenset(), frozenset(), None)
        given = bare.argument("device_type")
        devices = frozenset({device} if device else self._devices(given))
        asked = bare.argument("dtype")
        if asked is None or source.values.constants(asked) == {None}:
            dtypes = frozenset(_DEFAULT_TYPE.get(d, "") for d in devices) - {""}
        else:
            dtypes = source.tensors.types(asked)
        switch = bare.argument("enabled")
        enabled: bool | None = True
        if switch is not None:
            constants = source.values.constants(switch)
            sure = len(constants) == len(source.values.of(switch)) == 1
            enabled = bool(next(iter(constants))) if sure else None
        return Autocast(call, name, device, devices, dtypes, enabled)

    def _devices(self, given: ast.expr | None) -> set[str]:
        if given is None:
            return set()
        found: set[str] = set()
        for value in self._source.values.of(given):
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.add(value.value.partition(":")[0])
            elif isinstance(value, ast.Attribute) and value.attr == "type":
                for maker in self._source.values.of(value.value):
                    if isinstance(maker, ast.Call) and maker.args:
                        found |= self._devices(maker.args[0])
        return found
