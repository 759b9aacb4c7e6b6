"""AMP212: float16 autocast in training without a GradScaler."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.autocasts import Region
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source


class Fp16WithoutScaler(Rule):
    """A loss that was computed under float16 autocast goes backward without a GradScaler.

    float16 holds nothing below 6e-8, and little below 6e-5. Activation gradients smaller than
    that become zero, and what is before them in the network does not learn, without a message.
    Autocast on a GPU is float16 unless told otherwise.

    Found where autocast, backward and the optimizer's step are in one file, and nothing in it has
    to do with a scaler or with a framework that brings its own.

    Source: https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling
    """

    CODE = "AMP212"
    NAME = "fp16-without-scaler"
    ADVICE = "Use torch.amp.GradScaler, or bfloat16 where the GPU has it."
    FIX = "unsafe"
    FIX_SAFETY = "bfloat16 keeps 8 bits of each number instead of 11, and older GPUs emulate it."
    WORDS = ((b"autocast",), (b"backward",), (b".step",))
    JUDGED = Judged(true=1, read=1)
    VALID = (
        Case("""\
import torch


def train(model, loader, optimizer):
    for x in loader:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = model(x)
        loss.backward()
        optimizer.zero_grad()
        optimizer.step()
"""),
        Case("""\
import torch
from mylib import NativeScaler


def train(model, teacher, loader):
    loss_scaler = NativeScaler()
    optimizer = torch.optim.Adam(model.parameters())
    for x in loader:
        with torch.cuda.amp.autocast():
            loss = model(x)
        loss_scaler(loss, optimizer)
        model.penalty().backward()
        optimizer.step()
"""),
        Case("""\
import torch


def train(model, teacher, loader):
    optimizer = torch.optim.Adam(model.parameters())
    for x in loader:
        with torch.no_grad(), torch.autocast("cuda"):
            y = teacher(x)
        z = model(x)
        loss = (z - y).pow(2).mean()
        loss.backward()
        optimizer.step()
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th


def train(model, loader, criterion):
    optimizer = th.optim.Adam(model.parameters())
    for x, y in loader:
        with th.autocast(device_type="cuda"):
            loss = criterion(model(x), y)
        loss.backward()  # AMP212
        optimizer.step()
""",
            """\
import torch as th


def train(model, loader, criterion):
    optimizer = th.optim.Adam(model.parameters())
    for x, y in loader:
        with th.autocast(device_type="cuda", dtype=th.bfloat16):
            loss = criterion(model(x), y)
        loss.backward()  # AMP212
        optimizer.step()
""",
        ),
        Case(
            """\
import torch
from torch.cuda.amp import autocast as ac


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(self, x):
        with ac(dtype=torch.float16):
            return self.model(x)

    def fit(self, loader):
        for x in loader:
            self.optimizer.zero_grad()
            loss = self.loss(x)
            loss.backward()  # AMP212
            self.optimizer.step()
""",
            """\
import torch
from torch.cuda.amp import autocast as ac


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(self, x):
        with ac(dtype=torch.bfloat16):
            return self.model(x)

    def fit(self, loader):
        for x in loader:
            self.optimizer.zero_grad()
            loss = self.loss(x)
            loss.backward()  # AMP212
            self.optimizer.step()
""",
        ),
        Case(
            """\
import torch
from torch import nn


class Net(nn.Module):
    @torch.autocast("cuda")
    def forward(self, x):
        return self.layers(x)


def train(loader, criterion):
    net = Net().cuda()
    optimizer = torch.optim.Adam(net.parameters())
    for x, y in loader:
        out = net(x)
        loss = criterion(out, y)
        loss.backward()  # AMP212
        optimizer.step()
""",
            """\
import torch
from torch import nn


class Net(nn.Module):
    @torch.autocast("cuda", dtype=torch.bfloat16)
    def forward(self, x):
        return self.layers(x)


def train(loader, criterion):
    net = Net().cuda()
    optimizer = torch.optim.Adam(net.parameters())
    for x, y in loader:
        out = net(x)
        loss = criterion(out, y)
        loss.backward()  # AMP212
        optimizer.step()
""",
        ),
        Case(
            """\
import torch


def train(model, x, use_amp):
    optimizer = torch.optim.Adam(model.parameters())
    with torch.autocast("cuda", enabled=use_amp):
        loss = model(x)
        loss.backward()  # AMP212
    optimizer.step()
""",
            """\
import torch


def train(model, x, use_amp):
    optimizer = torch.optim.Adam(model.parameters())
    with torch.autocast("cuda", enabled=use_amp, dtype=torch.bfloat16):
        loss = model(x)
        loss.backward()  # AMP212
    optimizer.step()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Plain backward passes of losses from float16 regions."""
        regions = [r for r in source.autocasts.regions.values() if _is_float16(r)]
        if not regions or _has_scaler(source) or not _steps(source):
            return
        for call in source.names.methods("backward"):
            assert isinstance(call.func, ast.Attribute)
            if call.args or source.names.of(call.func):
                continue  # an engine's backward(loss), or torch.autograd.backward
            region = _region_of(source, call.func.value)
            if region is not None and region in regions:
                yield self.finding(
                    source, call, "a loss from float16 autocast goes backward without a GradScaler",
                    self._in_bfloat16(source, region),
                )  # fmt: skip

    def _in_bfloat16(self, source: Source, region: Region) -> Fix | None:
        spelled, imports = source.edits.spelled("torch.bfloat16", region.node)
        given = region.autocast.argument("dtype")
        if given is not None:
            edit = source.edits.replace(given, spelled)
        elif any(k.arg is None for k in region.autocast.call.keywords):
            return None
        else:
            edit = source.edits.add_keyword(region.autocast.call, f"dtype={spelled}")
        return self.fix("use bfloat16", [*imports, edit], safe=False)


def _is_float16(region: Region) -> bool:
    """Whether a region is certainly float16 on a GPU, when it is on: by default too."""
    autocast = region.autocast
    if autocast.framework or autocast.enabled is False or not region.sure:
        return False
    on_gpu = "cuda" in autocast.devices or not autocast.devices
    return on_gpu and (autocast.argument("dtype") is None or autocast.dtypes == {"float16"})


def _has_scaler(source: Source) -> bool:
    """Whether anything here has to do with a scaler, a framework or another default type."""
    words = ("scaler", "scale_loss", "loss_scale", "set_autocast", "deepspeed", "accelerat")
    nodes = (
        *(n.attr for n in source.nodes(ast.Attribute)), *(n.id for n in source.nodes(ast.Name)),
        *(n.arg for n in source.nodes(ast.arg)), *(n.name for n in source.nodes(ast.alias)),
        *(n.arg or "" for n in source.nodes(ast.keyword)),
    )  # fmt: skip
    return any(word in name.lower() for name in nodes for word in words)


def _steps(source: Source) -> bool:
    """Whether an optimizer steps here."""
    return any(
        isinstance(call.func, ast.Attribute) and source.kinds.is_a(call.func.value, "optimizer")
        for call in source.names.methods("step")
    )


def _region_of(source: Source, loss: ast.expr, left: int = 3) -> Region | None:
    """The region that a loss, or what it is computed from, comes from."""
    for value in source.values.of(loss):
        region = source.autocasts.around(value) or _inside_module(source, value)
        if region is not None:
            return None if _has_no_gradient(source, region.node) else region
    for value in source.values.of(loss) if left else ():
        for name in ast.walk(value):
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load) and name is not loss:
                region = _region_of(source, name, left - 1)
                if region is not None:
                    return region
    return None


def _inside_module(source: Source, value: ast.expr) -> Region | None:
    """The region that is the whole `forward` of a module of this file which `value` calls."""
    for called in ast.walk(value):
        if isinstance(called, ast.Call):
            for made in source.values.made_of(called.func):
                forward = source.values.method(made, "forward")
                region = source.autocasts.regions.get(forward) if forward is not None else None
                if region is not None:
                    return region
    return None


def _has_no_gradient(source: Source, node: ast.AST) -> bool:
    """Whether a region is one of no_grad or inference_mode as well, or is inside of one."""
    return any(
        isinstance(made := item.context_expr, ast.Call)
        and source.names.is_one(made.func, "torch.no_grad", "torch.inference_mode")
        for above in (node, *source.ancestors(node))
        if isinstance(above, ast.With)
        for item in above.items
    )
