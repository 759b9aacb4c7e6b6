"""Small model files that tests write and load."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ampconvert.errors import UserError
from ampconvert.frontends.entry import Entry, find
from ampconvert.frontends.inputs import Inputs, resolve

HEAD = "import torch\nfrom torch import nn\n"  # user code starts at line 3
NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
    def forward(self, x):
        return self.fc(x)
"""
TWO = """import numpy as np
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
    def forward(self, x, y=None, *, scale=1.0):
        x = self.fc(x) * scale
        return x if y is None else x + y
"""  # its last line is line 10


def write(folder: Path, text: str, name: str = "model.py") -> Path:
    """A file of user code below HEAD."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
    return path


def load(folder: Path, text: str, model: str | None = None, **more: Path) -> Entry:
    """The model that a file of this text defines."""
    return find(str(write(folder, text)), model, **more)


def message(call: Callable[..., object], *arguments: Any, **more: Any) -> str:
    """What the UserError says that a call raises."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **more)
    return str(caught.value)


def around(forward: str, layers: str) -> str:
    """The text of a module `Net`: "PARAMETERS => BODY" of its forward, and its layers."""
    made = "\n        ".join(layers.split("; "))
    parameters, _, body = "\n        ".join(forward.split("; ")).partition(" => ")
    return (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        {made}\n    def forward(self, {parameters}):\n        {body}\n"
    )


def guessed(folder: Path, forward: str, layers: str) -> Inputs:
    """The inputs that are guessed for a module `Net`."""
    inputs = resolve(load(folder, around(forward, layers)))
    assert inputs.random
    assert inputs.source.startswith("guessed from ")
    assert len(inputs.calibration) == 4
    return inputs
