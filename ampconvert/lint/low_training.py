"""Optimizers that step parameters which are themselves in a low type."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ampconvert.lint.weights import Made, Weights, low

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

_NAIVE = ("Adam", "AdamW", "Adamax", "Adagrad", "Adadelta", "ASGD", "NAdam", "RAdam", "RMSprop",
          "Rprop", "SGD")  # fmt: skip
OPTIMIZERS = tuple(f"torch.optim.{name}" for name in _NAIVE)
_THROUGH = ("filter", "list", "tuple", "iter", "itertools.chain")


@dataclass(frozen=True, eq=False)
class Trained:
    """An optimizer of torch.optim over the parameters of a model that is surely in `low`.

    `made` is how the model came about, `name` the optimizer's class.
    """

    optimizer: ast.Call
    name: str
    made: Made
    low: str


def trained_low(source: Source) -> Iterator[Trained]:
    """The optimizers of this file that step low parameters, if the file trains at all.

    None in files that use a library which keeps FP32 copies, or adapters of a type of their own.
    """
    weights = Weights(source)
    if not weights.may_differ or weights.is_taken_over or weights.has_adapters:
        return
    if not source.names.methods("backward") or not source.names.methods("step"):
        return
    for call in source.names.calls(*OPTIMIZERS):
        name = source.names.of(call.func).rpartition(".")[2]
        given = [k.value for k in call.keywords if k.arg == "params"] + call.args[:1]
        for model in _models(source, given[0]) if given and name else ():
            for at in _steps(source, call):
                found = [made for made in weights.sure(model, at) if low(made.types)]
                yield from (Trained(call, name, made, low(made.types)) for made in found)
                if found:
                    break


def _steps(source: Source, optimizer: ast.Call) -> Iterator[ast.expr]:
    """Where the optimizer steps, `optimizer.step()` or `scaler.step(optimizer)`; where it is made,
    if no step of it can be seen.
    """
    seen = False
    for call in source.names.methods("step"):
        assert isinstance(call.func, ast.Attribute)
        if any(optimizer in source.values.of(one) for one in (call.func.value, *call.args[:1])):
            seen = True
            yield call
    if not seen:
        yield optimizer


def _models(source: Source, parameters: ast.expr) -> Iterator[ast.expr]:
    """`m` of `m.parameters()`, and of lists and groups of them. No copies, no selections: those may
    be of another type.
    """
    for value in source.values.of(parameters):
        if isinstance(value, ast.Call):
            function = value.func
            if isinstance(function, ast.Attribute) and function.attr == "parameters":
                yield function.value
            elif source.names.is_one(function, *_THROUGH):
                for argument in value.args[-1:]:
                    yield from _models(source, argument)
        elif isinstance(value, ast.List | ast.Tuple):
            for element in value.elts:
                yield from _models(source, element)
        elif isinstance(value, ast.Dict):
            for key, entry in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "params":
                    yield from _models(source, entry)
        elif isinstance(value, ast.ListComp | ast.GeneratorExp) and len(value.generators) == 1:
            yield from _of_each(source, value)


def _of_each(source: Source, each: ast.ListComp | ast.GeneratorExp) -> Iterator[ast.expr]:
    """`m` of `[p for p in m.parameters()]`, `[p for n, p in m.named_parameters() if ...]`."""
    (loop,) = each.generators
    target = loop.target.elts[-1] if isinstance(loop.target, ast.Tuple) else loop.target
    maker = loop.iter
    if (
        isinstance(each.elt, ast.Name)
        and isinstance(target, ast.Name)
        and each.elt.id == target.id
        and isinstance(maker, ast.Call)
        and isinstance(maker.func, ast.Attribute)
        and maker.func.attr in ("parameters", "named_parameters")
    ):
        yield maker.func.value
