"""Training steps as tests write them, and what is told of their events."""

from __future__ import annotations

import textwrap

from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event

HEAD = "import torch\nfrom torch.nn.utils import clip_grad_norm_\n"
SCALER = "scaler = torch.amp.GradScaler('cuda')\n"


def source(text: str) -> Source:
    return Source(HEAD + textwrap.dedent(text))


def told(event: Event) -> str:
    """An event in a word or two: "step scaler optimizer"."""
    parts = [event.kind, event.scaler, event.optimizer]
    if event.kind == "backward" and event.scaled != "scaled":
        parts.append(event.scaled)  # type: ignore[arg-type]
    return " ".join(str(part) for part in parts if part is not None)


def events(text: str, *, without: tuple[str, ...] = ("make", "scale")) -> list[str]:
    return [told(e) for e in source(text).steps.events if e.kind not in without]


def ways(text: str) -> set[tuple[str, ...]]:
    """The kinds of events on each way, without the making of scalers at module level."""
    paths = [p for p in source(text).steps.paths if [e.kind for e in p.events] != ["make"]]
    return {tuple(e.kind for e in p.events if e.kind not in ("make", "scale")) for p in paths}
