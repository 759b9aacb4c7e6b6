"""How low types come into a file, and which operators run in them there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache, cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.names import data
from ampconvert.lint.settings import Mode

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

LOW = frozenset({"float16", "bfloat16"})
# Words without one of which no low type comes into a file: asked before the file is parsed.
WORDS = (b"autocast", b"half", b"float16", b"fp16", b"bf16", b"GradScaler", b"mixed", b"precision")

_DEVICE_MODE: dict[str, Mode] = {"cuda": "cuda-autocast", "cpu": "cpu-autocast"}
_SCALERS = ("torch.amp.GradScaler", "torch.cuda.amp.GradScaler")
_PRECISION_ARGUMENTS = {"precision": "lightning", "mixed_precision": "accelerate"}


class Modes:
    """Tells from calls in the file how low types come about, and in which modes."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @cached_property
    def found(self) -> dict[Mode, frozenset[str]]:
        """The modes that this file shows or the settings assume, with the low types of each."""
        found: dict[Mode, set[str]] = {mode: set(LOW) for mode in self._source.settings.assume}
        for mode, types in self._evidence():
            found.setdefault(mode, set()).update(types)
        return {mode: frozenset(types) for mode, types in found.items()}

    @property
    def low_types(self) -> frozenset[str]:
        """Every low type that may be at work in this file; empty where there is no sign of any."""
        return frozenset().union(*self.found.values())

    def at(self, node: ast.AST) -> dict[Mode, frozenset[str]]:
        """The modes that may hold at `node`: the region around it or around calls of its function
        where one is seen, the file's otherwise. Where autocast is off, only "half" is left.
        """
        regions = self._source.autocasts.reaching(node)
        if not regions or None in regions:
            return self.found
        held: dict[Mode, set[str]] = {}
        for region in regions:
            assert region is not None
            if region.is_off:
                held.setdefault("half", set()).update(self.found.get("half", ()))
                continue
            modes = {_DEVICE_MODE.get(device) for device in region.autocast.devices} - {None}
            for mode in modes or {"cuda-autocast"}:
                assert mode is not None
                held.setdefault(mode, set()).update(region.autocast.dtypes & LOW or LOW)
        return {mode: frozenset(types) for mode, types in held.items() if types}

    def runs_low(self, operator: str, node: ast.AST, low: str = "float16") -> bool:
        """Whether `operator` ("softmax"; "exp_" in place) may run in `low` at `node`.

        Under autocast on a GPU softmax, sum, exp and their like take FP32 whatever they are given.
        """
        return any(
            low in types and not (mode != "half" and operator in float32_operators(mode))
            for mode, types in self.at(node).items()
        )

    def _evidence(self) -> Iterator[tuple[Mode, frozenset[str]]]:
        source = self._source
        for autocast in source.autocasts.calls:
            if autocast.enabled is not False:
                for device in autocast.devices or {"cuda"}:
                    yield (_DEVICE_MODE.get(device, "cuda-autocast"), autocast.dtypes & LOW or LOW)
        if source.names.references(*_SCALERS):
            yield "cuda-autocast", frozenset({"float16"})
        for name in ("half", "bfloat16"):
            if any(not call.args for call in source.names.methods(name)):
                yield "half", frozenset({"float16" if name == "half" else name})
        for call in source.names.methods("to", "type"):
            types = frozenset().union(*(source.tensors.types(a) for a in call.args)) & LOW
            if types:
                yield "half", types
        yield from self._keywords()

    def _keywords(self) -> Iterator[tuple[Mode, frozenset[str]]]:
        for keyword in self._source.nodes(ast.keyword):
            if keyword.arg in ("dtype", "torch_dtype"):
                call = self._source.parents[keyword]
                types = self._source.tensors.types(keyword.value) & LOW
                known = {autocast.call for autocast in self._source.autocasts.calls}
                if types and call not in known:
                    yield "half", types
            elif keyword.arg in ("fp16", "bf16"):
                if True in self._source.values.constants(keyword.value):
                    yield (
                        "cuda-autocast",
                        frozenset({"float16" if keyword.arg == "fp16" else "bfloat16"}),
                    )
            elif keyword.arg in _PRECISION_ARGUMENTS:
                for value in self._source.values.constants(keyword.value):
                    yield from _configured(str(value))


@cache
def float32_operators(mode: Mode) -> frozenset[str]:
    """The operators that take FP32 under autocast; none without it."""
    if mode == "half":
        return frozenset()
    return frozenset(data("autocast")[mode.partition("-")[0]]["float32"])


@cache
def low_operators(mode: Mode) -> frozenset[str]:
    """The operators that take the low type under autocast; none without it."""
    if mode == "half":
        return frozenset()
    return frozenset(data("autocast")[mode.partition("-")[0]]["low"])


def _configured(value: str) -> Iterator[tuple[Mode, frozenset[str]]]:
    """A precision as Lightning and Accelerate spell it: 16, "16-mixed", "bf16", "16-true"."""
    if "16" in value:
        types = frozenset({"bfloat16" if "bf16" in value else "float16"})
        yield ("half" if value.endswith("true") else "cuda-autocast"), types
