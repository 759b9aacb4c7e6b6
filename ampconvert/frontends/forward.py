"""How a model is called: the parameters of its forward, and one call that says what went wrong."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.errors import UserError
from ampconvert.frontends.entry import Entry
from ampconvert.frontends.run_source import describe, running

Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Batch = tuple[Args, Kwargs]


@dataclass(frozen=True)
class Parameter:
    """One parameter of forward that a caller can name."""

    name: str
    required: bool
    keyword_only: bool = False
    annotation: Any = None
    default: Any = None

    @property
    def plain(self) -> type | None:
        """bool, int or float where forward wants a Python number and no tensor."""
        for kind in (bool, int, float):
            if self.annotation in (kind, kind.__name__) or type(self.default) is kind:
                return kind
        return None


@dataclass(frozen=True)
class Forward:
    """A model's forward as its callers see it."""

    shown: str  # "Net.forward(x, mask=None)"
    parameters: tuple[Parameter, ...]
    signature: inspect.Signature | None = None  # None for an exported program
    spec: pytree.TreeSpec | None = None  # how an exported program nests its flat inputs
    positional: bool = False  # forward(*args): the parameters are names for positions

    @classmethod
    def of(cls, entry: Entry) -> Forward:
        """The parameters of `entry`'s model, in order; for a saved program its flat inputs."""
        if isinstance(entry.model, ExportedProgram):
            names = [str(name) for name in entry.model.graph_signature.user_inputs]
            parameters = tuple(Parameter(name, True) for name in names)
            shown = f"{entry.name}({', '.join(names)})"
            return cls(shown, parameters, None, entry.model.call_spec.in_spec)
        signature = inspect.signature(entry.model.forward)
        named = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        parameters = tuple(
            Parameter(
                p.name,
                p.default is p.empty,
                p.kind is p.KEYWORD_ONLY,
                None if p.annotation is p.empty else p.annotation,
                None if p.default is p.empty else p.default,
            )
            for p in signature.parameters.values()
            if p.kind not in named
        )
        variadic = [p for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL]
        words = [p.name if p.required else f"{p.name}={p.default}" for p in parameters]
        stars = {named[0]: "*", named[1]: "**"}
        words += [stars[p.kind] + p.name for p in signature.parameters.values() if p.kind in named]
        shown = f"{entry.name}.forward({', '.join(words)})"
        if parameters or not variadic:
            return cls(shown, parameters, signature)
        # forward(*args) names nothing: Keras models know their inputs, others get one.
        inputs = [str(getattr(i, "name", "")) for i in declared_inputs(entry.model)]
        names = [n for n in inputs if n.isidentifier()] or [variadic[0].name]
        parameters = tuple(Parameter(name, True) for name in names)
        return cls(shown, parameters, signature, None, True)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return tuple(p.name for p in self.parameters)

    @property
    def required(self) -> tuple[str, ...]:
        """Those that a call must give."""
        return tuple(p.name for p in self.parameters if p.required)

    def check_names(self, given: Sequence[str], source: str) -> None:
        """Raise UserError where `given` names no parameter, or leaves a required one out."""
        takes_any = (
            self.signature is not None
            and not self.positional
            and any(p.kind is p.VAR_KEYWORD for p in self.signature.parameters.values())
        )
        for name in given:
            if name not in self.names and not takes_any:
                close = difflib.get_close_matches(name, self.names, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise UserError(f"{source}: there is no input {name!r} in {self.shown}{hint}")
        missing = [name for name in self.required if name not in given]
        if missing:
            raise UserError(
                f"{source}: {self.shown} also needs {', '.join(missing)}; add "
                + " ".join(f"--input '{name}:DTYPE:SHAPE'" for name in missing)
            )

    def pack(self, values: Mapping[str, Any]) -> Batch:
        """Values by name as a call: by position as far as the order allows, then by keyword."""
        if self.spec is not None:
            leaves = [values[name] for name in self.names]
            args_in, kwargs_in = pytree.tree_unflatten(leaves, self.spec)
            return tuple(args_in), dict(kwargs_in)
        args: list[Any] = []
        rest = dict(values)
        for parameter in self.parameters:
            if parameter.keyword_only or parameter.name not in rest:
                break
            args.append(rest.pop(parameter.name))
        return tuple(args), rest

    def bind(self, batch: Batch, source: str) -> dict[str, Any]:
        """What each parameter gets from a call, in the call's order.

        Raises UserError if forward takes no such call.
        """
        args, kwargs = batch
        if self.signature is None:
            leaves = pytree.tree_leaves((args, kwargs))
            if len(leaves) != len(self.parameters):
                raise UserError(f"{source}: gives {len(leaves)} tensors for {self.shown}")
            return dict(zip(self.names, leaves, strict=True))
        if self.positional and len(args) == len(self.names):
            return {**dict(zip(self.names, args, strict=True)), **kwargs}
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            given = [*("a value" for _ in args), *(f"{name}=" for name in kwargs)]
            raise UserError(
                f"{source}: gives ({', '.join(given)}), but the model is called as {self.shown}: "
                f"{error}"
            ) from None
        any_keyword = inspect.Parameter.VAR_KEYWORD
        by_position = {
            name: value
            for name, value in bound.items()
            if name not in kwargs and self.signature.parameters[name].kind is not any_keyword
        }
        return {**by_position, **kwargs}

    def called_like(self, example: Batch, batch: Batch, source: str) -> Batch:
        """`batch` as a call of `example`'s form: a program that was captured by position takes
        nothing by keyword.
        """
        args, kwargs = example
        if len(batch[0]) == len(args) and batch[1].keys() == kwargs.keys():
            return batch
        values = self.bind(batch, source)
        by_position = [name for name in self.bind(example, source) if name not in kwargs]
        return tuple(values[n] for n in by_position), {n: values[n] for n in kwargs}

    def tensors(self, batch: Batch, source: str) -> dict[str, torch.Tensor]:
        """Every tensor of a call by its flat name: "x", "states.0", "batch.image"."""
        found: dict[str, torch.Tensor] = {}
        for name, value in self.bind(batch, source).items():
            for path, leaf in pytree.tree_flatten_with_path(value)[0]:
                if isinstance(leaf, torch.Tensor):
                    words = [str(getattr(k, "key", getattr(k, "idx", k))) for k in path]
                    found[".".join([name, *words])] = leaf
        return found


def declared_inputs(model: object) -> list[Any]:
    """The symbolic inputs that a built Keras model carries (with shape and dtype); else none."""
    inputs = getattr(model, "inputs", None)
    if not isinstance(inputs, list | tuple):
        return []
    return [i for i in inputs if hasattr(i, "shape") and isinstance(getattr(i, "dtype", 0), str)]


def call(entry: Entry, batch: Batch) -> object:
    """The model's answer to one batch, without gradients. Raises whatever the model raises."""
    args, kwargs = batch
    model = entry.model.module() if isinstance(entry.model, ExportedProgram) else entry.model
    with torch.no_grad():
        return model(*args, **kwargs)


def check_call(entry: Entry, forward: Forward, batch: Batch, source: str) -> None:
    """Run the model on `batch` once; UserError with its shapes and the user's line if it fails."""
    shapes = ", ".join(
        f"{name}: {shown_type(tensor)}" for name, tensor in forward.tensors(batch, source).items()
    )
    doing = f"running {forward.shown} on the inputs from {source} ({shapes})"
    failed: Exception | None = None
    with running(doing, entry.folders):
        try:
            call(entry, batch)
        except Exception as error:  # whatever the user's forward raises
            failed = error
    if failed is not None:
        message = describe(failed, doing, entry.folders)
        raise UserError(
            f"{message}\nCheck the inputs' shapes and types, or give others with --input"
        )


def shown_type(tensor: torch.Tensor) -> str:
    """The tensor as messages show it: float32[1, 3, 224, 224]."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
