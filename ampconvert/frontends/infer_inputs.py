"""Guessing a model's inputs: shapes from its first layers, settled by running forward."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ampconvert.errors import UserError
from ampconvert.frontends.entry import Entry
from ampconvert.frontends.first_layers import Layer, any_layer, first_layer
from ampconvert.frontends.forward import Forward, Parameter, call, declared_inputs
from ampconvert.frontends.random_data import Recipe, draw_all
from ampconvert.frontends.run_source import first_line, running
from ampconvert.frontends.shape_guess import Facts, Setting, options

BUDGET = 90.0  # seconds of trying
_COMBINATIONS = 24  # per setting
Recipes = dict[str, Recipe]


@dataclass(frozen=True)
class Guess:
    """Recipes under which forward ran, and what they were read from."""

    recipes: Recipes
    why: str


def guess(entry: Entry, forward: Forward, seed: int) -> Guess:
    """Recipes for every input that forward must get, found by running it on random data.

    Raises UserError with the `--input` options to write when nothing runs within BUDGET seconds.
    """
    if isinstance(entry.model, ExportedProgram):
        return Guess(program_recipes(entry.model), f"the placeholders of {entry.name}")
    parameters = _wanted(entry.model, forward)
    if not parameters:
        return Guess({}, "forward, which needs no inputs")
    layers = layers_of(entry.model, parameters)
    facts = Facts.of(entry.model, forward.names)
    errors: list[str] = []
    weak: Recipes | None = None  # it ran, but gave NaN or infinity
    with running(f"trying inputs for {forward.shown}", entry.folders):
        for recipes in _tries(entry.model, parameters, layers, facts):
            finite = _runs(entry, forward, recipes, seed, errors)
            if finite:
                return Guess(recipes, _why(layers, recipes))
            weak = weak or (recipes if finite is False else None)
    if weak is not None:
        return Guess(weak, f"{_why(layers, weak)} (the outputs are not finite)")
    where = f"{entry.path}: " if entry.path is not None else ""
    raise UserError(where + _give_up(parameters, layers, facts, forward, errors))


def likely(entry: Entry, forward: Forward, name: str) -> Recipe | None:
    """The likeliest recipe for one parameter, without running anything; None if nothing tells."""
    if isinstance(entry.model, ExportedProgram):
        return program_recipes(entry.model).get(name)
    parameter = next((p for p in forward.parameters if p.name == name), None)
    if parameter is None:
        return None
    facts = Facts.of(entry.model, forward.names)
    layer = layers_of(entry.model, [parameter]).get(name)
    return next(iter(options(parameter, layer, facts, next(facts.settings()))), None)


def layers_of(model: nn.Module, parameters: list[Parameter]) -> dict[str, Layer | None]:
    """The layer each parameter meets first; the model's first layer for the first parameter."""
    layers = {p.name: first_layer(model, p.name) for p in parameters}
    first = parameters[0].name
    if layers[first] is None:
        layers[first] = any_layer(model)
    return layers


def program_recipes(program: ExportedProgram) -> Recipes:
    """Recipes from the shapes and types that an exported program recorded for its inputs."""
    wanted = {str(name) for name in program.graph_signature.user_inputs}
    recipes: Recipes = {}
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and node.name in wanted and isinstance(value, torch.Tensor):
            shape = tuple(d if isinstance(d, int) else _hint(d) for d in value.shape)
            recipes[node.name] = Recipe(shape, str(value.dtype).removeprefix("torch."))
    return recipes


def _hint(size: torch.SymInt) -> int:
    """The example's size of a dynamic dimension: 2 where the program does not keep it."""
    hint = getattr(size.node, "hint", None)
    return int(hint) if hint is not None else 2


def _wanted(model: nn.Module, forward: Forward) -> list[Parameter]:
    """The parameters to fill: the required ones, else those a Hugging Face model is run with."""
    required = [p for p in forward.parameters if p.required]
    if required or not forward.parameters:
        return required
    main = getattr(model, "main_input_name", None)
    if main not in forward.names:
        return [forward.parameters[0]]
    names = [main, *(n for n in ("attention_mask",) if main == "input_ids")]
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        names.append("decoder_input_ids")
    if hasattr(getattr(model, "config", None), "vision_config"):
        names.append("pixel_values")
    wanted = [p for p in forward.parameters if p.name in names]
    if getattr(getattr(model, "config", None), "use_cache", False):
        # A cache among the outputs is no tensor, and one pass does not need it.
        wanted += [Parameter("use_cache", False, True, bool, False)] * (
            "use_cache" in forward.names
        )
    return wanted


def _tries(
    model: nn.Module,
    parameters: list[Parameter],
    layers: Mapping[str, Layer | None],
    facts: Facts,
) -> Iterator[Recipes]:
    """Recipes to try, each once, likeliest first, until BUDGET is spent."""
    declared = _declared(model, parameters)
    if declared:
        yield declared
    end = time.monotonic() + BUDGET
    seen: set[tuple[Recipe, ...]] = set()
    names = [p.name for p in parameters]
    for setting in facts.settings():
        choices = [_choices(p, parameters, layers, facts, setting) for p in parameters]
        for combination in itertools.islice(itertools.product(*choices), _COMBINATIONS):
            if combination not in seen:
                seen.add(combination)
                yield dict(zip(names, combination, strict=True))
            if time.monotonic() > end:
                return


def _choices(
    parameter: Parameter,
    parameters: list[Parameter],
    layers: Mapping[str, Layer | None],
    facts: Facts,
    setting: Setting,
) -> list[Recipe]:
    layer, first = layers.get(parameter.name), parameters[0]
    if layer is not None or parameter is first:
        return options(parameter, layer, facts, setting)
    # No layer tells: like the first input (forward(a, b): a + b), or what the name suggests.
    like_first = options(first, layers.get(first.name), facts, setting)
    own = options(parameter, None, facts, setting)
    tells = parameter.plain is not None or (own and own[0].dtype != facts.dtype)
    named = own if tells else []
    return list(dict.fromkeys([*named, *like_first, *own]))


def _declared(model: nn.Module, parameters: list[Parameter]) -> Recipes:
    """What a built Keras model says about its inputs; None in a shape is free."""
    inputs = declared_inputs(model)
    if len(inputs) != len(parameters):
        return {}
    return {
        p.name: Recipe(tuple(2 if d is None else int(d) for d in i.shape), i.dtype)
        for p, i in zip(parameters, inputs, strict=True)
    }


def _runs(
    entry: Entry, forward: Forward, recipes: Recipes, seed: int, errors: list[str]
) -> bool | None:
    """Whether forward's outputs are finite; None, with a line in `errors`, when it raises."""
    try:
        batch = forward.pack(draw_all(recipes, seed, device_of(entry.model)))
        outputs = [o for o in pytree.tree_leaves(call(entry, batch)) if isinstance(o, torch.Tensor)]
    except Exception as error:  # any of it: the next shapes may fit
        errors.append(f"{_shown(recipes)}: {type(error).__name__}: {first_line(error, 120)}")
        return None
    if not outputs:
        errors.append(f"{_shown(recipes)}: forward gives no tensor")
        return None
    return all(bool(torch.isfinite(o).all()) for o in outputs if o.is_floating_point())


def device_of(model: nn.Module | ExportedProgram) -> torch.device:
    """Where the model's weights are: its inputs must be there, too."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return next((t.device for t in tensors), torch.device("cpu"))


def _why(layers: Mapping[str, Layer | None], recipes: Recipes) -> str:
    used = [
        layer
        for name, layer in layers.items()
        if layer is not None
        and recipes[name].plain is None
        and isinstance(layer.module, nn.Embedding | nn.EmbeddingBag)
        == (recipes[name].dtype == "int64")  # else the name told, as of a mask
    ]
    sources = [str(layer) for layer in dict.fromkeys(used)]
    return f"{', '.join(sources[:3]) or 'the names in forward'}: {_shown(recipes)}"


def _shown(recipes: Recipes) -> str:
    return ", ".join(
        f"{name}={r.plain}" if r.plain is not None else f"{name} {r.dtype}{list(r.shape)}"
        for name, r in recipes.items()
    )


def _give_up(
    parameters: list[Parameter],
    layers: Mapping[str, Layer | None],
    facts: Facts,
    forward: Forward,
    errors: list[str],
) -> str:
    setting = next(facts.settings())
    written = []
    for parameter in parameters:
        found = _choices(parameter, parameters, layers, facts, setting)
        recipe = found[0] if found else Recipe((setting.batch, 16), facts.dtype)
        written.append(recipe.option(parameter.name))
    tried = f"{len(errors)} guesses failed, the first with {errors[0]}" if errors else "no guess"
    return (
        f"cannot guess the input{'s' if len(parameters) > 1 else ''} "
        f"{', '.join(p.name for p in parameters)} of {forward.shown}: {tried}\n"
        f"Write them with their real shapes, for example {' '.join(written)}, or add to the "
        "model's file\n    def example_inputs():\n        return (...)  # what forward is given"
    )
