"""Training with Hugging Face's Trainer: `Trainer(callbacks=[AmpconvertCallback("float16")])`."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ampconvert.errors import UserError
from ampconvert.training.metrics import metrics
from ampconvert.training.prepare import Forward, prepare_training
from ampconvert.training.settings import make_settings
from ampconvert.training.steps import StepGuard, skip_nonfinite_steps

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise UserError("transformers is not installed: pip install transformers accelerate") from error

# TrainingArguments that change the model's type or its forward too, and what to say to that.
REFUSED = {
    "fp16": "the callback's own type decides",
    "bf16": "the callback's own type decides",
    "fp16_full_eval": "it rounds the parameters, which have to stay float32",
    "bf16_full_eval": "it rounds the parameters, which have to stay float32",
    "torch_compile": 'give the callback inner="inductor" instead',
    "deepspeed": "DeepSpeed has a loss scale and types of its own",
}


class AmpconvertCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Lets a Trainer train in `dtype`, "float16" or "bfloat16".

    When training begins it prepares the model in place and, in float16, guards the optimizer
    (`skip_nonfinite_steps`, with the numbers in `guard`). A step that is skipped doesn't move the
    learning rate, as with fp16=True. Checkpoints carry the loss scale in optimizer.pt, and resuming
    takes it from there. What the Trainer logs gets the training's metrics. After training the model
    stays as it trained, with the same state_dict; `ampconvert.unprepare_training(model)` takes that
    back. `options` are those of `prepare_training`.

    Raises UserError for fp16=True, bf16=True and other TrainingArguments that would do the same
    work twice, and as `prepare_training` does.
    """

    def __init__(
        self, dtype: Any = "float16", *, guard: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.settings = make_settings(dtype, **options)
        self.guard: StepGuard | None = None
        self._dtype, self._options, self._schedule = dtype, options, guard or {}
        self._skipped = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prepare the model and guard the optimizer; both are wrapped and loaded by now."""
        _refuse(args)
        model, optimizer = _unwrapped(kwargs["model"]), kwargs["optimizer"]
        if not self._is_prepared(model):
            prepare_training(model, self._dtype, **self._options)
        if self.settings.scales:
            self.guard = skip_nonfinite_steps(optimizer, model, **self._schedule)
            self._skipped = self.guard.skipped

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell Accelerate when a step was skipped: schedulers wait then."""
        if self.guard is not None:
            kwargs["optimizer"]._is_overflow = self.guard.skipped > self._skipped
            self._skipped = self.guard.skipped

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Add the training's numbers to what is logged, and to the history."""
        if logs is None or "loss" not in logs:  # of an evaluation, or the summary at the end
            return
        found = metrics(_unwrapped(kwargs["model"]))
        numbers = {f"ampconvert/{k}": v for k, v in found.items() if isinstance(v, int | float)}
        logs.update(numbers)
        if state.log_history:
            state.log_history[-1].update(numbers)

    def _is_prepared(self, model: nn.Module) -> bool:
        """By an earlier train() of the same kind: its loss scale and graphs are of use."""
        forward = vars(model).get("forward")
        return isinstance(forward, Forward) and forward.training.settings == self.settings


def _refuse(args: Any) -> None:
    """UserError for arguments of the Trainer that the callback can't go with."""
    for name, why in REFUSED.items():
        if getattr(args, name, None):
            raise UserError(f"leave {name} out of TrainingArguments: {why}")
    if args.n_gpu > 1:
        raise UserError(
            "torch.nn.DataParallel can't run a prepared model: start the script with torchrun, one "
            "process per GPU, or show it one GPU with CUDA_VISIBLE_DEVICES"
        )


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model
