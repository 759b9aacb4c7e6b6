"""The ways to train that are compared, behind one loop: float32, torch.autocast, ampconvert."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import ampconvert
from benchmarks.training.tasks import Batch, Task

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
CLIP = 1.0  # the norm that gradients are clipped to
NO_GROWTH = 2**30  # steps


@dataclass(frozen=True)
class Way:
    """How a model is trained.

    `scale` is the loss scale of float16: "dynamic", "layerwise" (ours only), or a number that
    stays, 1.0 for none. `guarded`: whether our loop skips steps with gradients that are not finite;
    None takes what torch's own loop does, which has a GradScaler for float16 only. `prefer` is
    ours: "memory" computes in the low type wherever that is safe, "speed" where it saves time, None
    is speed where the low type is faster at all on the device.
    """

    kind: str  # float32, autocast, ours
    dtype: str = "float32"
    compiled: bool = False
    scale: str | float = "dynamic"
    guarded: bool | None = None
    prefer: str | None = None

    @property
    def name(self) -> str:
        """As tables have it."""
        preferred = f" for {self.prefer}" if self.prefer else ""
        return self.kind + preferred + (" compiled" if self.compiled else "")

    @property
    def guard(self) -> bool:
        """Whether steps are guarded."""
        if self.kind == "float32":
            return False
        return self.dtype == "float16" if self.guarded is None else self.guarded


class Loop:
    """One model in training. `step` is a whole step as a training script has it: zero_grad,
    forward, loss, backward, clipping, optimizer.

    `model` is what is called, `module` the network itself; `skipped` counts steps not taken, and
    is kept where `counting` is on, since reading torch's scale waits for the device.
    """

    def __init__(
        self,
        way: Way,
        module: nn.Module,
        make_optimizer: Callable[[Any], torch.optim.Optimizer],
        device: str = "cpu",
        counting: bool = False,
        clip: float | None = CLIP,
    ) -> None:
        self.way, self.device, self.counting, self.clip = way, device, counting, clip
        self.module = module.to(device)
        self.guard: Any = None
        self.model: Callable[[Tensor], Any] = self.module
        dtype = DTYPES[way.dtype]
        if way.kind == "ours":
            self.module = ampconvert.prepare_training(
                self.module,
                dtype=dtype,
                loss_scale=way.scale,
                inner="inductor" if way.compiled else "eager",
                prefer=way.prefer,
            )
            self.model = self.module
        elif way.compiled:
            self.model = torch.compile(self.module)
        self.parameters = list(self.module.parameters())
        self.optimizer = make_optimizer(self.parameters)
        if way.kind == "ours" and way.guard:
            self.guard = ampconvert.skip_nonfinite_steps(self.optimizer, self.module)
        self.scaler = _scaler(way, device)
        self._skipped = 0

    @property
    def skipped(self) -> int:
        """Steps that were not taken."""
        return int(self.guard.skipped) if self.guard is not None else self._skipped

    @property
    def scale(self) -> float:
        """The loss scale by now."""
        return float(self.guard.scale if self.guard is not None else self.scaler.get_scale())

    def context(self) -> contextlib.AbstractContextManager[Any]:
        """What forward and loss run under."""
        if self.way.kind != "autocast":
            return contextlib.nullcontext()
        return torch.autocast(self.device, dtype=DTYPES[self.way.dtype])

    def call(self, x: Tensor) -> Any:
        """The model as this way runs it, outside of a step."""
        with self.context():
            return self.model(x)

    def step(
        self,
        loss_of: Callable[[Any, Batch], Tensor],
        batch: Batch,
        watch: Callable[[], contextlib.AbstractContextManager[Any]] | None = None,
    ) -> Tensor:
        """Take one step and give the loss, not scaled. `watch` opens once the gradients are there,
        unscaled and not clipped, and closes after the optimizer's step.
        """
        self.optimizer.zero_grad()
        with self.context():
            loss = loss_of(self.model, batch)
        self.scaler.scale(loss).backward()
        with contextlib.ExitStack() as stack:
            if self.scaler.is_enabled():
                self.scaler.unscale_(self.optimizer)
            if watch is not None:
                stack.enter_context(watch())
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.clip)
            self._update()
        return loss.detach()

    def _update(self) -> None:
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return
        before = self.scaler.get_scale() if self.counting else 0.0
        self.scaler.step(self.optimizer)
        found = self.counting and self._found()
        self.scaler.update()
        if self.way.scale != "dynamic":
            self.scaler.update(before or float(self.way.scale))
        self._skipped += found

    def _found(self) -> bool:
        """Whether the scaler saw something not finite in the gradients of this step."""
        state = self.scaler._per_optimizer_states[id(self.optimizer)]
        return any(float(f) for f in state["found_inf_per_device"].values())


def start(way: Way, task: Task, seed: int, **settings: Any) -> Loop:
    """The loop of `task` with the weights that `seed` gives in every way."""
    torch.manual_seed(seed)
    return Loop(way, task.build(), lambda p: torch.optim.Adam(p, lr=task.rate), **settings)


def _scaler(way: Way, device: str) -> torch.amp.GradScaler:
    if way.kind != "autocast" or not way.guard:
        return torch.amp.GradScaler(device, enabled=False)
    if way.scale == "dynamic":
        return torch.amp.GradScaler(device)
    return torch.amp.GradScaler(device, float(way.scale), growth_interval=NO_GROWTH)
