"""How low types come into a file, and which operators run in them there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache, cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.model_casts import ModelCasts
from ampconvert.lint.names import data
from ampconvert.lint.settings import Mode

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

LOW = frozenset({"float16", "bfloat16"})
# Words without one of which no low type comes into a file: asked before the file is parsed.
WORDS = (
    b"autocast", b".half", b"import half", b'"half"', b"'half'", b"HalfTensor", b"BFloat16Tensor",
    b"float16", b"fp16", b"bf16", b"GradScaler", b"mixed_precision", b"precision=", b"precision =",
    b"apex",
)  # fmt: skip

_DEVICE_MODE: dict[str, Mode] = {"cuda": "cuda-autocast", "cpu": "cpu-autocast"}
_SCALERS = ("torch.amp.GradScaler", "torch.cuda.amp.GradScaler")
_PRECISION_ARGUMENTS = ("precision", "mixed_precision")  # of Lightning, of Accelerate
_WITH_DIGITS = ("numpy.", "pandas.", "torch.", "sklearn.", "decimal.")
_TRAINING_ARGUMENTS = ("transformers.TrainingArguments", "transformers.Seq2SeqTrainingArguments")


class Modes:
    """Tells from calls in the file how low types come about, and in which modes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._model_casts = ModelCasts(source)

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
        where one is seen, the file's otherwise. Where autocast is off, only "half" is left, and
        also beside the regions of a function that nothing in the file calls.
        """
        regions = self._source.autocasts.reaching(node)
        if not regions and self._has_regions(self._source.function(node)):
            assumed = self._source.settings.assume
            return {m: types for m, types in self.found.items() if m == "half" or m in assumed}
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

    @property
    def of_models(self) -> frozenset[str]:
        """The low types to which whole models are cast, or that the settings assume. Mode "half"
        without them is only a tensor's: `x = x.half()`.
        """
        return self._model_casts.types

    def _has_regions(self, function: ast.AST | None) -> bool:
        """Whether `function` switches autocast on itself, for a part of what it does."""
        source = self._source
        return function is not None and any(
            source.function(region.node) is function and not region.is_off
            for region in source.autocasts.regions.values()
        )

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
        casts = source.names.methods("to", "type")
        for call in [*casts, *source.names.calls("torch.set_default_dtype")]:
            types = frozenset().union(*(source.tensors.types(a) for a in call.args)) & LOW
            if types:
                yield "half", types
        yield from self._of_apex()
        yield from self._keywords()

    def _of_apex(self) -> Iterator[tuple[Mode, frozenset[str]]]:
        """Apex patches functions at O1, which is its default, and casts the model at O2 and O3."""
        for call in self._source.names.calls("apex.amp.initialize"):
            given = [k.value for k in call.keywords if k.arg == "opt_level"]
            levels = self._source.values.constants(given[0]) if given else {"O1"}
            if levels != {"O0"}:
                mode: Mode = "half" if levels and levels <= {"O2", "O3"} else "cuda-autocast"
                yield mode, frozenset({"float16"})

    def _keywords(self) -> Iterator[tuple[Mode, frozenset[str]]]:
        source = self._source
        known = {autocast.call for autocast in source.autocasts.calls}
        for keyword in source.nodes(ast.keyword):
            call = source.parents[keyword]
            if not isinstance(call, ast.Call):
                continue
            if keyword.arg in ("dtype", "torch_dtype", "param_dtype"):
                types = source.tensors.types(keyword.value) & LOW
                if types and call not in known:
                    yield "half", types
            elif keyword.arg in ("fp16", "bf16"):
                if self._is_asked(keyword.value, call):
                    low = frozenset({"float16" if keyword.arg == "fp16" else "bfloat16"})
                    yield "cuda-autocast", low
            elif keyword.arg in _PRECISION_ARGUMENTS and not self._is_for_digits(call):
                for value in source.values.constants(keyword.value):
                    yield from _configured(str(value))

    def _is_asked(self, switch: ast.expr, call: ast.Call) -> bool:
        """Whether `fp16=switch` is on, or an option of a trainer that may be."""
        constants = self._source.values.constants(switch)
        if self._source.names.is_one(call.func, *_TRAINING_ARGUMENTS):
            return not (constants and constants <= {False, None})
        return True in constants

    def _is_for_digits(self, call: ast.Call) -> bool:
        """Whether a `precision` counts decimal places: numpy.set_printoptions(precision=16)."""
        names = self._source.names.all_of(call.func)
        return any(name.startswith(_WITH_DIGITS) for name in names)


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
