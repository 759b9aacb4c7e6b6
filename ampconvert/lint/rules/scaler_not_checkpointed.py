"""AMP208: checkpoints with the optimizer's state and without the scaler's."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.step_events import Event
from ampconvert.lint.step_roles import last_word


class ScalerNotCheckpointed(Rule):
    """A checkpoint keeps the state of the optimizer and not that of the GradScaler.

    A resumed run begins with a scale of 65,536 again. Where training had settled on another one,
    its first steps are skipped until the scale has come down, or gradients are lost until it has
    gone up, which takes 2,000 steps for each factor of 2. Runs that were resumed differ from
    those that were not.

    Found in files that make the scaler and save the optimizer's `state_dict()`, if the scaler's is
    read nowhere and the scaler is given to no function that could save it.

    Sources: https://docs.pytorch.org/tutorials/recipes/recipes/amp_recipe.html#saving-resuming
    and https://github.com/pytorch/vision/pull/4923
    """

    CODE = "AMP208"
    NAME = "scaler-not-checkpointed"
    ADVICE = "Save scaler.state_dict() too, and load it where the optimizer's is loaded."
    FIX = "unsafe"
    FIX_SAFETY = "The checkpoint gets one more entry, which code that reads it has to know."
    WORDS = ((b"Scaler",), (b"state_dict",), (b"save",))
    JUDGED = Judged(true=54, read=58)
    VALID = (
        Case("""\
import torch


def train(model, loader, path):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cuda")
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.save({"optimizer": optimizer.state_dict(), "amp": scaler.state_dict()}, path)
"""),
        Case("""\
import torch
from mylib import save_checkpoint

optimizer = torch.optim.Adam([torch.zeros(1)])
scaler = torch.amp.GradScaler("cuda")
save_checkpoint("a.pt", optimizer.state_dict(), scaler)
"""),
        Case("""\
import torch


def train(model, loader, path):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.cuda.amp.GradScaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.save({"model": model.state_dict()}, path)
"""),
        Case("""\
import torch

optimizer = torch.optim.Adam([torch.zeros(1)])
scaler = torch.amp.GradScaler("cuda", enabled=False)
torch.save({"optimizer": optimizer.state_dict()}, "a.pt")
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch.cuda.amp import GradScaler as Scaler


def train(model, loader, path):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = Scaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scaler.update()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),  # AMP208
    }
    torch.save(checkpoint, path)
""",
            """\
import torch
from torch.cuda.amp import GradScaler as Scaler


def train(model, loader, path):
    optimizer = torch.optim.Adam(model.parameters())
    scaler = Scaler()
    for x in loader:
        scaler.scale(model(x)).backward()
        scaler.step(optimizer)
        scaler.update()
    checkpoint = {
        "model": model.state_dict(),
        "scaler": scaler.state_dict(),
        "optimizer": optimizer.state_dict(),  # AMP208
    }
    torch.save(checkpoint, path)
""",
        ),
        Case("""\
import torch


class Trainer:
    def __init__(self, model, optimizer, use_amp):
        self.model, self.optimizer = model, optimizer
        if use_amp:
            self.scaler = torch.amp.GradScaler("cuda")

    def step(self, x):
        self.optimizer.zero_grad()
        self.scaler.scale(self.model(x)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def save(self, path):
        state = dict(optimizer=self.optimizer.state_dict())  # AMP208
        torch.save(state, path)
"""),
        Case(
            """\
import torch as th

optimizer = th.optim.SGD([th.zeros(1)], lr=0.1)
scaler = th.amp.GradScaler("cuda")


def save(path):
    th.save({"optimizer": optimizer.state_dict()}, path)  # AMP208
""",
            """\
import torch as th

optimizer = th.optim.SGD([th.zeros(1)], lr=0.1)
scaler = th.amp.GradScaler("cuda")


def save(path):
    th.save({"scaler": scaler.state_dict(), "optimizer": optimizer.state_dict()}, path)  # AMP208
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Uses of an optimizer's state in a file that makes a scaler and never reads its state."""
        roles = source.steps.roles
        calls = [c for c in source.names.methods("state_dict") if isinstance(c.func, ast.Attribute)]
        if not roles.made or not _saves(source) or any(
            _may_be_scaler(source, c) for c in calls
        ):  # fmt: skip
            return
        found = {e.node: e for e in source.steps.events if e.kind == "make"}
        made = list(found.values())
        if not made or _is_handed_on(source):
            return
        for call in calls:
            assert isinstance(call.func, ast.Attribute)
            if roles.is_optimizer(call.func.value, {}) and _is_kept(source, call):
                missing = made[0].scaler or "the scaler"
                yield self.finding(
                    source, call, f"the checkpoint has no state of {missing}",
                    self._added(source, call, made),
                )  # fmt: skip

    def _added(self, source: Source, call: ast.Call, made: list[Event]) -> Fix | None:
        """One more entry, where the one scaler is certain to be there under its name."""
        entries = source.parents[call]
        scaler = made[0]
        name = scaler.scaler.path if scaler.scaler is not None else ""
        here = source.function(scaler.node)
        sure = not any(source.function(guard.node) is here for guard in scaler.guards)
        if len(made) != 1 or not sure or not isinstance(entries, ast.Dict):
            return None
        if not name or not _is_visible(source, scaler, call) or call not in entries.values:
            return None
        key = entries.keys[entries.values.index(call)]
        if key is None:
            return None
        quote = source.segment(key)[0]
        quote = quote if quote in "'\"" else '"'
        line = source.data[source.line_starts[key.lineno - 1] : source.span(key)[0]]
        apart = " " if line.strip() else source.edits.newline + line.decode()
        text = f"{quote}scaler{quote}: {name}.state_dict(),{apart}"
        return self.fix("save the scaler's state", [source.edits.before(key, text)], safe=False)


def _is_visible(source: Source, made: Event, call: ast.Call) -> bool:
    """Whether the scaler's name means the scaler where the checkpoint is written."""
    statement = source.statement(made.node)
    if not isinstance(statement, ast.Assign) or statement.value is not made.node:
        return False
    target = statement.targets[0]
    if isinstance(target, ast.Name):
        scope = source.scopes.owner(target)
        return scope is source.tree or source.function(call) is scope
    return source.class_of(call) is source.class_of(target)


def _saves(source: Source) -> bool:
    """Whether something is written to a file here."""
    return any(
        word.startswith("save") or word.endswith("save")
        for call in source.nodes(ast.Call)
        if (word := last_word(call.func).lower().strip("_"))
    )


def _may_be_scaler(source: Source, call: ast.Call) -> bool:
    """Whether `x.state_dict()` may be that of a scaler."""
    assert isinstance(call.func, ast.Attribute)
    owner = call.func.value
    word = source.segment(owner).lower()
    return source.steps.roles.is_scaler(owner, {}) or "scaler" in word or "amp" in word


def _is_handed_on(source: Source) -> bool:
    """Whether a scaler is given to something that may save it: more than a training function."""
    for event in source.steps.events:
        if event.kind == "passed":
            name = last_word(event.call.func).lower()
            if not any(word in name for word in ("train", "epoch", "step", "fit")):
                return True
    return False


def _is_kept(source: Source, call: ast.Call) -> bool:
    """Whether the state goes into something that is saved, not into another optimizer."""
    above = source.parents[call]
    return isinstance(above, ast.Dict | ast.keyword | ast.IfExp) or (
        isinstance(above, ast.Assign) and isinstance(above.targets[0], ast.Subscript)
    )
