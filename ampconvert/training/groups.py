"""The groups of calls that share a loss scale when each layer has its own.

Layer-wise adaptive loss scaling: Zhao et al., Adaptive Loss Scaling for Mixed Precision Training,
2019, https://arxiv.org/abs/1910.12385.
"""

from __future__ import annotations

from ampconvert.graph import Graph


def layers(graph: Graph) -> dict[str, str]:
    """The layer of each call, by name: its module path up to the first number in it
    ("encoder.layers.3"), or the outermost module where it has none ("head").
    """
    return {node.name: layer(node.scope) for node in graph.nodes}


def layer(scope: str) -> str:
    """The layer that a module path lies in; see `layers`."""
    parts = scope.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[: first + 1])
