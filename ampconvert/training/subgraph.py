"""One graph of a model, as Dynamo captured it: classified, planned, converted, and run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._guards import detect_fake_mode

from ampconvert.classify import Verdicts, classify
from ampconvert.cost import Target, load_target
from ampconvert.front import denied
from ampconvert.plan import Plan, Problem
from ampconvert.rules import RuleBook, load
from ampconvert.training.apply import apply
from ampconvert.training.capture import bodies
from ampconvert.training.checkpoints import checkpoint_eagerly
from ampconvert.training.groups import layers
from ampconvert.training.kernels import lacking
from ampconvert.training.observe import places
from ampconvert.training.read import read
from ampconvert.training.respell import respelled
from ampconvert.training.settings import Settings

if TYPE_CHECKING:
    from ampconvert.training.state import Training

TABLE = (
    "Its gradient adds up every row that was looked up, in the type of the table: a 16-bit sum of "
    "many small numbers stops growing."
)

_numbers = itertools.count()

Compile = Callable[[fx.GraphModule], Callable[..., Any]]


class Subgraph:
    """A captured graph that runs as its training says.

    Its inputs, parameters among them, and its outputs are float32. `convert` makes it anew when the
    training has learnt that an operator needs float32.
    """

    def __init__(
        self, training: Training, module: fx.GraphModule, compile_inner: Compile | None
    ) -> None:
        self.training = training
        self.number = next(_numbers)  # in the order of capture
        self.differentiates = torch.is_grad_enabled()
        self.whole = Part(training, module, self.differentiates)
        self.converted: fx.GraphModule
        self.run: Callable[..., Any]
        self.convert(compile_inner)

    def __call__(self, *args: Any) -> Any:
        """The graph's outputs; what Dynamo calls."""
        training = self.training
        if training.observing and self.differentiates and training.scaling.guarded:
            # Where Dynamo cuts a graph at the buckets of DistributedDataParallel, it asks what the
            # results are like, with tensors that hold nothing.
            if detect_fake_mode(args) is not None:
                return self.run(*args)
            return training.observe(self.converted, self.whole.places, args)
        return self.run(*args)

    def convert(self, compile_inner: Compile | None = None) -> None:
        """Plan and apply again, with what is known by now; without a compiler PyTorch runs it.

        A compiler holds the inputs, which a graph should not keep alive, so it is not kept.
        """
        # AOTAutograd, which compilers start from, fails in recurrent layers on a CPU (torch 2.13),
        # in float32 too. Their kernels are fused as it is.
        if self.whole.recurs:
            compile_inner = None
        self.converted = self.whole.convert(compiled=compile_inner is not None)
        if compile_inner is None:
            checkpoint_eagerly(self.converted)
            self.run = respelled(self.converted).forward
        else:
            self.run = compile_inner(self.converted)


class Part:
    """A graph with a plan of its own: a whole one, or what an activation checkpoint runs."""

    def __init__(self, training: Training, module: fx.GraphModule, differentiates: bool) -> None:
        self.training, self.module = training, module
        self.graph = read(module)
        self.places = places(self.graph)
        self.lacking: dict[str, str] = {}  # why a call has no kernel in `low`
        settings = training.settings
        self.scaling = training.scaling if settings.scales and differentiates else None
        self.bodies = {
            body.attribute: Part(training, body.module, differentiates) for body in bodies(module)
        }
        self.verdicts = classify(self.graph, RuleBook((*settings.rules, *load())), settings.low)
        self.plan: Plan

    @property
    def labels(self) -> list[str]:
        """The paths of the parameters and buffers that it reads, bodies included."""
        own = [value.label for value in self.graph.values.values() if value.label]
        return own + [label for body in self.bodies.values() for label in body.labels]

    @property
    def recurs(self) -> bool:
        """Whether it has a recurrent layer."""
        own = any(d.work == "recurrent" for d in self.verdicts.decisions.values())
        return own or any(body.recurs for body in self.bodies.values())

    def convert(self, *, compiled: bool) -> fx.GraphModule:
        """The module with casts, and its bodies with theirs, to be `compiled` or run as it is."""
        settings = self.training.settings
        groups = layers(self.graph) if settings.loss_scale == "layerwise" else {}
        while True:
            self.plan = self._planned()
            converted = apply(self.module, self.plan, self.scaling, groups, compiled=compiled)
            missing = lacking(converted, self.graph, self.plan)
            if not missing:
                break
            self.lacking |= missing
        for attribute, body in self.bodies.items():
            setattr(converted, attribute, body.convert(compiled=compiled))
        return converted

    def _planned(self) -> Plan:
        settings, kept = self.training.settings, self.training.kept_full
        reasons = dict.fromkeys(self._look_ups(), ("table-gradient", TABLE))
        reasons |= {name: ("no-kernel", why) for name, why in self.lacking.items()}
        reasons |= {
            name: ("overflow-in-training", kept[place.name])
            for name, place in self.places.items()
            if place.name in kept
        }
        target = self._target()
        problem = Problem(
            self.graph, _with_denials(self.verdicts, reasons), settings.low, target, trains=True
        )
        return problem.plan(free=_prefers_speed(settings, target))

    def _look_ups(self) -> list[str]:
        """The calls that take rows of a parameter by integers."""
        found = []
        for node in self.graph.nodes:
            read = [value for value in self.graph.input_values(node) if value is not None]
            tables = [v for v in read if v.kind == "weight" and v.is_float32 and v.const is None]
            indices = [v for v in read if v.dtype.startswith("int")]
            by_rule = self.verdicts.decisions[node.name]
            if tables and indices and by_rule.cls == "clear" and by_rule.evidence != "user":
                found.append(node.name)
        return found

    def _target(self) -> Target:
        """The costs of the device that most of the graph's inputs are on."""
        fakes = [n.meta.get("val") for n in self.module.graph.nodes if n.op == "placeholder"]
        devices = [fake.device.type for fake in fakes if isinstance(fake, torch.Tensor)]
        on_cpu = bool(devices) and max(set(devices), key=devices.count) == "cpu"
        return load_target("torch-cpu") if on_cpu else _with_matmul_precision(load_target("h100"))


def _prefers_speed(settings: Settings, target: Target) -> bool:
    """Whether an operator runs in `low` only where that saves time, casts counted."""
    gains = target.rate[settings.low] > target.rate["float32"]
    return settings.prefer == "speed" if settings.prefer else gains


def _with_matmul_precision(target: Target) -> Target:
    """`target` with the rate that PyTorch gives float32 products now: TF32 has to be asked for."""
    if torch.get_float32_matmul_precision() != "highest":
        return target
    return replace(target, rate={**target.rate, "float32": target.vector["float32"]})


def _with_denials(verdicts: Verdicts, reasons: Mapping[str, tuple[str, str]]) -> Verdicts:
    """`verdicts` with calls kept in float32: by name the rule and the reason."""
    decisions = dict(verdicts.decisions)
    for name, (rule, reason) in reasons.items():
        if name in decisions:
            decisions[name] = denied(decisions[name], rule, reason)
    return replace(verdicts, decisions=decisions)
