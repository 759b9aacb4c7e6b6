"""In what type a tensor is computed when the code runs in a mode, as far as the file shows."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from ampconvert.lint.modes import LOW, float32_operators, low_operators
from ampconvert.lint.patterns import Operation
from ampconvert.lint.scopes import Binding
from ampconvert.lint.settings import Mode
from ampconvert.lint.values import is_self

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

# "tensor": one of a type that the file doesn't show; "plain": a number, an array, no tensor;
# "unknown": not even whether it is a tensor.
Type = Literal["low", "full", "integer", "plain", "tensor", "unknown"]

_PLAIN_METHODS = frozenset({
    "dim", "item", "nelement", "numel", "numpy", "size", "stride", "tolist", "total_seconds",
})  # fmt: skip
_PLAIN_ATTRIBUTES = frozenset({"device", "dtype", "ndim", "shape", "itemsize", "config"})
_VIEWS = frozenset({"T", "mT", "H", "data", "real", "imag", "values"})
_OUTPUTS = frozenset({"logits", "last_hidden_state", "pooler_output", "loss"})
_PLAIN_CALLS = (
    "numpy.*", "math.*", "time.*", "random.*", "scipy.*", "statistics.*", "len", "int", "float",
    "sum", "range", "round", "str", "bool", "jax.*", "tensorflow.*", "keras.*",
)  # fmt: skip
_INTEGERS = frozenset({"argmax", "argmin", "argsort", "bincount", "randint", "randperm", "eq", "ge",
                       "gt", "le", "lt", "ne", "isnan", "isinf", "isfinite"})  # fmt: skip
_PLAIN_ANNOTATIONS = frozenset({"int", "float", "bool", "str", "list", "dict", "numpy.ndarray"})
# Functions that make FP32 tensors unless told otherwise, besides those that Tensors knows.
_PARAMETERS = ("torch.nn.Parameter", "torch.nn.parameter.Parameter", "torch.nn.Buffer",
               "torch.nn.parameter.Buffer")  # fmt: skip
_FROM_SECOND = frozenset({"where", "einsum"})  # the first operand is a mask, or an equation
_FROM_DATA = frozenset({"as_tensor", "from_numpy", "tensor"})
# Operators with several results: all of their operands' type, or values and their indices.
_PARTS = frozenset({"chunk", "meshgrid", "split", "tensor_split", "unbind"})
_WITH_INDICES = frozenset({"kthvalue", "max", "median", "min", "mode", "sort", "topk"})


class Running:
    """Types under a mode. Under autocast `softmax(x)` is float32 and `a @ b` low, whatever the
    operands are, parameters are float32, and other operators give what they are given.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[tuple[ast.expr, Mode], frozenset[Type]] = {}

    def modes(
        self, node: ast.expr, *tensors: ast.expr, operator: str = "", low: str = "float16",
        surely: bool = True,
    ) -> list[Mode]:  # fmt: skip
        """The modes in which `node` runs in `low`, because all `tensors` may be of that type and
        autocast doesn't give `operator` FP32. `surely`: the tensors are known to be tensors.
        """
        owner = self._source.class_of(node)
        steps = owner is not None and "optimizer" in self._source.kinds.of_class(owner)
        return [
            mode
            for mode, types in self._source.modes.at(node).items()
            if low in types
            and not (steps and mode != "half")  # autocast leaves parameters in FP32
            and (mode == "half" or operator not in float32_operators(mode))
            and all(self._runs_low(node, one, mode, low, surely=surely) for one in tensors)
        ]

    def _runs_low(
        self, node: ast.expr, tensor: ast.expr, mode: Mode, low: str, *, surely: bool
    ) -> bool:
        """Whether `tensor` may be low at `node`. Where only tensors are cast, it must be seen to be
        one of them; where no region of autocast is seen to reach, to be a tensor.
        """
        source = self._source
        if mode == "half" and low not in source.modes.of_models:
            return self.types(tensor, mode) == {"low"}
        if mode != "half" and not source.settings.assume:
            surely = surely and any(source.autocasts.reaching(node))
        return self.may_be_low(tensor, mode, surely=surely)

    def surely(self, node: ast.expr, tensor: ast.expr, operator: str = "") -> list[Mode]:
        """The modes in which `tensor` is known to be low at `node`, and `operator` takes it so."""
        found = {
            mode: None
            for low in sorted(LOW)
            for mode in self.modes(node, tensor, operator=operator, low=low)
        }
        return [
            mode
            for mode in found
            if self.types(tensor, mode) == {"low"} and not self._is_mixed(tensor, mode, set())
        ]

    def may_be_low(self, expression: ast.expr, mode: Mode, *, surely: bool = True) -> bool:
        """Whether `expression` can be a low tensor and nothing speaks for another type. What can't
        be told to be a tensor counts only if it must be one (`surely`), for torch gets it.
        """
        wanted: frozenset[Type] = frozenset({"low", "tensor"})
        if surely:
            wanted |= {"unknown"}
        found = self.types(expression, mode)
        return bool(found) and found <= wanted

    def types(self, expression: ast.expr, mode: Mode) -> frozenset[Type]:
        """The types that `expression` may have in this mode; empty for what has none."""
        found = self._known.get((expression, mode))
        if found is None:
            self._known[expression, mode] = frozenset()  # ends circles
            found = frozenset(
                t for value in self._source.values.of(expression) for t in self._of(value, mode)
            )
            self._known[expression, mode] = found
        return found

    def _of(self, value: ast.expr, mode: Mode) -> frozenset[Type]:
        operation = self._source.operations.of(value)
        if operation is not None:
            return self._computed(operation, mode)
        if isinstance(value, ast.Constant) and value.value is None:
            return frozenset()
        if isinstance(value, ast.Constant | ast.JoinedStr | ast.Dict):
            return frozenset({"plain"})
        if isinstance(value, ast.Tuple | ast.List):
            return _joined(self.types(one, mode) for one in value.elts) or frozenset({"plain"})
        if isinstance(value, ast.UnaryOp):
            return self.types(value.operand, mode)
        if isinstance(value, ast.BinOp):
            return _joined([self.types(value.left, mode), self.types(value.right, mode)])
        if isinstance(value, ast.Compare):
            return frozenset({"integer"})
        if isinstance(value, ast.Subscript):
            return self.types(value.value, mode)
        if isinstance(value, ast.Attribute):
            return self._attribute(value, mode)
        if isinstance(value, ast.Name):
            return self._name(value, mode)
        if isinstance(value, ast.Call):
            return self._called(value, mode)
        return frozenset({"unknown"})

    def _computed(self, operation: Operation, mode: Mode) -> frozenset[Type]:
        """What an operator gives: by autocast's lists, by `dtype=`, or what it is given."""
        name = operation.name.removesuffix("_")
        in_place = name != operation.name
        if name == "type_as":
            return self.types(operation.operands[-1], mode)
        given = _joined([self.types(one, mode) for one in _typing(operation)])
        if given == {"plain"} and isinstance(operation.node, ast.BinOp):
            return given
        if mode != "half" and not in_place and "plain" not in given:
            if name in low_operators(mode):
                return frozenset({"full" if self._is_kept_full(operation) else "low"})
            inverse = name == "div" and self._is_number(operation.operand)
            if name in float32_operators(mode) or (
                inverse and "reciprocal" in float32_operators(mode)
            ):
                return _full(given)
        explicit = self._explicit(operation.node) or self._borrowed(operation.node, mode)
        if explicit:
            return explicit
        if name in _INTEGERS:
            return frozenset({"integer"})
        if name in ("stft", "istft") or name.startswith("fft_"):
            return frozenset({"full"})  # hardly any of these takes half
        if name in _FROM_DATA:
            number = self._is_number(operation.operand)
            return frozenset({"plain" if number else "full"})
        if given == {"unknown"} and operation.certain:
            return frozenset({"tensor"})
        return given  # empty in circles: what x is before `x = f(x)` decides

    def _called(self, call: ast.Call, mode: Mode) -> frozenset[Type]:
        source = self._source
        if source.names.is_one(call.func, *_PARAMETERS):
            return frozenset({"tensor" if mode == "half" else "full"})
        explicit = self._explicit(call)
        if explicit:
            return explicit
        if source.names.is_one(call.func, *_PLAIN_CALLS):
            return frozenset({"plain"})
        if isinstance(call.func, ast.Attribute) and not source.names.of(call.func):
            if call.func.attr in _PLAIN_METHODS:
                return frozenset({"plain"})
            if call.func.attr in ("to", "cuda", "cpu", "type", "requires_grad_"):
                return self._moved(call, call.func.value, mode)
        is_torch = any(n.startswith("torch.") for n in source.names.all_of(call.func))
        given = [self.types(argument, mode) for argument in call.args] if mode == "half" else []
        if given and all(types == {"full"} for types in given):
            return frozenset({"full"})  # a half module would refuse it
        if is_torch or source.kinds.is_a(call.func, "module"):
            return frozenset({"tensor"})
        return frozenset({"unknown"})

    def _moved(self, call: ast.Call, tensor: ast.expr, mode: Mode) -> frozenset[Type]:
        """What `x.to(device)` gives, or `x.to(y.dtype)`."""
        borrowed = self._borrowed(call, mode)
        if borrowed:
            return borrowed
        below = self.types(tensor, mode)
        return frozenset({"tensor"}) if "unknown" in below else below

    def _borrowed(self, call: ast.expr, mode: Mode) -> frozenset[Type]:
        """The type of y in `f(x, dtype=y.dtype)` and `x.to(y.dtype)`; empty without such."""
        if not isinstance(call, ast.Call):
            return frozenset()
        is_move = isinstance(call.func, ast.Attribute) and call.func.attr in ("to", "type")
        given = [k.value for k in call.keywords if k.arg == "dtype"]
        for argument in [*given, *(call.args if is_move else ())]:
            for value in self._source.values.of(argument):
                if isinstance(value, ast.Attribute) and value.attr == "dtype":
                    found = self.types(value.value, mode)
                    return frozenset({"tensor"}) if "unknown" in found else found
        return frozenset()

    def _is_kept_full(self, operation: Operation) -> bool:
        """Whether a product's operand was cast to FP32, where no autocast region is to be seen:
        its author wants FP32, and autocast may well be off there.
        """
        full = any(self.types(one, "half") == {"full"} for one in operation.operands[:2])
        return full and not any(self._source.autocasts.reaching(operation.node))

    def _is_mixed(self, expression: ast.expr, mode: Mode, seen: set[ast.expr]) -> bool:
        """Whether something that may be anything goes into a low tensor: `low * mask` is float32
        with a mask that is.
        """
        if "unknown" in self.types(expression, mode):
            return True
        for value in self._source.values.of(expression):
            if value in seen or self._explicit(value):
                continue
            seen.add(value)
            below: tuple[ast.expr, ...] = ()
            operation = self._source.operations.of(value)
            if operation is None:
                below = (value.value,) if isinstance(value, ast.Subscript) else ()
            elif mode == "half" or operation.name not in low_operators(mode):
                below = _typing(operation)
            if any(self._is_mixed(one, mode, seen) for one in below):
                return True
        return False

    def _explicit(self, value: ast.expr) -> frozenset[Type]:
        """The type that a cast, `dtype=` or a factory gives; empty where none shows."""
        found = self._source.tensors.of(value)
        if not found or "unknown" in found:
            return frozenset()
        if isinstance(value, ast.BinOp):
            return frozenset()  # its operands are asked one by one
        return frozenset(_COARSE[t] for t in found)

    def _attribute(self, value: ast.Attribute, mode: Mode) -> frozenset[Type]:
        if value.attr in _VIEWS:
            return self.types(value.value, mode)
        if value.attr in _PLAIN_ATTRIBUTES:
            return frozenset({"plain"})
        if "mask" in value.attr:
            return frozenset({"integer"})  # most are of integers or booleans
        if value.attr in _OUTPUTS:
            return frozenset({"tensor"})
        if value.attr in ("grad", "weight", "bias"):
            return frozenset({"tensor" if mode == "half" else "full"})
        if self.is_buffer(value):
            return frozenset({"tensor" if mode == "half" else "full"})
        return frozenset({"unknown"})

    def is_buffer(self, value: ast.expr) -> bool:
        """Whether `value` is `self.x` and its class calls register_buffer("x", ...), or
        register_parameter. `half()` of the module casts it.
        """
        if not isinstance(value, ast.Attribute) or not is_self(value.value):
            return False
        owner = self._source.class_of(value)
        for call in self._source.names.methods("register_buffer", "register_parameter"):
            if call.args and self._source.class_of(call) is owner:
                name = call.args[0]
                if isinstance(name, ast.Constant) and name.value == value.attr:
                    return True
        return False

    def _name(self, name: ast.Name, mode: Mode) -> frozenset[Type]:
        """A name that values can't follow: a parameter, one of several results, `x += y`."""
        found: set[Type] = set()
        for binding in self._source.scopes.bindings(name):
            above = self._source.parents[binding.node]
            if isinstance(binding.node, ast.arg):
                found.add(self._annotated(binding.node))
            elif isinstance(above, ast.AugAssign):
                before = self.types(above.target, mode)
                numbers = "plain" in before or not before
                found |= _joined([before, self.types(above.value, mode)]) if numbers else before
            elif binding.how != "value" or binding.path:
                found |= self._part(binding, mode)
        return frozenset(found or {"unknown"})

    def _part(self, binding: Binding, mode: Mode) -> frozenset[Type]:
        """One of several results: `a, b = x.chunk(2)`, `values, indices = x.max(0)`."""
        made = self._source.values.of(binding.value) if binding.value is not None else ()
        if len(made) == 1 and len(binding.path) == 1:
            operation = self._source.operations.of(made[0])
            if operation is not None and operation.name in _PARTS:
                return _joined(self.types(one, mode) for one in operation.operands)
            if operation is not None and operation.name in _WITH_INDICES:
                index = binding.path[0] == 1
                return frozenset({"integer"}) if index else self.types(operation.operand, mode)
        return frozenset({"unknown"})

    def _annotated(self, argument: ast.arg) -> Type:
        source = self._source
        if "mask" in argument.arg:
            return "integer"  # most are of integers or booleans
        if argument.annotation is not None:
            names = {
                name
                for part in ast.walk(argument.annotation)
                if isinstance(part, ast.Name | ast.Attribute)
                for name in source.names.all_of(part)
            }
            if names & {"torch.Tensor", "torch.FloatTensor", "torch.HalfTensor"}:
                return "tensor"
            if names & {"torch.LongTensor", "torch.IntTensor", "torch.BoolTensor"}:
                return "integer"
            if names & _PLAIN_ANNOTATIONS:
                return "plain"
        function = source.parents[source.parents[argument]]
        default = (
            source.values.default(function, argument.arg)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            else None
        )
        if isinstance(default, ast.Constant) and default.value is not None:
            return "plain"
        is_forward = isinstance(function, ast.FunctionDef) and function.name == "forward"
        owner = source.class_of(function) if is_forward else None
        if owner is not None and source.kinds.of_class(owner) & {"module", "function"}:
            return "tensor"
        return "unknown"

    def _is_number(self, expression: ast.expr) -> bool:
        return bool(self._source.values.numbers(expression))


_TWO = frozenset({"add", "sub", "mul", "div", "maximum", "minimum", "pow"})
_COARSE: dict[str, Type] = {
    "float16": "low", "bfloat16": "low", "float32": "full", "float64": "full",
    "integer": "integer", "bool": "integer",
}  # fmt: skip
_RANK: tuple[Type, ...] = ("full", "tensor", "low", "unknown", "integer", "plain")


def _typing(operation: Operation) -> tuple[ast.expr, ...]:
    """The operands whose types make that of the result."""
    name = operation.name.removesuffix("_")
    if name in _FROM_SECOND:
        return operation.operands[1:3]
    both = isinstance(operation.node, ast.BinOp) or name in _TWO
    return operation.operands[: 2 if both else 1]


def _joined(parts: Iterable[frozenset[Type]]) -> frozenset[Type]:
    """The types of what several operands give: full wins, numbers and integers yield."""
    found: set[Type] = set()
    for part in parts:
        if not found:
            found = set(part)
        elif part:
            found = {min(a, b, key=_RANK.index) for a in found for b in part}
    return frozenset(found)


def _full(given: frozenset[Type]) -> frozenset[Type]:
    """What is given, taken to FP32: numbers and integers stay what they are."""
    found: set[Type] = {t if t in ("plain", "integer") else "full" for t in given}
    return frozenset(found or {"full"})


_TOLD: dict[Mode, str] = {
    "cuda-autocast": "under autocast", "cpu-autocast": "under autocast on a CPU",
    "half": "in a half model",
}  # fmt: skip


def told(modes: Iterable[Mode]) -> str:
    """Modes in words: "under autocast or in a half model"."""
    return " or ".join(_TOLD[mode] for mode in _TOLD if mode in set(modes))
