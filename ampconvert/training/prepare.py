"""A module that trains in mixed precision from now on: same object, same class, same state_dict."""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from ampconvert.errors import UserError
from ampconvert.rules import OpRule
from ampconvert.training.backend import Backend, shared_trainings
from ampconvert.training.scaling import LossScale
from ampconvert.training.settings import Settings, make_settings
from ampconvert.training.sharding import (
    capture_alone,
    let_parts_be_captured,
    refuse_policies,
    unwrapped,
)
from ampconvert.training.state import Training

LOG = logging.getLogger("ampconvert.training")

# Of the graphs of one model: another batch size, train and eval, gradients or none make one each.
RECOMPILES = 64

PATIENCE = 3  # calls until a guard is missed

_LOW = (torch.float16, torch.bfloat16)


def prepare_training(
    model: nn.Module,
    dtype: Any = torch.float16,
    *,
    loss_scale: LossScale = "dynamic",
    inner: str = "eager",
    options: Mapping[str, Any] | None = None,
    adapt: bool = True,
    prefer: Literal["speed", "memory"] | None = None,
    rules: Sequence[OpRule] = (),
) -> nn.Module:
    """Let `model` compute in `dtype`, float16 or bfloat16, wherever that is safe and pays.

    Works in place and returns `model`. Its parameters stay float32, so do its inputs and outputs,
    the statistics of batch norms and every gradient that an optimizer sees; state_dict, hooks,
    train() and eval() are as before. In float16 follow it with `skip_nonfinite_steps(optimizer,
    model)`, which turns loss scaling on; a loop with torch.amp.GradScaler works as it is.

    `loss_scale`: "dynamic", "layerwise" (one per layer), or a power of two that never changes.
    `inner`: "eager", or the backend of torch.compile that runs the converted graphs ("inductor"),
    with its `options`. `adapt`: operators that overflow float16 again and again move to float32
    while the model trains, and are tried again. `prefer`: with "speed" an operator runs in `dtype`
    where that saves time, casts counted; with "memory" wherever it is safe. Without it, speed,
    except where `dtype` is never faster, as float16 on a CPU. `rules` stand before the built-in op
    rules.

    Raises UserError for a model whose trainable parameters are not float32, or that can't be
    prepared.
    """
    settings = make_settings(
        dtype,
        loss_scale=loss_scale,
        inner=inner,
        options=options,
        adapt=adapt,
        prefer=prefer,
        rules=rules,
    )
    target = unwrapped(model)
    _refuse(target)
    unprepare_training(target)
    target.forward = Forward(target, Training(settings))
    return model


def unprepare_training(model: nn.Module) -> nn.Module:
    """`model`, and every module in it, as it was before `prepare_training`."""
    for module in model.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, Forward):
            forward.restore()
    return model


def trainings_of(model: nn.Module) -> list[Training]:
    """The trainings of the prepared modules in `model`. Of one that torch.compile wraps and that
    has none: those of all that were compiled with backend="ampconvert".
    """
    return own_trainings(model) or (shared_trainings() if is_compiled(model) else [])


def own_trainings(model: nn.Module) -> list[Training]:
    """The trainings of the prepared modules in `model`."""
    forwards = (module.__dict__.get("forward") for module in model.modules())
    return [forward.training for forward in forwards if isinstance(forward, Forward)]


def is_compiled(model: nn.Module) -> bool:
    """Will torch.compile see this module, or one inside, when it runs?"""
    return any(
        isinstance(module, torch._dynamo.OptimizedModule) or module._compiled_call_impl is not None
        for module in model.modules()
    )


class Forward:
    """Stands in for a module's forward, and runs it converted.

    A copy of the module gets one of its own, with a copy of the training's state.
    """

    def __init__(self, module: nn.Module, training: Training) -> None:
        self.module, self.training = module, training
        self.replaced = module.__dict__.get("forward")  # by whoever changed it before
        self._compiled: Callable[..., Any] | None = None
        self._has_rnn = False
        self._calls = 0
        self._told: set[str] = set()
        self._parts: list[nn.Module] = []  # that got a forward of their own

    @property
    def original(self) -> Callable[..., Any]:
        """The module's own forward."""
        own: Callable[..., Any] = self.replaced or types.MethodType(
            type(self.module).forward, self.module
        )
        return own

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.original)

    @property
    def __name__(self) -> str:
        return "forward"

    @property
    def __code__(self) -> types.CodeType:  # torch.export asks for it
        code: types.CodeType = self.original.__code__
        return code

    def restore(self) -> None:
        """Give the module its own forward back."""
        for module in self._parts:
            vars(module).pop("forward", None)
        if self.replaced is None:
            del self.module.forward
        else:
            self.module.forward = self.replaced

    # A torch.compile around the model, or around a loop's step, would look inside, and hand what it
    # finds to its own backend.
    @torch.compiler.disable(recursive=False)  # type: ignore[no-untyped-call,untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's answer, computed in mixed precision."""
        if torch.compiler.is_exporting():
            return self.original(*args, **kwargs)
        if self._compiled is None:
            self._compiled = self._compile()
        if any(map(_holds_low, (*args, *kwargs.values()))):
            args, kwargs = self._raised(args), self._raised(kwargs)
        if self._calls <= PATIENCE:
            self._calls += 1
            if self._calls > PATIENCE:
                self._look_for_guard()
                self._look_for_graphs()
        if self._is_plain():
            return self._compiled(*args, **kwargs)
        with self._conditions():
            return self._compiled(*args, **kwargs)

    def _compile(self) -> Callable[..., Any]:
        refuse_policies(self.module)
        self._parts = let_parts_be_captured(self.module)
        self._has_rnn = any(isinstance(module, nn.RNNBase) for module in self.module.modules())
        accepted = inspect.signature(torch.compile).parameters
        options: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": RECOMPILES}
        options = {name: value for name, value in options.items() if name in accepted}
        backend = Backend(self.training, self.module)
        own = _with_own_code(self.original)
        compiled: Callable[..., Any] = torch.compile(own, backend=backend, **options)
        return compiled

    def _look_for_guard(self) -> None:
        """Warn of float16 gradients that nothing scales, once the loop is under way."""
        scaling = self.training.scaling
        scales = self.training.settings.scales and not scaling.static
        if scales and not scaling.guarded and self.module.training and torch.is_grad_enabled():
            self._tell(
                "its float16 gradients are not scaled: call ampconvert.skip_nonfinite_steps("
                "optimizer, model), unless a torch.amp.GradScaler scales the loss"
            )

    def _look_for_graphs(self) -> None:
        """Warn of what Dynamo captured nothing of, and have torch's own modules captured alone.

        Where a graph breaks in a loop, Dynamo leaves the function around it to Python, and captures
        what that calls, but not torch's own code.
        """
        missed = _missed(self.module, self.training)
        mended = capture_alone(missed.values())
        self._parts += mended
        left = [name for name, module in missed.items() if module not in mended]
        if mended:
            names = [name for name, module in missed.items() if module in mended]
            self._tell(
                f"no graph had {_listed(names)}, which ran in float32 so far, or not at all: each "
                "is captured alone from now on. TORCH_LOGS=graph_breaks shows what broke the graph"
            )
        if left:
            self._tell(
                f"no graph has {_listed(left)}, which run in float32, or not at all: torch.compile "
                "says why with TORCH_LOGS=graph_breaks"
            )

    def _is_plain(self) -> bool:
        """Whether nothing has to be set for the call: small models notice what that costs."""
        return not (
            self._calls <= PATIENCE
            or self._has_rnn
            or torch._C._is_any_autocast_enabled()
            or DistributedDataParallel._active_ddp_module is not None
        )

    @contextlib.contextmanager
    def _conditions(self) -> Iterator[None]:
        """What has to hold while the model runs, and while it is captured."""
        settings: dict[str, Any] = {}
        if self._calls <= PATIENCE:
            # A mark for profilers that would be made in every call of what is captured now.
            settings["record_runtime_overhead"] = False
        if self._has_rnn:
            settings["allow_rnn"] = True
        if self.training.settings.inner == "eager":
            # Dynamo would cut the graph at every bucket of gradients, so that compiled code can
            # send one while it computes the next. PyTorch's autograd does that anyway.
            settings["optimize_ddp"] = False
        with contextlib.ExitStack() as stack:
            stack.enter_context(_configured(settings))
            if torch._C._is_any_autocast_enabled():
                self._tell("torch.autocast is ignored inside a model that ampconvert prepared")
                for device in ("cpu", "cuda"):
                    stack.enter_context(torch.autocast(device, enabled=False))
            yield

    def _raised(self, value: Any) -> Any:
        """`value` with its float16 and bfloat16 tensors in float32, as the parameters are."""
        self._tell(
            "the model's inputs were rounded to 16 bits before they reached it: hand over float32, "
            "and it is rounded where that is safe"
        )
        return pytree.tree_map_only(torch.Tensor, _raised, value)

    def _tell(self, message: str) -> None:
        """Say something once."""
        if message not in self._told:
            self._told.add(message)
            LOG.warning("%s: %s", type(self.module).__name__, message)

    def __deepcopy__(self, memo: dict[int, Any]) -> Forward:
        module = memo.get(id(self.module), self.module)
        twin = Forward.__new__(Forward)
        memo[id(self)] = twin
        twin.__init__(module, self.training.copy())  # type: ignore[misc]
        twin.replaced = copy.deepcopy(self.replaced, memo)
        return twin

    def __reduce__(self) -> Any:
        return _rebuilt, (self.module, self.training.settings, self.replaced)


def _missed(model: nn.Module, training: Training) -> dict[str, nn.Module]:
    """The modules whose own trained parameters are in no graph, by path."""
    seen = {
        id(parameter)
        for subgraph in training.subgraphs
        for label in subgraph.whole.labels
        if (parameter := _parameter(model, label)) is not None
    }
    apart = (m for m in model.modules() if m is not model and _is_prepared_apart(m))
    seen |= {id(parameter) for module in apart for parameter in module.parameters()}
    return {
        name or "the model": module
        for name, module in model.named_modules()
        if any(p.requires_grad and id(p) not in seen for p in module.parameters(recurse=False))
    }


def _is_prepared_apart(module: nn.Module) -> bool:
    """Whether a module was prepared itself, and not only within a larger one."""
    return isinstance(vars(module).get("forward"), Forward)


def _parameter(model: nn.Module, label: str) -> nn.Parameter | None:
    try:
        return model.get_parameter(label)
    except AttributeError:  # a buffer, or something that only one frame of Python knew
        return None


def _listed(names: Sequence[str], many: int = 4) -> str:
    shown = ", ".join(names[:many])
    return shown if len(names) <= many else f"{shown} and {len(names) - many} more modules"


def _with_own_code(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` with a code object of its own: Dynamo notes there what it captured, and that it
    gave up, which another torch.compile of the same class may have led to.
    """
    function = getattr(forward, "__func__", None)
    if not isinstance(function, types.FunctionType):
        return forward
    twin = types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__,
        function.__defaults__, function.__closure__,
    )  # fmt: skip
    twin.__kwdefaults__ = function.__kwdefaults__
    return types.MethodType(twin, forward.__self__)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _configured(settings: dict[str, Any]) -> Iterator[None]:
    """Dynamo's settings for a call; its own way to patch them takes five times as long."""
    config = torch._dynamo.config
    before = {name: getattr(config, name) for name in settings if hasattr(config, name)}
    changed = {name: value for name, value in before.items() if value != settings[name]}
    try:
        for name in changed:
            setattr(config, name, settings[name])
        yield
    finally:
        for name, value in changed.items():
            setattr(config, name, value)


def _rebuilt(module: nn.Module, settings: Settings, replaced: Any) -> Forward:
    """A Forward that was saved with its module by torch.save."""
    forward = Forward(module, Training(settings))
    forward.replaced = replaced
    return forward


def _holds_low(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.dtype in _LOW
    if isinstance(value, list | tuple):
        return any(map(_holds_low, value))
    return isinstance(value, dict) and any(map(_holds_low, value.values()))


def _raised(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in _LOW else tensor


def _refuse(model: nn.Module) -> None:
    """UserError for what can't be prepared."""
    if not isinstance(model, nn.Module):
        raise UserError(f"prepare_training takes a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise UserError(
            "a TorchScript module can't be prepared: prepare the nn.Module it was made of"
        )
    if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
        raise UserError(
            "the model was compiled by torch.compile already: prepare it instead, with "
            'inner="inductor", or use torch.compile(model, backend="ampconvert")'
        )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype in _LOW:
            raise UserError(
                f"the parameter {name} is {str(parameter.dtype).removeprefix('torch.')}: training "
                "in mixed precision needs float32 parameters, in which small updates are not lost. "
                "Leave .half() and .bfloat16() away, or call model.float() first"
            )
