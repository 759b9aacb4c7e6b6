"""Training under Lightning: `Trainer(plugins=AmpconvertPrecision("float16"))`.

Lightning ships as two packages with classes of their own, `lightning` and `pytorch_lightning`. The
plugin takes its base class from the one that runs, so neither is imported here by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import nn

from ampconvert.errors import UserError
from ampconvert.training.metrics import metrics
from ampconvert.training.prepare import Forward, prepare_training
from ampconvert.training.settings import Settings, make_settings
from ampconvert.training.steps import StepGuard, skip_nonfinite_steps

LOG = logging.getLogger("ampconvert.training")

# Package -> the module in it that has class Precision.
PACKAGES = {
    "lightning": "lightning.pytorch.plugins.precision.precision",
    "pytorch_lightning": "pytorch_lightning.plugins.precision.precision",
}


class AmpconvertPrecision:
    """A precision plugin of Lightning that trains in `dtype`, "float16" or "bfloat16".

    It prepares what the steps of a LightningModule call: the module itself, if it has a forward,
    and each outermost module in it that has one, and parameters. Where one calls another, each
    has graphs of its own. What a step calls by another method than forward is not seen: for
    `self.vae.encode(x)` name the modules that encode calls, `modules=["vae.encoder"]`.

    In float16 it guards the optimizers (`skip_nonfinite_steps`, with the numbers in `guard`), in
    automatic and in manual optimization. Their states in a checkpoint carry the loss scale. The
    training's metrics go to the logger. `options` are those of `prepare_training`. `package` says
    which Lightning it is for where both packages are loaded.

    Raises UserError where no Lightning is installed, and as `prepare_training` does.
    """

    precision: str

    def __new__(cls, *_: Any, package: str | None = None, **__: Any) -> Self:
        """An instance of a class that is Lightning's Precision too."""
        own: Any = object.__new__(_joined(cls, package or _package()))
        return own  # type: ignore[no-any-return]

    def __init__(
        self,
        dtype: Any = "float16",
        *,
        modules: Sequence[str] = (),
        guard: dict[str, Any] | None = None,
        package: str | None = None,
        **options: Any,
    ) -> None:
        self.settings: Settings = make_settings(dtype, **options)
        # What Lightning calls a type for computing and float32 for the parameters.
        self.precision = "16-mixed" if self.settings.low == "float16" else "bf16-mixed"
        self.guards: list[StepGuard] = []
        self._stepped = False
        self._arguments = {"dtype": dtype, "modules": modules, "guard": guard, "package": package}
        self._options = options

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Lightning's hook before a model is moved and wrapped: prepares it, in place."""
        names: Sequence[str] = self._arguments["modules"]
        targets = [_named(module, name) for name in names] or called_modules(module)
        if not targets:
            raise UserError(
                f"{type(module).__name__} has no module with a forward: name those that its steps "
                'call, AmpconvertPrecision(modules=["net"])'
            )
        for target in targets:
            if not _is_prepared(target, self.settings):
                prepare_training(target, self._arguments["dtype"], **self._options)
        return module

    def connect(
        self, model: nn.Module, optimizers: list[Any], lr_schedulers: list[Any]
    ) -> tuple[nn.Module, list[Any], list[Any]]:
        """Lightning's hook when the optimizers are made and the model is wrapped: guards them."""
        if self.settings.scales:
            schedule = self._arguments["guard"] or {}
            self.guards = [skip_nonfinite_steps(o, model, **schedule) for o in optimizers]
        return model, optimizers, lr_schedulers

    def optimizer_step(
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Lightning's step, and its numbers to the logger."""
        base: Any = super()
        result = base.optimizer_step(optimizer, model=model, closure=closure, **kwargs)
        if not self._stepped:
            self._stepped = True
            _warn_unless_called(model)
        model.log_dict({f"ampconvert/{k}": v for k, v in _numbers(model).items()}, batch_size=1)
        return result

    def __reduce__(self) -> Any:
        # Strategies that spawn processes pickle the plugin; its joined class has no name to find.
        return _rebuilt, (AmpconvertPrecision, self._arguments, self._options)


def called_modules(module: nn.Module) -> list[nn.Module]:
    """What the steps of a LightningModule call, as far as one can tell: `module`, if it has a
    forward of its own, then the outermost modules in it with parameters and a forward. ModuleList
    and ModuleDict have none; what they hold is looked at.
    """
    own = [module] if _has_forward(module) else []
    inner = [target for child in module.children() for target in _outermost(child)]
    # The outer one first: preparing it takes back what was done to those in it.
    return list(dict.fromkeys([*own, *inner]))


def _outermost(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, torch.jit.ScriptModule) or next(module.parameters(), None) is None:
        return []
    if _has_forward(module):
        return [module]
    return [target for child in module.children() for target in _outermost(child)]


def _has_forward(module: nn.Module) -> bool:
    """Is there a forward that computes something? PyTorch's and Lightning's own raise an error."""
    if "forward" in vars(module):
        return True
    owner = next((c for c in type(module).__mro__ if "forward" in vars(c)), nn.Module)
    return owner is not nn.Module and owner.__name__ != "LightningModule"


def _named(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        near = ", ".join(n for n, _ in module.named_modules() if n and n.count(".") < 2)
        raise UserError(
            f"{type(module).__name__} has no module named {name!r}; there are {near}"
        ) from None


def _is_prepared(module: nn.Module, settings: Settings) -> bool:
    """By an earlier fit of the same kind: its loss scale and graphs are of use."""
    forward = vars(module).get("forward")
    return isinstance(forward, Forward) and forward.training.settings == settings


def _numbers(model: nn.Module) -> dict[str, float]:
    """The metrics that a logger can draw."""
    return {k: float(v) for k, v in metrics(model).items() if isinstance(v, int | float)}


def _warn_unless_called(model: nn.Module) -> None:
    """A model whose steps go past every prepared module trains in float32: say so."""
    forwards = [vars(module).get("forward") for module in model.modules()]
    if not any(isinstance(f, Forward) and f.training.subgraphs for f in forwards):
        LOG.warning(
            "%s: its step called no prepared module by its forward, so it trains in float32; name "
            "the modules that it calls: AmpconvertPrecision(modules=[...])",
            type(model).__name__,
        )


def _package() -> str:
    """The Lightning that is loaded, else the one that is installed."""
    loaded = [name for name in PACKAGES if name in sys.modules]
    found = loaded or [name for name in PACKAGES if importlib.util.find_spec(name)]
    if not found:
        raise UserError("Lightning is not installed: pip install lightning")
    return found[0]


_classes: dict[tuple[type, str], type] = {}


def _joined(cls: type, package: str) -> type:
    """`cls` and Lightning's Precision in one. Checkpoints know the plugin by its class's name."""
    if package not in PACKAGES:
        raise UserError(f"package is one of {', '.join(PACKAGES)}, not {package!r}")
    if (cls, package) not in _classes:
        base = importlib.import_module(PACKAGES[package]).Precision
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
        _classes[cls, package] = type(cls.__name__, (cls, base), names)
    return _classes[cls, package]


def _rebuilt(
    cls: type[AmpconvertPrecision], arguments: dict[str, Any], options: dict[str, Any]
) -> AmpconvertPrecision:
    return cls(**arguments, **options)
