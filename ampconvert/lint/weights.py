"""What type a model's parameters have: by its constructor, and by casts after it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ampconvert.lint.modes import LOW
from ampconvert.lint.names import data, fits

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_CASTS = {"half": "float16", "bfloat16": "bfloat16", "float": "float32", "double": "float64"}
_MOVES = ("to", "type")
# Layers that raise where their input and their weights differ in type.
MIXING_RAISES = frozenset({
    "Bilinear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d",
    "ConvTranspose3d", "GRU", "GRUCell", "LSTM", "LSTMCell", "Linear", "MultiheadAttention", "RNN",
    "RNNCell", "Transformer", "TransformerDecoder", "TransformerDecoderLayer",
    "TransformerEncoder", "TransformerEncoderLayer",
})  # fmt: skip
_LIBRARIES = ("torchvision.models.*", "timm.create_model", "segmentation_models_pytorch.*")
_MOST_LEVELS = 4  # classes within classes
# Libraries that wrap a model in something with FP32 weights, or cast what goes in.
_TAKE_OVER = ("apex.*", "deepspeed.*", "fairscale.*", "colossalai.*", "megatron.*", "fairseq.*",
              "composer.*", "accelerate.*", "lightning.*")  # fmt: skip
_ADAPTERS = ("peft.*", "loralib.*", "diffusers.training_utils.*")


@dataclass(frozen=True, eq=False)
class Made:
    """One way in which a model comes about: its constructor, and the outermost cast after it.

    `cast` is `.half()` of `Net().half()`, or the keyword of `from_pretrained(dtype=...)`; None
    where nothing on the way casts. `types` are those it gives; {"unknown"} where it doesn't show.
    """

    constructor: ast.Call
    cast: ast.Call | ast.keyword | None
    types: frozenset[str]


class Weights:
    """Types of parameters, for the rules that need to be sure of them."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @cached_property
    def is_taken_over(self) -> bool:
        """Whether the file uses a library that handles types itself."""
        return bool(self._source.names.imports(*_TAKE_OVER))

    @cached_property
    def may_differ(self) -> bool:
        """Whether any module is called in a file that names a low type."""
        source = self._source
        return "half" in source.modes.found or bool(source.names.methods("half", "bfloat16"))

    @cached_property
    def has_adapters(self) -> bool:
        """Whether only some parameters are trained, as with LoRA, which may have a type apart."""
        return bool(self._source.names.imports(*_ADAPTERS))

    def sure(self, model: ast.expr, at: ast.AST) -> list[Made]:
        """How `model`, as it stands at `at`, came about, with the type that its parameters have
        then; empty unless that is sure in every case.
        """
        found = []
        for made in self._made(model, None):
            if made is None:
                return []
            after = self._after(made, at)
            if after is None or "unknown" in after.types or len(after.types) != 1:
                return []
            found.append(after)
        return found

    def mixing_raises(self, constructor: ast.Call) -> bool:
        """Whether a model meets its input with a layer that takes no other type than its own, and
        nothing in it casts.
        """
        return self._has_layers(constructor, _MOST_LEVELS)

    def _made(
        self, model: ast.expr, cast: ast.Call | None, seen: frozenset[ast.expr] = frozenset()
    ) -> Iterator[Made | None]:
        """The constructors behind `model`, None for what can't be followed."""
        for value in self._source.values.of(model):
            if value in seen:
                continue
            inner = self._wrapped(value) if isinstance(value, ast.Call) else None
            if isinstance(value, ast.Call) and inner is not None:
                outermost = cast or (value if self._cast(value) is not None else None)
                yield from self._made(inner, outermost, seen | {value})
            elif isinstance(value, ast.Call) and self._is_constructor(value):
                yield self._constructed(value, cast)
            else:
                yield None

    def _wrapped(self, call: ast.Call) -> ast.expr | None:
        """The model in `model.half()`, `torch.compile(model)`, `DDP(model)`."""
        through = data("kinds")["through"]
        names = self._source.names.all_of(call.func)
        if any(name in through["calls"] for name in names):
            given = [k.value for k in call.keywords if k.arg in ("model", "module")]
            return call.args[0] if call.args else next(iter(given), None)
        if names or not isinstance(call.func, ast.Attribute):
            return None
        return call.func.value if call.func.attr in (*through["methods"], "type") else None

    def _is_constructor(self, call: ast.Call) -> bool:
        names = self._source.names.all_of(call.func)
        last = {name.rpartition(".")[2] for name in names}
        if any(name.startswith("torch.nn.") for name in names):
            return any(one[:1].isupper() for one in last)
        if any(fits(name, library) for name in names for library in _LIBRARIES):
            return True
        if last & {"from_pretrained", "from_config"}:
            return self._source.kinds.is_a(call, "module")
        defined = self._source.values.definition(call.func)
        return isinstance(defined, ast.ClassDef) and "module" in self._source.kinds.of_class(
            defined
        )

    def _constructed(self, call: ast.Call, cast: ast.Call | None) -> Made:
        if cast is not None:
            return Made(call, cast, self._cast(cast) or frozenset({"unknown"}))
        for keyword in call.keywords:
            if keyword.arg in ("dtype", "torch_dtype"):
                types = self._source.tensors.types(keyword.value) or frozenset({"unknown"})
                return Made(call, keyword, types)
        names = self._source.names.all_of(call.func)
        loaded = any(n.rpartition(".")[2] in ("from_pretrained", "from_config") for n in names)
        opaque = loaded or any(k.arg is None for k in call.keywords) or self._default_is_set
        owner = self._source.class_of(call)
        if owner is not None and "module" in self._source.kinds.of_class(owner):
            opaque = True  # a part of a model, which is cast as a whole somewhere else
        return Made(call, None, frozenset({"unknown" if opaque else "float32"}))

    def _after(self, made: Made, at: ast.AST) -> Made | None:
        """`made` after the casts in place that surely come before `at`; None where one may."""
        last: Made | None = made
        within = set(ast.walk(made.cast)) if made.cast is not None else set()
        for call in self._in_place.get(made.constructor, ()):
            types = self._cast(call) or frozenset()
            if call in within or (last is not None and types == last.types):
                continue
            if self._is_before(call, at, 3):
                last = Made(made.constructor, call, types)
            elif not self._is_after(call, at):
                last = None
        return last

    def _is_before(self, cast: ast.Call, at: ast.AST, left: int) -> bool:
        """Whether `cast` has surely run once `at` does: above it in its function, in those that
        call this, or in the constructor of its class.
        """
        source = self._source
        own, other = source.function(at), source.function(cast)
        if own is other:
            above = source.span(cast) < source.span(at)
            return above and not _conditions(source, cast, {at, *source.ancestors(at)})
        if other is not None and other.name == "__init__":
            same = source.class_of(at) is source.class_of(cast)
            return same and not _conditions(source, cast, {other})
        calls = source.values.calls_of(own) if own is not None and left else []
        return bool(calls) and all(self._is_before(cast, call, left - 1) for call in calls)

    def _is_after(self, cast: ast.Call, at: ast.AST) -> bool:
        """Whether `cast` comes only once `at` is done with, in the same function."""
        source = self._source
        if source.function(cast) is not source.function(at):
            return False
        loops = {a for a in source.ancestors(at) if isinstance(a, ast.For | ast.While)}
        return source.span(cast) > source.span(at) and not loops & set(source.ancestors(cast))

    @cached_property
    def _in_place(self) -> dict[ast.Call, list[ast.Call]]:
        """The casts of each constructed model, in the order of the text."""
        found: dict[ast.Call, list[ast.Call]] = {}
        for call in self._source.names.methods(*_CASTS, *_MOVES):
            assert isinstance(call.func, ast.Attribute)
            if self._cast(call) is None:
                continue
            for made in self._made(call.func.value, None):
                if made is not None:
                    found.setdefault(made.constructor, []).append(call)
        return found

    @cached_property
    def _default_is_set(self) -> bool:
        return bool(
            self._source.names.references(
                "torch.set_default_dtype", "torch.set_default_tensor_type"
            )
        )

    def _cast(self, call: ast.Call) -> frozenset[str] | None:
        """The types that a method call gives a model; None where it only moves it."""
        function = call.func
        if not isinstance(function, ast.Attribute):
            return None
        if function.attr in _CASTS and not call.args:
            return frozenset({_CASTS[function.attr]})
        if function.attr not in _MOVES:
            return None
        given = [*call.args, *(k.value for k in call.keywords if k.arg == "dtype")]
        types = frozenset[str]().union(*(self._source.tensors.types(one) for one in given))
        if types:
            return types
        unsure = [one for one in given if not self._only_moves(one)]
        return frozenset({"unknown"}) if unsure or function.attr == "type" else None

    def _only_moves(self, argument: ast.expr) -> bool:
        source = self._source
        if any(isinstance(c, str | int) for c in source.values.constants(argument)):
            return True
        # What can't be followed is a device, unless its name speaks of a type.
        spelled = source.segment(argument).lower()
        return source.kinds.is_a(argument, "device") or not any(
            word in spelled for word in ("type", "half", "16", "precision")
        )

    def _has_layers(self, constructor: ast.Call, left: int) -> bool:
        source = self._source
        names = source.names.all_of(constructor.func)
        if any(fits(name, library) for name in names for library in _LIBRARIES):
            return True
        if any(name.startswith("torch.nn.") for name in names):
            parts = [constructor, *(c for c in ast.walk(constructor) if isinstance(c, ast.Call))]
            return any(
                name.startswith("torch.nn.") and name.rpartition(".")[2] in MIXING_RAISES
                for part in parts
                for name in source.names.all_of(part.func)
            )
        defined = source.values.definition(constructor.func)
        if not isinstance(defined, ast.ClassDef) or not left:
            return False
        below = [n for one in source.values.lineage(defined)
                 for n in source.walk(one, functions=True)]  # fmt: skip
        if any(_casts(node) for node in below):
            return False
        calls = [node for node in below if isinstance(node, ast.Call)]
        return any(self._is_constructor(c) and self._has_layers(c, left - 1) for c in calls)


def low(types: frozenset[str]) -> str:
    """The low type that these are; "" if they are none, or several."""
    return next(iter(types)) if len(types) == 1 and types <= LOW else ""


def _conditions(source: Source, node: ast.AST, around: set[ast.AST]) -> list[ast.AST]:
    """What decides whether `node` runs, besides what is in `around`."""
    return [
        above for above in source.ancestors(node)
        if isinstance(above, ast.If | ast.IfExp | ast.Try | ast.While | ast.For | ast.Match)
        and above not in around
    ]  # fmt: skip


def _casts(node: ast.AST) -> bool:
    """Whether something in a model's class may change a type: `.to(...)`, `.float()`, `dtype`."""
    if isinstance(node, ast.Attribute):
        return node.attr in (*_CASTS, *_MOVES, "type_as", "dtype", "autocast")
    return isinstance(node, ast.keyword) and node.arg == "dtype"
