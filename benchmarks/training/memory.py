"""What a forward keeps for its backward, in bytes, in each way."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.training.measures import saved_bytes
from benchmarks.training.tasks import task
from benchmarks.training.ways import Way, start

WAYS = (
    Way("float32"),
    Way("autocast", "float16"),
    Way("ours", "float16"),
    Way("ours", "float16", prefer="memory"),
    Way("autocast", "bfloat16"),
    Way("ours", "bfloat16"),
    Way("ours", "bfloat16", prefer="memory"),
    Way("autocast", "bfloat16", compiled=True),
    Way("ours", "bfloat16", compiled=True, prefer="memory"),
)


def measure(name: str) -> dict[str, Any]:
    """Bytes by "way type" for the larger batch size, the loss included, parameters excluded.

    Low copies of parameters count, since they live as long as the activations.
    """
    torch._dynamo.config.recompile_limit = 64
    chosen = task(name)
    batch = chosen.sample(chosen.sizes[1])
    found: dict[str, Any] = {"batch": chosen.sizes[1]}
    for way in WAYS:
        key = f"{way.name} {way.dtype}"
        torch._dynamo.reset()
        try:
            loop = start(way, chosen, 0)
            for _ in range(2):
                loop.step(chosen.loss, batch)

            def forward(loop: Any = loop) -> Any:
                with loop.context():
                    return chosen.loss(loop.model, batch)

            found[key] = saved_bytes(forward, loop.parameters)
        except Exception as error:  # a way that can't train this model keeps nothing
            text = " ".join(str(error).split())
            found[key] = {"error": f"{type(error).__name__}: {text[:200]}"}
    return found
