"""The zoo's entries: one decorated function builds one model and its inputs.

An entry imports its packages inside its function: one that is missing costs one entry, not the zoo.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Batch = tuple[tuple[Any, ...], dict[str, Any]]
SEEDED = "seeded"
RANDOM = "random"


@dataclass(frozen=True)
class Sample:
    """A model in eval mode with four batches of inputs.

    `batches` are (args, kwargs) of equal shapes. `weights` is "trained in <package>" or "seeded";
    `data` starts with "real" or is "random".
    """

    module: nn.Module
    batches: list[Batch]
    weights: str = SEEDED
    data: str = RANDOM


@dataclass(frozen=True)
class Entry:
    """One model of the zoo. `axis` is where output 0 holds its classes when `logits` is true."""

    name: str
    domain: str
    trained: bool
    logits: bool
    axis: int
    build: Callable[[], Sample]

    def sample(self) -> Sample:
        """The model in eval mode with its batches, the same at every call: torch is seeded here."""
        import torch

        from .packages import repair_torchvision

        repair_torchvision()
        torch.manual_seed(0)
        sample = self.build()
        sample.module.eval()
        return sample


_ENTRIES: dict[str, Entry] = {}


def entry(
    name: str, *, domain: str, trained: bool = False, logits: bool = False, axis: int = -1
) -> Callable[[Callable[[], Sample]], Callable[[], Sample]]:
    """Put the decorated builder into the zoo; ValueError when `name` is taken."""

    def register(build: Callable[[], Sample]) -> Callable[[], Sample]:
        if name in _ENTRIES:
            raise ValueError(f"two zoo entries are named {name!r}")
        _ENTRIES[name] = Entry(name, domain, trained, logits, axis, build)
        return build

    return register


def entries() -> dict[str, Entry]:
    """Every entry by name, in the order of the modules and of their lines."""
    models = importlib.import_module("benchmarks.zoo.models")
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"{models.__name__}.{module.name}")
    return dict(_ENTRIES)


def pick(names: Iterable[str]) -> list[Entry]:
    """The entries of these names, all of them for none; KeyError names what is unknown."""
    table = entries()
    wanted = list(names) or list(table)
    unknown = [name for name in wanted if name not in table]
    if unknown:
        raise KeyError(f"no zoo entry is named {', '.join(unknown)}")
    return [table[name] for name in wanted]


def batches_of(*columns: Any, count: int = 4) -> list[Batch]:
    """`count` batches of positional inputs: each column is called with the batch's number."""
    return [(tuple(column(i) for column in columns), {}) for i in range(count)]
