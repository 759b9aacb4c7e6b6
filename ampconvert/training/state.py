"""The training of one model: its loss scale, its graphs, and what was learnt about them."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from ampconvert.training.adapt import Adaptation, suggest_scales
from ampconvert.training.agreement import gathered
from ampconvert.training.groups import layer
from ampconvert.training.observe import Observation, Observer, Place
from ampconvert.training.scaling import Scaling
from ampconvert.training.settings import Settings

if TYPE_CHECKING:
    from ampconvert.training.steps import StepGuard
    from ampconvert.training.subgraph import Subgraph

LOG = logging.getLogger("ampconvert.training")


class Training:
    """What a prepared model knows while it trains.

    It outlives its graphs, which Dynamo makes and drops as shapes and modes change. Steps are
    counted by the first of the guards that report them.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.scaling = Scaling(settings.loss_scale if settings.scales else 1.0)
        self.adaptation = Adaptation(group_of=self.scale_group)
        self.subgraphs: weakref.WeakSet[Subgraph] = weakref.WeakSet()
        self.steps = 0
        self.skipped = 0
        self.observation: Observation | None = None  # of the last step that was observed
        # The first step is observed, so that a model that needs float32 somewhere loses few steps.
        self.observing = self.adapts
        self._observer = Observer()
        self._counts: weakref.ref[Any] = weakref.ref(self)  # the guard whose steps are counted
        self._found = False

    def copy(self) -> Training:
        """One that starts with what this one learnt, for a copy of the model."""
        twin = Training(self.settings)
        twin.load_state_dict(self.state_dict())
        return twin

    @property
    def adapts(self) -> bool:
        """Whether steps are observed: bfloat16 has float32's range, and nothing to look for."""
        return self.settings.scales and self.settings.adapt

    @property
    def kept_full(self) -> Mapping[str, str]:
        """The places that run in float32 by what was seen while training, and why."""
        return self.adaptation.promoted

    def scale_group(self, place: str) -> str:
        """The group whose loss scale a place's gradients carry."""
        return layer(place.rpartition("/")[0]) if self.scaling.layerwise else ""

    def observe(
        self, module: fx.GraphModule, places: Mapping[str, Place], args: Sequence[Any]
    ) -> Any:
        """What a converted graph gives, watched."""
        return self._observer.run(module, args, places)

    def after_step(self, found: bool, guard: StepGuard) -> None:
        """After every step of an optimizer: `found` says that it was skipped."""
        self._found |= found
        if self._counts() in (None, self):
            self._counts = weakref.ref(guard)
        if self._counts() is not guard:
            return
        found, self._found = self._found, False
        self.steps += 1
        self.skipped += found
        if self.adapts:
            self._adapt(found, guard)

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, but for S, as JSON has it."""
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            # What the last observed step showed is large, and the next one shows it again.
            "adaptation": {**self.adaptation.state_dict(), "last": None},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state_dict` gave."""
        self.steps, self.skipped = int(state["steps"]), int(state["skipped"])
        self.adaptation.load_state_dict(state["adaptation"])
        self._replan()

    def _adapt(self, found: bool, guard: StepGuard) -> None:
        """Hear what an observed step showed, and decide on the next one."""
        observation = None
        if self.observing:
            observation = self._read(guard)
            self.observation = observation or self.observation
        changes = self.adaptation.heard(self.steps, found, self.scaling, observation)
        for line in changes.lines:
            LOG.warning(line)
        if changes.restore:
            self.scaling.restore()
        if changes:
            self._replan()
        scales = dict(changes.scales)
        if observation is not None and self.scaling.layerwise:
            scales = suggest_scales(observation, self.scale_group) | scales
        for group, scale in scales.items():
            self.scaling.set(group, scale)
        self.observing = self.adaptation.wants(self.steps, found)

    def _read(self, guard: StepGuard) -> Observation | None:
        """What all ranks saw in this step; None where no graph was watched, as in the first step of
        a model that torch.compile captures after it was guarded.
        """
        observer, self._observer = self._observer, Observer()
        own = observer.read().to_json() if observer.calls else None
        found = [
            Observation.from_json(data) for data in gathered(own, guard.groups) if data is not None
        ]
        if not found:
            return None
        merged = found[0]
        for other in found[1:]:
            merged = merged.merge(other)
        return merged

    def _replan(self) -> None:
        """Let every graph be planned again."""
        if self.settings.inner == "eager":
            for subgraph in self.subgraphs:
                subgraph.convert()
        elif self.subgraphs:
            torch.compiler.reset()  # what was compiled is compiled again when it is called
            self.subgraphs.clear()
