"""The Dynamo backend that converts what torch.compile captures.

    torch.compile(model, backend="ampconvert", options={"dtype": torch.float16})

`ampconvert.prepare_training` uses the same backend, without torch.compile's wrapper around the
model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo import lookup_backend

from ampconvert.training.capture import NotCapturable, aten_graph
from ampconvert.training.checkpoints import checkpoint_eagerly
from ampconvert.training.settings import Settings, make_settings
from ampconvert.training.state import Training
from ampconvert.training.subgraph import Compile, Subgraph

LOG = logging.getLogger("ampconvert.training")

_shared: dict[tuple[Any, ...], Training] = {}


class Backend:
    """Converts the graphs of one training; `root` is the whole model, where it is known."""

    def __init__(self, training: Training, root: torch.nn.Module | None = None) -> None:
        self.training, self.root = training, root

    def __call__(self, gm: fx.GraphModule, inputs: Sequence[Any], **_: Any) -> Callable[..., Any]:
        """A captured graph as something that runs in mixed precision; as it is, and with the reason
        in the log, where it can't be converted.
        """
        compile_inner = inner_compiler(self.training.settings, inputs)
        try:
            module = aten_graph(gm, inputs, self.root)
        except NotCapturable as error:
            LOG.warning("a part of the model trains in float32: %s", error)
            return compile_inner(gm) if compile_inner else checkpoint_eagerly(gm).forward
        subgraph = Subgraph(self.training, module, compile_inner)
        self.training.subgraphs.add(subgraph)
        return subgraph


def backend(
    gm: fx.GraphModule, inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, **_: Any
) -> Callable[..., Any]:
    """`torch.compile(..., backend="ampconvert")`; `options` are the arguments of
    `ampconvert.prepare_training`. Models compiled with the same options share one loss scale.
    """
    return Backend(shared_training(options or {}))(gm, inputs)


def shared_training(options: Mapping[str, Any]) -> Training:
    """The training of every model that is compiled with these options."""
    settings = make_settings(**options)
    key = tuple(sorted((name, repr(value)) for name, value in vars(settings).items()))
    if key not in _shared:
        _shared[key] = Training(settings)
    return _shared[key]


def shared_trainings() -> list[Training]:
    """All trainings that came from `torch.compile(..., backend="ampconvert")`."""
    return list(_shared.values())


def inner_compiler(settings: Settings, inputs: Sequence[Any]) -> Compile | None:
    """The backend of torch.compile that converted graphs run in; None for PyTorch itself."""
    if settings.inner == "eager":
        return None
    compiler = lookup_backend(settings.inner)
    options = {"options": dict(settings.options)} if settings.options else {}
    return lambda module: compiler(module, list(inputs), **options)
