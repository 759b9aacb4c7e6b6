"""Operators as a file calls them, whatever the form: function, method, module or sign."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ampconvert.findings import Edit
from ampconvert.lint.values import is_self

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_PLACES = (
    ("torch.nn.functional.", ""), ("torch.linalg.", "linalg_"), ("torch.fft.", "fft_"),
    ("torch.special.", ""), ("torch.Tensor.", ""), ("torch.", ""),
)  # fmt: skip
_SAME = {
    "true_divide": "div", "divide": "div", "divide_": "div_", "multiply": "mul", "subtract": "sub",
    "clip": "clamp", "clip_": "clamp_", "expit": "sigmoid", "absolute": "abs",
}  # fmt: skip
# Classes of torch.nn whose call is one operator.
_MODULES = {
    "Bilinear": "bilinear", "Linear": "linear", "LazyLinear": "linear", "Embedding": "embedding",
    "Conv1d": "conv1d", "Conv2d": "conv2d", "Conv3d": "conv3d",
    "ConvTranspose1d": "conv_transpose1d", "ConvTranspose2d": "conv_transpose2d",
    "ConvTranspose3d": "conv_transpose3d", "LSTMCell": "lstm_cell", "GRUCell": "gru_cell",
    "LayerNorm": "layer_norm", "RMSNorm": "rms_norm", "GroupNorm": "group_norm",
    "Softmax": "softmax", "Softmax2d": "softmax", "Softmin": "softmin", "LogSoftmax": "log_softmax",
    "Sigmoid": "sigmoid", "LogSigmoid": "logsigmoid", "Softplus": "softplus", "Tanh": "tanh",
    "ReLU": "relu", "LeakyReLU": "leaky_relu", "GELU": "gelu", "SiLU": "silu", "ELU": "elu",
    "Dropout": "dropout", "Identity": "clone", "CosineSimilarity": "cosine_similarity",
    "PairwiseDistance": "pairwise_distance", "CrossEntropyLoss": "cross_entropy",
    "NLLLoss": "nll_loss", "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "BCELoss": "binary_cross_entropy", "MSELoss": "mse_loss", "L1Loss": "l1_loss",
    "SmoothL1Loss": "smooth_l1_loss", "HuberLoss": "huber_loss", "KLDivLoss": "kl_div",
}  # fmt: skip
# Methods that only a tensor has, and those that arrays, lists or loggers may have as well.
_TENSOR_METHODS = frozenset({
    "abs", "acos", "add", "addmm", "amax", "amin", "asin", "atan", "baddbmm", "bmm", "cdist",
    "chunk", "clamp", "clamp_max", "clamp_min", "contiguous", "cos", "cosh", "detach", "div",
    "erf", "erfinv", "exp", "expand", "expand_as", "expm1", "flatten", "gather", "index_select",
    "lerp", "log", "log10", "log1p", "log2", "log_softmax", "logsumexp", "masked_fill",
    "masked_select", "matmul", "mm",
    "mul", "narrow", "neg", "new_full", "new_ones", "new_zeros", "norm", "permute", "pow",
    "reciprocal", "relu", "rsqrt", "sigmoid", "sin", "sinh", "softmax", "sqrt", "square", "sub",
    "tan", "tanh", "tril", "triu", "type_as", "unbind", "unsqueeze", "view", "view_as",
})  # fmt: skip
_SHARED_METHODS = frozenset({
    "clip", "cumprod", "cumsum", "dot", "max", "mean", "min", "prod",
    "repeat", "reshape", "round", "split", "squeeze", "std", "sum", "t", "transpose", "var",
})  # fmt: skip
# Of those, what strings, numbers and lists have too.
_COMMON_METHODS = frozenset({"repeat", "round", "split", "t"})
_ARRAYS = ("numpy", "pandas", "scipy", "jax", "tensorflow", "mlx", "cupy")
_IN_PLACE = frozenset(
    f"{name}_" for name in (
        "abs", "add", "addcdiv", "addcmul", "clamp", "clamp_max", "clamp_min", "div", "exp",
        "expm1", "lerp", "log", "log10", "log1p", "log2", "masked_fill", "mul", "pow",
        "reciprocal", "relu", "rsqrt", "sigmoid", "sqrt", "square", "sub", "tanh",
    )
)  # fmt: skip
# Methods that others have as well, but not without arguments: logger.log(level, text).
_BARE_METHODS = frozenset({"log", "log10", "log2", "t"})
_METHODS = _TENSOR_METHODS | _SHARED_METHODS | _IN_PLACE
_SIGNS: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow",
    ast.MatMult: "matmul",
}  # fmt: skip
_MOVES = frozenset({"cuda", "cpu", "to", "half", "bfloat16", "float", "eval", "train"})
_SHAPED = frozenset({"expand", "permute", "repeat", "reshape", "view"})
_PRODUCTS = frozenset({"matmul", "mm", "bmm", "linalg_matmul"})


@dataclass(frozen=True, eq=False)
class Operation:
    """One use of an operator. `name` is its function's in torch ("exp", "exp_" in place) or
    "linalg_norm". `operands` are the positional arguments, of a method the object first, of a
    module's call what it is called with and then the arguments of its constructor. `certain`: only
    torch can be meant, where `a / b` and `x.sum()` may be numbers and arrays.
    """

    name: str
    node: ast.expr
    operands: tuple[ast.expr, ...]
    keywords: dict[str, ast.expr]
    certain: bool = True

    @property
    def operand(self) -> ast.expr:
        """The first operand."""
        return self.operands[0]

    def argument(self, name: str, position: int) -> ast.expr | None:
        """The argument `name`, which is operand number `position` where given by position."""
        if name in self.keywords:
            return self.keywords[name]
        return self.operands[position] if position < len(self.operands) else None

    def is_function(self, source: Source) -> bool:
        """Whether this is a call of torch's function, not of a method, a module or a sign."""
        return isinstance(self.node, ast.Call) and bool(operator(source.names.of(self.node.func)))


class Operations:
    """All uses of operators in a file."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[ast.expr, Operation | None] = {}

    def of(self, expression: ast.expr) -> Operation | None:
        """The operator that `expression` is a use of, or None. Names are not followed."""
        if expression not in self._known:
            self._known[expression] = self._described(expression)
        return self._known[expression]

    def behind(self, expression: ast.expr, *names: str) -> Operation | None:
        """The operator whose result `expression` is, through names and functions of this file;
        None if it may be something else, or is none of `names`.
        """
        found = self.all_behind(expression)
        if len(found) == 1 and found[0] is not None and found[0].name in names:
            return found[0]
        return None

    def all_behind(self, expression: ast.expr) -> list[Operation | None]:
        """The operators whose results `expression` may be; None for what is none."""
        return [self.of(value) for value in self._source.values.of(expression)]

    def made_of(self, expression: ast.expr) -> frozenset[str]:
        """The tensors that `expression` is made of, through names: what is written at the ends of
        all operators, indices and attributes in it.
        """
        found: set[str] = set()
        self._collect(expression, found, set())
        return frozenset(found)

    def all(self, *names: str) -> list[Operation]:
        """Every use of these operators, in the order of the text."""
        source = self._source
        wanted = {*names, *(other for other, name in _SAME.items() if name in names)}
        last = {name.removeprefix("linalg_") for name in wanted}
        calls = set(source.names.methods(*last))
        calls.update(call for name in names for call in self._bare.get(name, ()))
        calls.update(self._of_modules(wanted))
        nodes: list[ast.expr] = list(calls)
        signs = {sign for sign, name in _SIGNS.items() if name in names}
        if signs:
            nodes += [b for b in source.nodes(ast.BinOp) if type(b.op) in signs]
        found = [self.of(node) for node in nodes]
        return sorted(
            (one for one in found if one is not None and one.name in names),
            key=lambda one: (one.node.lineno, one.node.col_offset, -(one.node.end_col_offset or 0)),
        )

    def squared(self, expression: ast.expr) -> ast.expr | None:
        """What `expression` is the square of: `x * x`, `x ** 2`, `x.square()`; else None."""
        found = self.of(expression)
        if found is None:
            return None
        if found.name == "square":
            return found.operand
        if found.name == "pow":
            exponent = found.argument("exponent", 1)
            two = exponent is not None and self._source.values.numbers(exponent) == {2.0}
            return found.operand if two else None
        if found.name == "mul" and len(found.operands) > 1:
            return found.operand if self.same(*found.operands[:2]) else None
        return None

    def product(self, expression: ast.expr) -> tuple[ast.expr, ast.expr] | None:
        """The factors of a matrix product: `a @ b`, `torch.matmul(a, b)`, `a.bmm(b)`."""
        found = self.of(expression)
        if found is None or found.name not in _PRODUCTS or len(found.operands) != 2:
            return None
        return found.operands[0], found.operands[1]

    def same(self, a: ast.AST, b: ast.AST) -> bool:
        """Whether two expressions are written alike, and their names bound by the same places."""
        if type(a) is not type(b):
            return False
        if isinstance(a, ast.Name) and isinstance(b, ast.Name):
            scopes = self._source.scopes
            return a.id == b.id and scopes.bindings(a) == scopes.bindings(b)
        return all(
            self._same_field(getattr(a, name, None), getattr(b, name, None))
            for name in a._fields
            if name not in ("ctx", "kind")
        )

    def renamed(self, operation: Operation, name: str) -> tuple[str, tuple[Edit, ...]] | None:
        """The text that calls the operator `name` as `operation` is called, with its arguments,
        and the imports this needs; None for signs and modules.
        """
        source, call = self._source, operation.node
        if not isinstance(call, ast.Call):
            return None
        text, function = source.segment(call), source.segment(call.func)
        if not text.startswith(function):
            return None  # (f)(x)
        arguments = text[len(function) :]
        dotted = source.names.of(call.func)
        if operator(dotted):
            spelled, imports = source.edits.spelled(f"{dotted.rpartition('.')[0]}.{name}", call)
            return spelled + arguments, imports
        if isinstance(call.func, ast.Attribute) and call.func.value is operation.operand:
            return f"{function[: -len(call.func.attr)]}{name}{arguments}", ()
        return None

    def _collect(self, expression: ast.expr, found: set[str], seen: set[ast.expr]) -> None:
        for value in self._source.values.of(expression):
            if value in seen:
                continue
            seen.add(value)
            operation = self.of(value)
            if operation is not None:
                for operand in operation.operands:
                    self._collect(operand, found, seen)
            elif isinstance(value, ast.Call):
                for argument in value.args:
                    self._collect(argument, found, seen)
                if isinstance(value.func, ast.Attribute):
                    self._collect(value.func.value, found, seen)
            elif isinstance(value, ast.Subscript | ast.UnaryOp):
                below = value.value if isinstance(value, ast.Subscript) else value.operand
                self._collect(below, found, seen)
            elif (
                isinstance(value, ast.Name | ast.Attribute)
                and not is_self(value)
                and not self._source.names.all_of(value)
            ):
                found.add(ast.unparse(value))

    def _same_field(self, a: object, b: object) -> bool:
        if isinstance(a, list) and isinstance(b, list):
            pairs = zip(a, b, strict=False)
            return len(a) == len(b) and all(self._same_field(x, y) for x, y in pairs)
        if isinstance(a, ast.AST) and isinstance(b, ast.AST):
            return self.same(a, b)
        return type(a) is type(b) and a == b

    def _described(self, expression: ast.expr) -> Operation | None:
        if isinstance(expression, ast.BinOp):
            sign = _SIGNS.get(type(expression.op))
            operands = (expression.left, expression.right)
            return Operation(sign, expression, operands, {}, False) if sign else None
        if not isinstance(expression, ast.Call):
            return None
        keywords = {k.arg: k.value for k in expression.keywords if k.arg}
        arguments = expression.args
        if len(keywords) < len(expression.keywords):
            return None
        if any(isinstance(a, ast.Starred) for a in arguments):
            return self._reshaped(expression)
        name = operator(self._source.names.of(expression.func))
        if name:
            given = [keywords.pop("input")] if "input" in keywords else []
            return _made(name, expression, [*given, *arguments], keywords)
        if isinstance(expression.func, ast.Attribute) and self._is_method(expression):
            method = expression.func.attr
            receiver = expression.func.value
            certain = self._is_certain(method, keywords)
            return Operation(
                _SAME.get(method, method), expression, (receiver, *arguments), keywords, certain
            )
        return self._by_module(expression)

    def _is_certain(self, method: str, keywords: dict[str, ast.expr]) -> bool:
        """Whether only a tensor can have this method, here: arrays take `axis`, not `dim`, and
        where no library with arrays is imported there are none.
        """
        if method not in _SHARED_METHODS or keywords.keys() & {"dim", "keepdim"}:
            return True
        return method not in _COMMON_METHODS and not self._has_arrays

    @cached_property
    def _has_arrays(self) -> bool:
        return bool(self._source.names.imports(*_ARRAYS, *(f"{name}.*" for name in _ARRAYS)))

    def _reshaped(self, call: ast.Call) -> Operation | None:
        """`x.view(*shape)`: a shape may be unpacked, other arguments are not known then."""
        function = call.func
        if not isinstance(function, ast.Attribute) or function.attr not in _SHAPED:
            return None
        operands = (function.value,)
        return Operation(function.attr, call, operands, {}) if self._is_method(call) else None

    def _is_method(self, call: ast.Call) -> bool:
        function = call.func
        assert isinstance(function, ast.Attribute)
        receiver = function.value
        if function.attr not in _METHODS or is_self(receiver):
            return False
        if function.attr in _BARE_METHODS and (call.args or call.keywords):
            return False
        names = self._source.names
        of_super = isinstance(receiver, ast.Call) and names.of(receiver.func) == "super"
        return not of_super and not names.all_of(function)

    def _by_module(self, call: ast.Call) -> Operation | None:
        """`self.softmax(x)` with `self.softmax = nn.Softmax(-1)`, `nn.Softmax(-1)(x)`."""
        if len(call.args) == 0 or not self._module_names:
            return None
        function = call.func
        if isinstance(function, ast.Attribute) and not is_self(function.value):
            return None
        if not isinstance(function, ast.Attribute | ast.Name | ast.Call):
            return None
        made = self._source.values.of(function)
        constructor = self._constructor(made[0]) if len(made) == 1 else None
        if constructor is None or any(isinstance(a, ast.Starred) for a in constructor.args):
            return None
        prefix, _, kind = self._source.names.of(constructor.func).rpartition(".")
        if prefix != "torch.nn" or kind not in _MODULES:
            return None
        keywords = {k.arg: k.value for k in constructor.keywords if k.arg}
        return _made(_MODULES[kind], call, [*call.args, *constructor.args], keywords)

    def _constructor(self, made: ast.expr) -> ast.Call | None:
        """`nn.Softmax(1)` in `nn.Softmax(1).to(device)`."""
        while isinstance(made, ast.Call):
            function = made.func
            if not isinstance(function, ast.Attribute) or function.attr not in _MOVES:
                return made
            made = function.value
        return None

    def _of_modules(self, names: set[str]) -> Iterator[ast.Call]:
        """Calls of what may be modules, if the file makes one of these operators."""
        if not any(_MODULES[kind] in names for kind in self._module_names):
            return
        for call in self._source.nodes(ast.Call):
            found = self.of(call)
            if found is not None and found.name in names:
                yield call

    @cached_property
    def _bare(self) -> dict[str, list[ast.Call]]:
        """Calls of functions that were imported by name, or stand under another name."""
        found: dict[str, list[ast.Call]] = {}
        for call in self._source.nodes(ast.Call):
            if isinstance(call.func, ast.Name):
                name = operator(self._source.names.of(call.func))
                if name:
                    found.setdefault(name, []).append(call)
        return found

    @cached_property
    def _module_names(self) -> frozenset[str]:
        calls = self._source.names.calls(*(f"torch.nn.{kind}" for kind in _MODULES))
        names = {self._source.names.of(call.func).rpartition(".")[2] for call in calls}
        return frozenset(names & set(_MODULES))


def operator(dotted: str) -> str:
    """The operator that a function of torch is: "softmax" for "torch.nn.functional.softmax"; ""."""
    for place, prefix in _PLACES:
        if dotted.startswith(place):
            rest = dotted[len(place) :]
            plain = rest.isidentifier() and not rest[0].isupper()
            return prefix + _SAME.get(rest, rest) if plain else ""
    return ""


def _made(
    name: str, node: ast.expr, operands: list[ast.expr], keywords: dict[str, ast.expr]
) -> Operation | None:
    return Operation(name, node, tuple(operands), keywords) if operands else None
