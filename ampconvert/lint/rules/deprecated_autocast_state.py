"""AMP004: torch.get_autocast_gpu_dtype and its like."""

from __future__ import annotations

import ast

from ampconvert.lint.renames import Adapted, RenameRule
from ampconvert.lint.rule import Case
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

# The name, without "gpu" and the like, of what takes the device as first argument.
_DEVICES = {
    "torch.get_autocast_gpu_dtype": "cuda",
    "torch.get_autocast_cpu_dtype": "cpu",
    "torch.get_autocast_xla_dtype": "xla",
    "torch.get_autocast_ipu_dtype": "ipu",
    "torch.set_autocast_gpu_dtype": "cuda",
    "torch.set_autocast_cpu_dtype": "cpu",
    "torch.set_autocast_xla_dtype": "xla",
    "torch.set_autocast_ipu_dtype": "ipu",
    "torch.is_autocast_cpu_enabled": "cpu",
    "torch.is_autocast_xla_enabled": "xla",
    "torch.is_autocast_ipu_enabled": "ipu",
    "torch.set_autocast_cpu_enabled": "cpu",
    "torch.set_autocast_xla_enabled": "xla",
    "torch.set_autocast_ipu_enabled": "ipu",
}


def _general(name: str) -> str:
    first, second, _, last = name.split("_")
    return f"{first}_{second}_{last}"


_NAMES = {name: _general(name) for name in _DEVICES}


class DeprecatedAutocastState(RenameRule):
    """`torch.get_autocast_gpu_dtype()` and its like for other devices are deprecated.

    PyTorch 2.4 has one function for all devices, which takes the device as its first argument:
    `torch.get_autocast_dtype("cuda")`, `torch.is_autocast_enabled("cpu")`. The old ones warn when
    first called. `torch.is_autocast_enabled()` without a device stays, and means "cuda".

    A use that is not a call is reported and not fixed. Nothing is said of the branch that runs
    only where PyTorch has no such function.

    Source: https://github.com/pytorch/pytorch/pull/124479
    """

    CODE = "AMP004"
    NAME = "deprecated-autocast-state"
    ADVICE = 'Call the function that takes the device: torch.get_autocast_dtype("cuda").'
    FIX = "safe"
    FIX_SAFETY = (
        "Both read and write the same state. Made only where the oldest PyTorch of the project "
        "is 2.4 or newer."
    )
    OLD = _NAMES
    FIX_FROM = (2, 4)
    WORDS = ((b"autocast_gpu", b"autocast_cpu", b"autocast_xla", b"autocast_ipu"),)
    VALID = (
        Case("""\
import torch

dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled() else torch.float32
"""),
        Case("""\
import torch


def low_type(device):
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(device)
    return torch.get_autocast_gpu_dtype()
"""),
        Case("""\
from mylib import get_autocast_gpu_dtype

dtype = get_autocast_gpu_dtype()
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th

on = th.is_autocast_enabled() or th.is_autocast_cpu_enabled()  # AMP004
th.set_autocast_gpu_dtype(th.bfloat16)  # AMP004
""",
            """\
import torch as th

on = th.is_autocast_enabled() or th.is_autocast_enabled("cpu")  # AMP004
th.set_autocast_dtype("cuda", th.bfloat16)  # AMP004
""",
        ),
        Case(
            """\
import torch
from torch import get_autocast_gpu_dtype


class Attention(torch.nn.Module):
    def forward(self, x):
        return x.to(get_autocast_gpu_dtype())  # AMP004
""",
            """\
import torch


class Attention(torch.nn.Module):
    def forward(self, x):
        return x.to(torch.get_autocast_dtype("cuda"))  # AMP004
""",
        ),
        Case("""\
import torch

type_of = {"cuda": torch.get_autocast_gpu_dtype}  # AMP004
"""),
        Case(
            """\
import torch

dtype = torch.get_autocast_cpu_dtype()  # AMP004
""",
            settings=Settings(torch=(2, 0)),
        ),
    )

    def adapted(self, source: Source, node: ast.expr, name: str) -> Adapted | None:
        """The device comes first."""
        call = source.parents[node]
        if not isinstance(call, ast.Call) or call.func is not node:
            return None
        return Adapted((source.edits.add_first(call, f'"{_DEVICES[name]}"'),))
