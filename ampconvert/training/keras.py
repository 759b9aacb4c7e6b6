"""Training Keras 3 models on Keras' torch backend.

There a Keras model is an nn.Module: its `__call__` checks and converts arguments as Keras does, and
then comes to `forward` as PyTorch does. So `prepare_training` works as for any module. What Keras
needs beyond is here: lists that Dynamo can read, and a guard for optimizers that are no torch ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ampconvert.errors import UserError
from ampconvert.training.prepare import prepare_training
from ampconvert.training.steps import StepGuard, skip_nonfinite_steps

try:
    import keras
except ImportError as error:
    raise UserError("keras is not installed: pip install keras") from error


def prepare_keras(model: Any, dtype: Any = "float16", **options: Any) -> Any:
    """Let a built Keras `model` compute in `dtype`, "float16" or "bfloat16", and return it.

    Works in place, for `model.fit` and for loops of your own; `options` are those of
    `ampconvert.prepare_training`. For model.fit in float16 call `guard_keras(model)` after
    `model.compile(...)`. The model's dtype policy is float32: ampconvert decides what runs lower.

    Raises UserError on another backend than torch, for a model that is not built or has another
    policy, and as `prepare_training` does.
    """
    if keras.backend.backend() != "torch":
        raise UserError(
            f"Keras runs on its {keras.backend.backend()} backend: set KERAS_BACKEND=torch in the "
            "environment before keras is imported"
        )
    if not isinstance(model, keras.Layer):
        raise UserError(f"prepare_keras takes a Keras model, not {type(model).__name__}")
    _refuse(model)
    for layer in _layers(model):
        _unlist(layer)
    prepare_training(model, dtype, **options)
    return model


def guard_keras(model: Any, optimizer: Any = None, **schedule: Any) -> StepGuard:
    """Let the optimizer of a prepared Keras model skip updates whose gradients are not finite, and
    turn loss scaling on: `ampconvert.skip_nonfinite_steps` for optimizers of Keras.

    `optimizer` is by default the one that `model.compile` was given. Its variables, `iterations`
    among them, stay as they are when an update is skipped. With gradient accumulation every
    micro-batch is checked. `schedule` are `skip_nonfinite_steps`' numbers. The files that Keras
    saves hold nothing of the guard: keep `guard.state_dict()` with them.

    Raises UserError for a model that was not compiled or prepared, that runs in a torch.compile of
    Keras' own, or has a loss scale of Keras' own.
    """
    optimizer = optimizer or getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.Optimizer):
        raise UserError("the model has no optimizer of Keras: call model.compile(optimizer=...)")
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise UserError(
            "LossScaleOptimizer scales the loss itself: give model.compile the optimizer in it"
        )
    if getattr(model, "jit_compile", False):
        raise UserError(
            "model.compile(jit_compile=True) compiles the whole step, past ampconvert: leave it "
            'away, and use prepare_keras(model, inner="inductor")'
        )
    updates = vars(optimizer).get(_ATTRIBUTE)
    if updates is None:
        updates = Updates(optimizer)
    return skip_nonfinite_steps(updates, model, **schedule)


class Updates:
    """A Keras optimizer as a guard of torch optimizers sees it: parameter groups with gradients,
    and a step that the guard may replace. The optimizer's `apply` comes here.
    """

    def __init__(self, optimizer: Any) -> None:
        self.state = {"iterations": optimizer.iterations}
        self.param_groups: list[dict[str, Any]] = [{"params": []}]
        self._apply = optimizer.apply
        self._arguments: tuple[Any, ...] = ()
        # Past Keras' own __setattr__, which takes what it is given for state to save.
        vars(optimizer)["apply"] = self.apply
        vars(optimizer)[_ATTRIBUTE] = self

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        """What Keras' training loop calls: an update, if the guard lets it."""
        self.param_groups[0]["params"] = [_Gradient(grad) for grad in grads if grad is not None]
        self._arguments = grads, trainable_variables
        self.step()
        self.param_groups[0]["params"], self._arguments = [], ()

    def step(self) -> None:
        """The update itself."""
        self._apply(*self._arguments)


class _Gradient:
    """In the place of a parameter: Keras hands over gradients and variables apart."""

    def __init__(self, grad: Tensor) -> None:
        self.grad = grad


_ATTRIBUTE = "_ampconvert_updates"


def _refuse(model: Any) -> None:
    if not model.built:
        raise UserError(
            f"{model.name} is not built: give it an Input, or call it once, so that it has weights"
        )
    for layer in _layers(model):
        if str(layer.compute_dtype) in ("float16", "bfloat16"):
            raise UserError(
                f"the layer {layer.name} has the policy {layer.dtype_policy.name}: build the model "
                "in float32, and ampconvert decides what runs lower"
            )


def _layers(model: Any) -> list[Any]:
    """All layers, the model first."""
    layers: list[Any] = list(model._flatten_layers())
    return layers


def _unlist(layer: nn.Module) -> None:
    """Make plain lists of numbers of the tracked ones, such as the axes of BatchNormalization.

    Keras wraps every list that a layer is given, to find layers in it. Dynamo can't hand the
    wrapper to an operator, and cuts the graph there.
    """
    for name, value in vars(layer).items():
        tracked = isinstance(value, list) and type(value) is not list
        if tracked and value and all(isinstance(item, int) for item in value):
            vars(layer)[name] = list(value)
