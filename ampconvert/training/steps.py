"""Steps that a gradient which is not finite does not take."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from ampconvert.errors import UserError
from ampconvert.training.agreement import Groups, agree, groups_of, meeting_place
from ampconvert.training.backend import shared_trainings
from ampconvert.training.gradients import all_zero, gradients_of, non_finite
from ampconvert.training.prepare import is_compiled, own_trainings, trainings_of
from ampconvert.training.scaling import Scaling, Schedule

LOG = logging.getLogger("ampconvert.training")

M = TypeVar("M", bound=Callable[..., Any])

KEY = "ampconvert"  # of a guard's state in its optimizer's state_dict
_ATTRIBUTE = "_ampconvert_guard"  # of an optimizer: its guard


class Training(Protocol):
    """What a guard needs to know of a prepared model's training (`state.Training`)."""

    scaling: Scaling

    def after_step(self, found: bool, guard: StepGuard) -> None:
        """After every step: `found` says that it was skipped."""

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, but for S, as JSON has it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` gave."""


def skip_nonfinite_steps(
    optimizer: Any,
    model: nn.Module,
    *,
    init_scale: float = 65536.0,
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    growth_interval: int = 2000,
    process_group: Any | Literal[False] | None = None,
    compiled: bool = False,
) -> StepGuard:
    """Let `optimizer.step()` skip steps whose gradients are not finite, and turn on the loss
    scaling of `model`, which is prepared for float16.

    A step is skipped when a gradient of the optimizer's parameters has an element that is not
    finite, or when a cast of the model saw one since the last step, even if clipping hid it since.
    Then parameters, gradients and the optimizer's state stay as they are, bit for bit, and S is
    multiplied by `backoff_factor`, once per overflow. After `growth_interval` good steps in a row S
    is multiplied by `growth_factor`. Where several ranks train, all of them step or none does:
    `process_group` is where they agree, by default that of DistributedDataParallel, the mesh of the
    parameters (FSDP2, tensor parallel) or the default group; False lets each rank decide alone.
    A step waits for the device once, and ranks exchange one small tensor.

    The guard replaces `step` of this one optimizer, so nothing else in a loop changes: schedulers
    may be made before or after. Closures run before the check, in optimizers of torch; in others
    the closure is handed on, and the gradients of before are checked. The guard's state is part of
    `optimizer.state_dict()`. A copied or unpickled optimizer has no guard. Another call for the
    same optimizer gives the same guard: with these numbers from now on, and for this model too.

    With torch.amp.GradScaler, S is 1 from the first `scaler.step(optimizer)` on: then the scaler
    alone scales. Both see the same gradients, in one check, and `scaler.update()` lowers its scale
    as ever.

    `compiled` says that torch.compile(..., backend="ampconvert") will run the model, or a function
    that calls it: its scaling is known after the first forward pass. Compiled modules need no word.

    Raises UserError for LBFGS, whose closures step many times, for a model that is not prepared,
    and for numbers that make no sense.
    """
    schedule = Schedule(init_scale, growth_factor, backoff_factor, growth_interval)
    inner = _unwrapped(optimizer)
    if not (compiled or is_compiled(model) or trainings_of(model)):
        raise UserError(
            f"{type(model).__name__} is not prepared: call ampconvert.prepare_training(model) first"
        )
    guard: StepGuard = getattr(inner, _ATTRIBUTE, None) or StepGuard(inner)
    guard.compiled |= compiled
    guard.watch(model, schedule, process_group)
    return guard


def _opaque(method: M) -> M:
    """A method that Dynamo calls as it is, where it compiles a loop's step."""
    disabled: M = torch.compiler.disable(method)  # type: ignore[no-untyped-call]
    return disabled


class StepGuard:
    """Skips steps of one optimizer; made by `skip_nonfinite_steps`.

    `steps` counts the steps that were asked for, `skipped` those of them that were not taken.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.steps = 0
        self.skipped = 0
        self.compiled = False  # whether a compiled function may run a model
        self._models: list[nn.Module] = []
        self._trainings: list[Training] = []
        self._waiting: list[nn.Module] = []  # compiled models, until their first forward pass
        self._loaded: Mapping[str, Any] | None = None  # for trainings of those that wait
        self._schedule = Schedule()
        self._process_group: Any | Literal[False] | None = None
        # Known at the first step, when all modules are wrapped and in their place.
        self._groups: Groups | None = None
        self._device = torch.device("cpu")
        self._active = True
        self._take = optimizer.step
        self._install()

    @property
    def scale(self) -> float:
        """S, the smallest one where there are several. Waits for no device."""
        return min((s for t in self._trainings for s in t.scaling.values().values()), default=1.0)

    @property
    def trainings(self) -> Sequence[Training]:
        """The trainings of the models whose steps this guards."""
        return tuple(self._trainings)

    @property
    def groups(self) -> Groups:
        """The process groups whose ranks step together, none in a training of one process."""
        if self._groups is None:
            self._groups = groups_of(self._process_group, self._models, self.optimizer)
            self._device = meeting_place(self.optimizer)
        return self._groups

    def watch(
        self, model: nn.Module, schedule: Schedule, process_group: Any | Literal[False] | None
    ) -> None:
        """Guard the steps of this model too."""
        if not any(model is own for own in self._models):
            self._models.append(model)
            self._waiting.append(model)
        self._schedule = schedule
        self._process_group, self._groups = process_group, None
        for training in self._trainings:
            training.scaling.join(self, schedule)
        self._join()
        # Loaded before there was a guard, and kept by the optimizer as one of a group's options.
        for text in [g.pop(KEY) for g in self.optimizer.param_groups if KEY in g]:
            self.load_state_dict(json.loads(text))

    def remove(self) -> None:
        """Let all steps pass again; S is 1 again where no other guard is left."""
        self._active = False
        for handle in self._handles:
            handle.remove()
        own = vars(self.optimizer)
        for name, value in self._installed.items():
            if own.get(name) is not value:
                continue  # someone wrapped it since; what is inside passes everything on
            if name in self._replaced:
                own[name] = self._replaced[name]
            else:
                del own[name]
        for training in self._trainings:
            training.scaling.leave(self)

    def state_dict(self) -> dict[str, Any]:
        """Counters, S and what the trainings learnt, as JSON has it."""
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            "trainings": [
                {"scaling": training.scaling.state_dict(), "state": training.state_dict()}
                for training in self._trainings
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.steps, self.skipped = int(state["steps"]), int(state["skipped"])
        self._loaded = state if self._waiting else None
        for training, own in zip(self._trainings, state["trainings"], strict=False):
            training.scaling.load_state_dict(own["scaling"])
            training.load_state_dict(own["state"])

    def _join(self, *, has_run: bool = False) -> None:
        """Start the scaling of models that wait for it, once there is one.

        A compiled model's training is made when it first runs. What there is before is another's.
        """
        for model in tuple(self._waiting):
            if not has_run and is_compiled(model) and not own_trainings(model):
                continue
            for training in trainings_of(model) or (shared_trainings() if self.compiled else ()):
                if model in self._waiting:
                    self._waiting.remove(model)
                if not any(training is own for own in self._trainings):
                    self._trainings.append(training)
                    training.scaling.join(self, self._schedule)
        if self._loaded is not None and not self._waiting:
            self.load_state_dict({**self._loaded, "steps": self.steps, "skipped": self.skipped})

    def _install(self) -> None:
        original = getattr(self._take, "__func__", self._take)

        # Keeps the marks that learning rate schedulers put on what they wrapped.
        @functools.wraps(original)
        def step(_: Any, *args: Any, **kwargs: Any) -> Any:
            return self._guarded(args, kwargs)

        own = vars(self.optimizer)
        self._unscales = not getattr(self.optimizer, "_step_supports_amp_scaling", False)
        self._installed = {
            # Bound, since a scheduler that comes later looks for the function in the method.
            "step": types.MethodType(step, self.optimizer),
            # So GradScaler hands over its flag and calls step in any case, on an overflow too.
            "_step_supports_amp_scaling": True,
            _ATTRIBUTE: self,
        }
        self._replaced = {name: own[name] for name in self._installed if name in own}
        own.update(self._installed)
        self._handles: list[Any] = []
        if isinstance(self.optimizer, Optimizer):
            self._handles = [
                self.optimizer.register_state_dict_post_hook(self._save),
                self.optimizer.register_load_state_dict_pre_hook(self._load),
            ]

    def _guarded(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._active or self._initializes():
            return self._take(*args, **kwargs)
        closure = args[0] if args else kwargs.get("closure")
        evaluated = closure is not None and _is_torchs(self.optimizer)
        result = None
        if closure is not None and evaluated:
            with torch.enable_grad():
                result = closure()
            args, kwargs = args[1:], {k: v for k, v in kwargs.items() if k != "closure"}
        found = self._check()
        self.steps += 1
        if found:
            self.skipped += 1
            # Schedulers would warn that they came before the first step.
            self.optimizer._opt_called = True
        else:
            with self._hidden_from_step():
                taken = self._take(*args, **kwargs)
            result = result if evaluated else taken
        self._tell(found)
        return result

    @_opaque
    def _tell(self, found: bool) -> None:
        for training in self._trainings:
            training.after_step(found, self)

    @_opaque
    @torch.no_grad()
    def _check(self) -> bool:
        """Whether to skip; lets each training's S move."""
        if self._waiting:
            self._join(has_run=True)
        scalings = [training.scaling for training in self._trainings]
        self._yield_to_scaler(scalings)
        flags = [list(scaling.flags()) for scaling in scalings]
        groups = self.groups
        # The one place that waits for the device.
        bad, flagged = agree(self._bad_gradients(), flags, groups, self._device)
        # An optimizer of the same model may have met this step's overflow first.
        found = bad or any(flagged) or any(s.overflowed_since(self) for s in scalings)
        for scaling, names in zip(scalings, flagged, strict=True):
            scaling.update(self, names, bool(names) or (bad and not any(flagged)))
        return found

    def _bad_gradients(self) -> Sequence[Tensor]:
        """Flags of gradients that are not finite, one per device. What GradScaler leaves to a step
        that knows of it is done: gradients are divided by its scale, and its flag is one of these.
        """
        grads = gradients_of(self.optimizer)
        scale: Tensor | None = getattr(self.optimizer, "grad_scale", None)
        inverse = None
        if scale is not None and self._unscales:
            inverse = scale.double().reciprocal().float().view(1)  # as GradScaler does it
        bad = non_finite(grads, inverse)
        found: Tensor | None = getattr(self.optimizer, "found_inf", None)
        return bad if found is None else [*bad, found.float().view(1)]

    @contextlib.contextmanager
    def _hidden_from_step(self) -> Iterator[None]:
        """What GradScaler wrote on an optimizer whose own step does not know of it."""
        own = vars(self.optimizer)
        names = ("grad_scale", "found_inf") if self._unscales else ()
        hidden = {name: own.pop(name) for name in names if name in own}
        try:
            yield
        finally:
            own.update(hidden)

    def _yield_to_scaler(self, scalings: Sequence[Scaling]) -> None:
        if getattr(self.optimizer, "found_inf", None) is None:
            return
        for scaling in scalings:
            if scaling.guarded and not scaling.static:
                LOG.info("torch.amp.GradScaler scales this loss: ampconvert's own scale is 1 now")
                scaling.stop()

    def _initializes(self) -> bool:
        """Is this no step of a training, but torch.distributed.checkpoint's way to make the
        optimizer fill its state: with a learning rate and gradients of 0?
        """
        if getattr(self.optimizer, "state", True):
            return False
        rates = [group.get("lr", 1.0) for group in self.optimizer.param_groups]
        if any(isinstance(rate, Tensor) and rate.device.type != "cpu" for rate in rates):
            return False  # not asked, since it would wait for the device
        return not any(rates) and all_zero(gradients_of(self.optimizer))

    def _save(self, _: Any, state: dict[str, Any]) -> None:
        own = state[KEY] = self.state_dict()
        # torch.distributed.checkpoint keeps parameter groups only, and wants the same keys in what
        # it saves and what it loads into; text is one key whatever it says.
        if state["param_groups"]:
            state["param_groups"][0][KEY] = json.dumps(own)

    def _load(self, _: Any, state: dict[str, Any]) -> dict[str, Any]:
        groups = state["param_groups"]
        text = next((group[KEY] for group in groups if KEY in group), "null")
        own = state.get(KEY) or json.loads(text)
        if own is not None:
            self.load_state_dict(own)
        groups = [{k: v for k, v in group.items() if k != KEY} for group in groups]
        return {**{k: v for k, v in state.items() if k != KEY}, "param_groups": groups}


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer inside those of Accelerate and Lightning, which call its step. Raises UserError
    for what can't be guarded.
    """
    package = type(optimizer).__module__.split(".")[0]
    name = "_optimizer" if "lightning" in package else "optimizer"
    if "lightning" in package or package == "accelerate":
        return _unwrapped(getattr(optimizer, name))
    if isinstance(optimizer, LBFGS):
        raise UserError(
            "LBFGS steps many times within one closure, and a skipped step would end its search: "
            "use another optimizer, or bfloat16, which needs no guard"
        )
    if not (hasattr(optimizer, "param_groups") and callable(getattr(optimizer, "step", None))):
        raise UserError(
            f"{type(optimizer).__name__} is no optimizer: it has no param_groups and step"
        )
    return optimizer


def _is_torchs(optimizer: Any) -> bool:
    """Is a closure run once and first in its step, as in torch's own optimizers?"""
    step = getattr(type(optimizer), "step", None)
    return getattr(step, "__module__", "").startswith(("torch.optim", "torch.distributed.optim"))
