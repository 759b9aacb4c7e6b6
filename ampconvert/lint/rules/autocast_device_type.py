"""AMP101: a device_type that torch.autocast doesn't take."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Edit, Finding, Severity
from ampconvert.lint.autocasts import Autocast
from ampconvert.lint.devices import device_types
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source
from ampconvert.lint.values import is_self

_NAME = "torch.amp.autocast"
_TYPES = frozenset({"cuda", "cpu", "xpu", "mps", "hpu", "mtia", "xla", "ipu", "meta"})
# What people write for a device type, and the type that PyTorch has for it; "" where none is sure.
_MISTAKEN = {
    "gpu": "cuda", "rocm": "cuda", "nvidia": "cuda", "hip": "cuda", "tpu": "xla", "auto": "",
    "fp16": "", "float16": "", "bf16": "", "bfloat16": "",
}  # fmt: skip


class AutocastDeviceType(Rule):
    """`torch.autocast` takes the type of a device as a string, "cuda" and not "cuda:0".

    Without it the call raises a TypeError. A `torch.device` raises a ValueError, a name that
    PyTorch doesn't know ("gpu") a RuntimeError. "cuda:0" raises one before PyTorch 2.4. Since then
    it is taken, but skips the checks that switch autocast off where there is no GPU and that
    refuse bfloat16 where the GPU can't.

    A plain "cuda" is reported as information where the script goes on without a GPU
    (`"cuda" if torch.cuda.is_available() else "cpu"`): there it only warns, and the model runs in
    float32, though the CPU has an autocast of its own. Nothing is said where `enabled=` is given.

    A device that comes from a parameter without annotation, an option or another file is not
    judged, nor is the name of a backend that registers itself.

    Source: https://docs.pytorch.org/docs/stable/amp.html#torch.autocast
    """

    CODE = "AMP101"
    NAME = "autocast-device-type"
    SEVERITY = "error"
    ADVICE = 'Pass the type only: device.type of a torch.device, or a plain "cuda" or "cpu".'
    FIX = "sometimes safe"
    FIX_SAFETY = (
        "Safe: the call raises as it is, or means the same device. Unsafe for a hard-coded "
        '"cuda": with device.type a CPU takes bfloat16 where it ran in float32.'
    )
    WORDS = ((b"autocast",),)
    VALID = (
        Case("""\
import torch

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
with torch.autocast(device.type, dtype=torch.bfloat16):
    pass
"""),
        Case("""\
from torch.cuda.amp import autocast

with autocast():
    pass
"""),
        Case("""\
import torch


def step(model, x, device, options):
    with torch.autocast(device):
        model(x)
    with torch.autocast(device_type=options["device"]):
        return model(x)
"""),
        Case("""\
import torch

device = "cuda:0" if torch.cuda.is_available() else "cpu"
with torch.autocast("cuda", enabled=device != "cpu"):
    pass


class Net(torch.nn.Module):
    def forward(self, x):
        with torch.autocast(self.device):
            return x


with torch.autocast("npu"), torch.autocast(device.split(":")[0]):
    pass
"""),
        Case("""\
import torch

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if device.type == "cuda":
    with torch.autocast("cuda"):
        pass
"""),
        Case("""\
from contextlib import nullcontext

import torch as th

device = "cuda" if th.cuda.is_available() else "cpu"
amp = th.autocast("cuda") if device == "cuda" else nullcontext()
with amp:
    pass
"""),
    )
    INVALID = (
        Case("""\
import torch
from torch.amp import autocast as ac

with torch.autocast():  # AMP101
    pass
with ac(dtype=torch.bfloat16):  # AMP101
    pass
with ac(torch.float16):  # AMP101
    pass
with ac(True):  # AMP101
    pass
"""),
        Case(
            """\
import torch as th


class Trainer:
    def __init__(self):
        self.device = th.device("cuda:0")

    def step(self, x):
        with th.autocast(self.device, dtype=th.bfloat16):  # AMP101
            return x


def infer(model, x: th.Tensor, device: th.device):
    with th.autocast(device_type=device):  # AMP101
        model(x)
    with th.amp.autocast(x.device):  # AMP101
        return model(x)
""",
            """\
import torch as th


class Trainer:
    def __init__(self):
        self.device = th.device("cuda:0")

    def step(self, x):
        with th.autocast(self.device.type, dtype=th.bfloat16):  # AMP101
            return x


def infer(model, x: th.Tensor, device: th.device):
    with th.autocast(device_type=device.type):  # AMP101
        model(x)
    with th.amp.autocast(x.device.type):  # AMP101
        return model(x)
""",
        ),
        Case(
            """\
import torch

rank = 0
device = f"cuda:{rank}"
with torch.autocast('gpu'):  # AMP101
    pass
with torch.autocast(device):  # AMP101
    pass
with torch.autocast("cuda:1"), torch.autocast(f"cuda:{rank}"):  # AMP101
    pass
with torch.autocast("CPU"):  # AMP101
    pass
with torch.autocast("auto"):  # AMP101
    pass
""",
            """\
import torch

rank = 0
device = f"cuda:{rank}"
with torch.autocast("cuda"):  # AMP101
    pass
with torch.autocast(torch.device(device).type):  # AMP101
    pass
with torch.autocast("cuda"), torch.autocast("cuda"):  # AMP101
    pass
with torch.autocast("cpu"):  # AMP101
    pass
with torch.autocast("auto"):  # AMP101
    pass
""",
        ),
        Case(
            """\
import torch


def main(model, data):
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)
    for x in data:
        with torch.autocast("cuda", torch.bfloat16):  # AMP101
            model(x.to(device))
""",
            """\
import torch


def main(model, data):
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)
    for x in data:
        with torch.autocast(device.type, torch.bfloat16):  # AMP101
            model(x.to(device))
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Every call whose device type can't be right, or is right on one machine only."""
        for autocast in source.autocasts.calls:
            if autocast.name != _NAME or source.names.all_of(autocast.call.func) != {_NAME}:
                continue
            given = autocast.argument("device_type")
            if given is None:
                yield from self._missing(source, autocast.call)
            elif _is_device(source, given):
                edit = source.edits.method(given, ".type")
                yield self.finding(
                    source, autocast.call,
                    "torch.autocast raises a ValueError for a torch.device: it takes a string",
                    self.fix("pass the device's type", [edit], safe=True),
                )  # fmt: skip
            elif _is_other(source, given):
                message = "the first argument of torch.autocast is the device type, a string"
                yield self.finding(source, autocast.call, message)
            else:
                yield from self._spelled(source, autocast, given)

    def _missing(self, source: Source, call: ast.Call) -> Iterator[Finding]:
        hidden = any(isinstance(a, ast.Starred) for a in call.args) or any(
            k.arg is None for k in call.keywords
        )
        if not hidden:
            message = "torch.autocast raises a TypeError without device_type"
            yield self.finding(source, call, message)

    def _spelled(self, source: Source, autocast: Autocast, given: ast.expr) -> Iterator[Finding]:
        """Strings: unknown types, types with an index, and "cuda" for every machine."""
        call, names = autocast.call, list(_texts(source, given))
        for name in names:
            wanted = name.lower() if name.lower() in _TYPES else _MISTAKEN.get(name.lower())
            if wanted is not None and name not in _TYPES:
                fix = None
                if wanted and isinstance(given, ast.Constant):
                    edit = source.edits.replace(given, f'"{wanted}"')
                    fix = self.fix(f'say "{wanted}"', [edit], safe=True)
                message = f'torch.autocast raises a RuntimeError: "{name}" is no device type'
                yield self.finding(source, call, message, fix)
                return
        indexed = next((name for name in names if ":" in name), None)
        if indexed is not None and indexed.partition(":")[0] in _TYPES:
            message = f'"{indexed}" is a device; torch.autocast takes its type'
            fix = self.fix("pass the type", self._without_index(source, given), safe=True)
            severity: Severity = "error" if source.settings.torch < (2, 4) else "warning"
            yield self.finding(source, call, message, fix, severity)
        elif isinstance(given, ast.Constant) and names == ["cuda"]:
            yield from self._fixed(source, autocast, given)

    def _without_index(self, source: Source, given: ast.expr) -> list[Edit]:
        if isinstance(given, ast.Constant | ast.JoinedStr):
            return [source.edits.replace(given, f'"{next(iter(device_types(source, given)))}"')]
        text, imports = source.edits.spelled("torch.device", given)
        return [source.edits.replace(given, f"{text}({source.segment(given)}).type"), *imports]

    def _fixed(self, source: Source, autocast: Autocast, given: ast.expr) -> Iterator[Finding]:
        """A "cuda" where the same function or the module chooses between it and the CPU."""
        call = autocast.call
        region = next((r for r in source.autocasts.regions.values() if r.autocast is autocast),
                      None)  # fmt: skip
        if autocast.argument("enabled") is not None or region is None or not region.sure:
            return
        if source.inside(call, ast.If, ast.IfExp) is not None:
            return
        for chosen in source.names.calls("torch.device"):
            name = _assigned_name(source, chosen)
            if name is None or not chosen.args:
                continue
            if device_types(source, chosen.args[0]) != {"cuda", "cpu"}:
                continue
            if [b.value for b in source.scopes.seen(name, call)] == [chosen]:
                message = (
                    f'"cuda" is hard-coded, but {name} may be a CPU: there autocast only warns'
                )
                edit = source.edits.replace(given, f"{name}.type")
                fix = self.fix(f"take {name}.type", [edit], safe=False)
                yield self.finding(source, call, message, fix, "info")
                return


def _is_device(source: Source, given: ast.expr) -> bool:
    """Whether the argument is a torch.device in every case."""
    return all(_is_one_device(source, value) for value in source.values.of(given))


def _is_one_device(source: Source, value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        return source.names.of(value.func) == "torch.device"
    if isinstance(value, ast.Attribute) and value.attr == "device":
        found = source.running.types(value.value, "cuda-autocast")
        return bool(found) and found <= {"tensor", "full", "low"} and not is_self(value.value)
    if isinstance(value, ast.Name):
        arguments = [b.node for b in source.scopes.bindings(value)]
        return bool(arguments) and all(
            isinstance(a, ast.arg) and a.annotation is not None
            and source.names.of(a.annotation) == "torch.device" for a in arguments
        )  # fmt: skip
    return False


def _is_other(source: Source, given: ast.expr) -> bool:
    """Whether the argument is a switch or an element type in every case."""
    return all(
        (isinstance(value, ast.Constant) and isinstance(value.value, bool))
        or (isinstance(value, ast.Attribute | ast.Name) and bool(source.tensors.types(value)))
        for value in source.values.of(given)
    )


def _texts(source: Source, given: ast.expr) -> Iterator[str]:
    """The strings that the argument may be; of f"cuda:{rank}" the beginning."""
    for value in source.values.of(given):
        if isinstance(value, ast.JoinedStr) and value.values:
            value = value.values[0]
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def _assigned_name(source: Source, value: ast.expr) -> str | None:
    above = source.parents[value]
    if isinstance(above, ast.Assign) and len(above.targets) == 1:
        target = above.targets[0]
        return target.id if isinstance(target, ast.Name) else None
    return None
