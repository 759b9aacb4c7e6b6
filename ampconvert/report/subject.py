"""What a report is about: the model, how it was found, and the data that it ran on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """One input tensor of the example."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Subject:
    """A model as its owner knows it, and where its inputs came from."""

    target: str  # as typed: "examples/mlp.py"
    name: str  # "MLP"
    how: str  # "class MLP at mlp.py:14"
    tensors: tuple[Tensor, ...] = ()
    inputs_source: str = ""  # "example_inputs() in mlp.py"
    inputs_random: bool = False
    data_source: str = ""  # what ranges and parity were taken from
    data_random: bool = False
    batches: int = 1
