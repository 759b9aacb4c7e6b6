"""The rewrite to torch.amp: autocast around forward and loss, and a gradient scaler for float16."""

from __future__ import annotations

import ast

from ampconvert.lint.rewrite.casts import Casts
from ampconvert.lint.rewrite.changes import Decorate, Insert, Plan, Wrap
from ampconvert.lint.rewrite.checkpoints import Checkpoints
from ampconvert.lint.rewrite.devices import Devices
from ampconvert.lint.rewrite.flow import Flow
from ampconvert.lint.rewrite.losses import Losses
from ampconvert.lint.rewrite.names import Fresh, header
from ampconvert.lint.rewrite.regions import Region, Regions
from ampconvert.lint.rewrite.scalers import Scalers
from ampconvert.lint.rewrite.script import Script
from ampconvert.lint.rewrite.stepping import Stepping


def plan(script: Script) -> Plan:
    """Everything that is to change in `script`. Raises UserError where that can't be decided."""
    made = Plan()
    fresh = Fresh(script.source)
    devices = Devices(script, fresh)
    flow = Flow(script)
    losses = Losses(script, flow)
    regions = Regions(script, flow, losses)
    found = regions.find()
    _Contexts(script, made, fresh, devices).make(found)
    off = f"with {fresh.torch}.amp.autocast({{device}}, enabled=False):"
    losses.plan(made, regions.outside(), off)
    casts = Casts(script, flow, made)
    casts.remove_by_hand()
    casts.float_before_numpy()
    if script.scaled:
        scalers = Scalers(script, made, fresh, devices)
        scalers.make()
        Stepping(script, made, fresh, scalers).make()
        Checkpoints(script, made, scalers).make()
    _parallel(script, made, fresh)
    switch(script, made, fresh, with_dtype=True)
    return made


class _Contexts:
    """Writes the `with` lines."""

    def __init__(self, script: Script, made: Plan, fresh: Fresh, devices: Devices) -> None:
        self._script = script
        self._plan = made
        self._fresh = fresh
        self._devices = devices

    def make(self, regions: list[Region]) -> None:
        """Plan a `with` for each region."""
        for region in regions:
            area = self._script.roles.area(region.first)
            device = self._devices.at(region.first, area)
            head = (
                f"with {self._fresh.torch}.amp.autocast({device}, dtype={self._fresh.dtype}, "
                f"enabled={self._fresh.switch}):"
            )
            extracted = None
            if region.extracted is not None:
                extracted = (region.extracted, self._name(region.extracted))
            self._plan.add(
                Wrap(region.first, region.last, head, extracted, region.bare),
                region.first.lineno, self._told(region), self._why(region),
            )  # fmt: skip

    def _name(self, expression: ast.expr) -> str:
        """What an expression is called that gets a line of its own."""
        network = isinstance(expression, ast.Call) and self._script.roles.runs_module(expression)
        is_loss = not network or any(b.loss is expression for b in self._script.backwards)
        return self._fresh.name("loss", "batch_loss") if is_loss else self._fresh.name(
            "output", "model_output"
        )  # fmt: skip

    def _told(self, region: Region) -> str:
        first, last = region.first.lineno, region.last.end_lineno or region.last.lineno
        lines = f"line {first}" if first == last else f"lines {first} to {last}"
        kind = "forward pass and loss" if region.training else "validation"
        return f"autocast around {kind}, {lines}"

    def _why(self, region: Region) -> str:
        if region.training:
            return (
                "matrix products and convolutions run in 16 bits there, what needs range or "
                "precision in float32; backward runs in the types of forward by itself"
            )
        return "so that it measures what is trained, and at the same speed"


def switch(script: Script, made: Plan, fresh: Fresh, *, with_dtype: bool) -> None:
    """The constants at the top of the script, and the imports that the new lines need."""
    source = script.source
    system = fresh.module("os")
    lines = [
        f'{fresh.switch} = {system}.environ.get("{fresh.switch}", "1") != "0"'
        f"  # {fresh.switch}=0 runs all in float32"
    ]
    if with_dtype:
        lines.append(f"{fresh.dtype} = {fresh.torch}.{script.dtype}")
    top = header(source)
    text = "\n".join([*fresh.imports, "", *lines])
    line = top[-1].lineno if top else 1
    told = (
        line, f"{fresh.switch} at the top",
        f"with {fresh.switch}=0 in the environment the script computes what it did before",
    )  # fmt: skip
    if top:
        made.add(Insert(top[-1], text, after=True), *told)
    else:
        made.add(Insert(source.tree.body[0], "\n".join([*fresh.imports, *lines])), *told)


def _parallel(script: Script, made: Plan, fresh: Fresh) -> None:
    """DataParallel runs forward in threads: autocast's type doesn't follow there."""
    source = script.source
    for call in source.names.calls("torch.nn.DataParallel"):
        given = call.args[0] if call.args else None
        owners = []
        if given is not None:
            for value in source.values.of(given):
                function = value.func if isinstance(value, ast.Call) else value
                defined = source.values.definition(function)
                owners += [defined] if isinstance(defined, ast.ClassDef) else []
                owners += source.values.made_of(given)
        forwards = {f for o in owners if (f := source.values.method(o, "forward")) is not None}
        if not forwards and not script.scaled:
            raise script.refuse(
                call, "DataParallel runs the model in threads, which take over that autocast is "
                "on, but not its type", "use DistributedDataParallel, or --dtype fp16",
            )  # fmt: skip
        for forward in forwards:
            torch = fresh.torch
            made.add(
                Decorate(
                    forward,
                    f'{torch}.amp.autocast("cuda", dtype={fresh.dtype}, '
                    f"enabled={fresh.switch} and {torch}.cuda.is_available())",
                ),
                forward.lineno, "autocast for forward() itself",
                "DataParallel runs it in threads, to which autocast's type doesn't follow",
            )  # fmt: skip
