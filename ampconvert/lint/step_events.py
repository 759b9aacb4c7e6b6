"""What a training step does: each call that scales, goes backward, clips, steps or updates."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ampconvert.lint.step_places import Environment, Place, Places, Test
from ampconvert.lint.step_roles import Roles, last_word

if TYPE_CHECKING:
    from ampconvert.lint.source import Source

Kind = Literal[
    "make", "scale", "assign", "backward", "unscale", "clip", "grad", "step", "optimizer_step",
    "update", "zero_grad", "scheduler_step", "get_scale", "autograd_grad", "passed",
]  # fmt: skip
# How a loss comes into backward: scaled, not scaled, by a framework that sees to it, by one that
# certainly scales it, or unknown.
Scaled = Literal["scaled", "plain", "framework", "framework scales", "unknown"]

_CLIPS = (
    "torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_value_",
    "torch.nn.utils.clip_grad_norm", "torch.nn.utils.clip_grads_with_norm_",
    "torch.nn.utils.get_total_norm", "timm.utils.dispatch_clip_grad",
    "timm.utils.clip_grad.dispatch_clip_grad", "timm.utils.agc.adaptive_clip_grad",
    "timm.utils.adaptive_clip_grad", "apex.contrib.clip_grad.clip_grad_norm_",
)  # fmt: skip
# Methods whose calls are looked at; the rest of a file is never visited.
_METHODS = (
    "scale", "backward", "unscale_", "unscale_gradients", "unscale_grads", "clip_grad_norm_",
    "clip_gradients", "manual_backward", "step", "update", "zero_grad", "get_scale",
)  # fmt: skip
# Words in the names of functions that are given a scaler and do no step with it.
_ONLY_LOOK = (
    "load", "restart", "resume", "save", "checkpoint", "ckpt", "log", "print", "isinstance", "type",
    "getattr", "hasattr", "setattr", "bool", "str", "append", "prepare",
)  # fmt: skip
# Of these numbers of gradients a factor of 65536 shows; of `is None` or isfinite it does not.
_MEASURES = frozenset({"norm", "mean", "max", "min", "sum", "std", "clamp_", "clip_", "item"})
_MEASURING = ("torch.norm", "torch.linalg.norm", "torch.linalg.vector_norm", "torch.clamp_")


@dataclass(frozen=True)
class Guard:
    """A condition under which something runs: `test`, as written in `node`, has to be `holds`."""

    node: ast.expr
    test: Test
    holds: bool


@dataclass(frozen=True, eq=False)
class Event:
    """One thing that a training step does, at one place in the flow of control.

    `scaler` and `optimizer` are the variables that take part, `target` the one that a scaled loss
    is kept in, or the scheduler that steps. `scaled` says how the loss of "backward" and
    "autograd_grad" comes; `target` is where it was kept, if that decides. `function` holds the
    node, `calls` are the calls through which the flow came here, `loops` and `guards` those
    around it, calls' included, the outermost first; `entered` says how many of the guards are
    outside of each loop.
    """

    kind: Kind
    node: ast.expr
    scaler: Place | None = None
    optimizer: Place | None = None
    target: Place | None = None
    scaled: Scaled | None = None
    function: ast.AST | None = None
    loops: tuple[ast.stmt, ...] = ()
    guards: tuple[Guard, ...] = ()
    entered: tuple[int, ...] = ()
    calls: tuple[ast.Call, ...] = ()

    def guards_in(self, loop: ast.stmt | None) -> tuple[Guard, ...]:
        """The conditions inside of a loop around it; all of them for None."""
        return self.guards[self.entered[self.loops.index(loop)] :] if loop else self.guards

    @property
    def loop(self) -> ast.stmt | None:
        """The innermost loop around it."""
        return self.loops[-1] if self.loops else None

    @property
    def call(self) -> ast.Call:
        """The node, where it is known to be a call."""
        assert isinstance(self.node, ast.Call)
        return self.node


class Events:
    """Recognises events in one source."""

    def __init__(self, source: Source, places: Places, roles: Roles) -> None:
        self._source = source
        self._places = places
        self._roles = roles

    @cached_property
    def calls(self) -> list[ast.Call]:
        """Every call that may be an event, or hands a scaler on; empty without a scaler."""
        if not self._roles.scalers and not self._roles.made and not self._roles.framework_scales:
            return []
        source = self._source
        found = source.names.methods(*_METHODS)
        found += source.names.calls(*_CLIPS, "torch.autograd.backward", "torch.autograd.grad")
        found += self._roles.made
        # `model.forward_backward(x)` of another file: a backward pass that is not seen.
        found += [c for c in source.nodes(ast.Call) if "backward" in last_word(c.func)]
        found += [call for call in source.nodes(ast.Call) if self._hands_on(call)]
        return list(dict.fromkeys(found))

    @cached_property
    def gradients(self) -> list[ast.Attribute]:
        """The `.grad` whose numbers are measured or clamped."""
        return [
            node
            for node in self._source.nodes(ast.Attribute)
            if node.attr == "grad" and isinstance(node.ctx, ast.Load) and self._is_measured(node)
        ]

    def of(self, node: ast.expr, environment: Environment) -> Iterator[Event]:
        """The events that `node`, one of `calls` or `gradients`, is."""
        if isinstance(node, ast.Attribute):
            yield Event("grad", node)
            return
        assert isinstance(node, ast.Call)
        names = self._source.names
        if node in self._roles.made:
            yield Event("make", node, self._roles.made_place(node, environment))
        elif names.is_one(node.func, *_CLIPS):
            yield Event("clip", node)
        elif names.is_one(node.func, "torch.autograd.backward", "torch.autograd.grad"):
            kind: Kind = "backward" if names.is_one(node.func, "torch.autograd.backward") else (
                "autograd_grad")  # fmt: skip
            losses = node.args[:1] or [k.value for k in node.keywords if k.arg == "outputs"]
            yield self._of_loss(kind, node, losses[0] if losses else node, environment)
        else:
            found: list[Event] = []
            if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
                found = list(self._of_method(node, node.func, environment))
            elif "backward" in last_word(node.func):
                found = [Event("backward", node, scaled="unknown")]
            yield from found or self._passed(node, environment)

    def _of_method(
        self, call: ast.Call, method: ast.Attribute, environment: Environment
    ) -> Iterator[Event]:
        receiver, name = method.value, method.attr
        place = self._places.of(receiver, environment)
        first = self._places.of(call.args[0], environment) if call.args else None
        if name == "backward":
            yield self._backward(call, receiver, environment)
        elif name == "manual_backward":
            by_lightning = any(
                self._source.names.is_one(made.func, "lightning.pytorch.Trainer")
                for made in self._roles.framework_scales
            )
            yield Event(
                "backward", call, scaled="framework scales" if by_lightning else "framework"
            )
        elif name in ("unscale_gradients", "unscale_grads"):
            yield Event("unscale", call)
        elif name == "clip_grad_norm_" and not self._roles.is_framework(receiver):
            yield Event("clip", call)
        elif name == "zero_grad":
            yield Event("zero_grad", call, optimizer=place)
        elif name == "step" and not self._roles.is_scaler(receiver, environment):
            yield from self._stepped(call, receiver, environment)
        elif self._roles.is_scaler(receiver, environment):
            if name == "unscale_":
                yield Event("unscale", call, place, first)
            elif name == "step":
                yield Event("step", call, place, first)
            elif name == "update":
                yield Event("update", call, place)
            elif name == "get_scale":
                yield Event("get_scale", call, place)
            elif name == "scale" and call.args:
                yield Event("scale", call, place)

    def _stepped(
        self, call: ast.Call, receiver: ast.expr, environment: Environment
    ) -> Iterator[Event]:
        place = self._places.of(receiver, environment)
        if self._roles.is_optimizer(receiver, environment):
            yield Event("optimizer_step", call, optimizer=place)
        elif self._roles.is_scheduler(receiver):
            yield Event("scheduler_step", call, target=place)

    def _backward(self, call: ast.Call, receiver: ast.expr, environment: Environment) -> Event:
        if call.args and self._roles.scale_call(call.args[0], environment) is not None:
            return self._of_loss("backward", call, call.args[0], environment)
        if call.args or self._roles.is_framework(receiver):
            # `engine.backward(loss)`; `loss.backward(gradient)` can't be told from it.
            makers = set(self._source.values.of(receiver))
            scales = not makers.isdisjoint(self._roles.framework_scales)
            return Event("backward", call, scaled="framework scales" if scales else "framework")
        return self._of_loss("backward", call, receiver, environment)

    def _of_loss(
        self, kind: Kind, call: ast.Call, loss: ast.expr, environment: Environment
    ) -> Event:
        scale = self._roles.scale_call(loss, environment)
        if scale is not None:
            assert isinstance(scale.func, ast.Attribute)
            scaler = self._places.of(scale.func.value, environment)
            return Event(kind, call, scaler, scaled="scaled")
        values = self._source.values.of(loss)
        scales = [self._roles.scale_call(value, environment) for value in values]
        target = self._places.of(loss, environment)
        if any(scales):
            return Event(kind, call, target=target, scaled="unknown")
        plain = not any(self._may_be_scaled(value) for value in (loss, *values))
        return Event(kind, call, target=target, scaled="plain" if plain else "unknown")

    def _may_be_scaled(self, loss: ast.expr) -> bool:
        """Whether a loss may have been scaled by something else: `scaled_loss`, `self.scale(x)`."""
        if isinstance(loss, ast.Name):
            bindings = self._source.scopes.bindings(loss)
            if any(binding.how == "context" for binding in bindings):
                return True  # with amp.scale_loss(loss, optimizer) as scaled
        return any(
            "scale" in word.lower()
            for node in ast.walk(loss)
            for word in (getattr(node, "attr", ""), getattr(node, "id", ""))
        )

    def _passed(self, call: ast.Call, environment: Environment) -> Iterator[Event]:
        if any(word in last_word(call.func).lower() for word in _ONLY_LOOK):
            return
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            if self._roles.is_scaler(argument, environment):
                yield Event("passed", call, self._places.of(argument, environment))

    def _hands_on(self, call: ast.Call) -> bool:
        """Whether a call is given a scaler, or an object that holds one is called itself."""
        return any(
            isinstance(a, ast.Name | ast.Attribute) and self._places.of(a, {}) in self._roles.known
            for a in (*call.args, *(keyword.value for keyword in call.keywords))
        )

    def _is_measured(self, gradient: ast.Attribute) -> bool:
        """Whether `p.grad` has its norm, mean or largest element taken, or is clamped."""
        node: ast.AST = gradient
        parents = self._source.parents
        while True:
            above = parents[node]
            if isinstance(above, ast.Attribute):
                call = parents[above]
                if isinstance(call, ast.Call) and call.func is above:
                    if above.attr in _MEASURES or above.attr.startswith("is"):
                        return above.attr in _MEASURES  # isfinite: no matter how it is scaled
                    node = call  # p.grad.detach().data.norm()
                else:
                    node = above
            elif isinstance(above, ast.Call) and node in above.args:
                return self._source.names.is_one(above.func, *_MEASURING)
            else:
                return False
