"""Graph networks: torch_geometric layers over small graphs, and a trained atomistic potential."""

from __future__ import annotations

from typing import Any

from ..registry import Sample, batches_of, entry


def _edges(i: int, nodes: int = 60, edges: int = 240) -> Any:
    import torch

    return torch.randint(0, nodes, (2, edges), generator=torch.Generator().manual_seed(i))


def _features(i: int, nodes: int = 60) -> Any:
    import torch

    make = torch.Generator().manual_seed(100 + i)
    return (torch.rand(nodes, 200, generator=make) < 0.05).float()


@entry("gcn", domain="graph", logits=True)
def gcn() -> Sample:
    """A two-layer GCN: degree normalisation and scatter additions."""
    from torch_geometric.nn import GCN

    return Sample(GCN(200, 64, 2, 7), batches_of(_features, _edges))


@entry("gat", domain="graph", logits=True)
def gat() -> Sample:
    """A two-layer GAT: a softmax over each node's neighbours by scatter."""
    from torch_geometric.nn import GAT

    return Sample(GAT(200, 64, 2, 7, heads=4), batches_of(_features, _edges))


@entry("graphsage", domain="graph", logits=True)
def graphsage() -> Sample:
    """A two-layer GraphSAGE: the mean over neighbours."""
    from torch_geometric.nn import GraphSAGE

    return Sample(GraphSAGE(200, 64, 2, 7), batches_of(_features, _edges))


@entry("dense_gnn", domain="graph", logits=True)
def dense_gnn() -> Sample:
    """The same GCN over dense adjacency matrices: matrix products only."""
    import torch
    from torch import nn
    from torch_geometric.nn import DenseGCNConv

    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = DenseGCNConv(200, 64), DenseGCNConv(64, 7)

        def forward(self, x: torch.Tensor, adjacency: torch.Tensor) -> Any:
            return self.two(self.one(x, adjacency).relu(), adjacency)

    def adjacency(i: int) -> torch.Tensor:
        make = torch.Generator().manual_seed(i)
        return (torch.rand(1, 60, 60, generator=make) < 0.07).float()

    return Sample(Dense(), batches_of(lambda i: _features(i)[None], adjacency))
