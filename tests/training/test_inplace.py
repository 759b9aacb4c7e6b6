"""Any program of views, copies and updates means the same after `aten_graph`."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from ampconvert.training.capture import aten_graph
from ampconvert.training.read import read
from tests.training.capture_runs import twin, with_copies

STEPS = st.tuples(
    st.sampled_from(["t", "row", "flat", "twice", "plus", "mul_", "add_", "relu_", "copy_", "t_"]),
    st.integers(0, 50),
    st.integers(0, 50),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, min_size=3, max_size=9), outputs=st.integers(1, 4))
def test_any_program_of_views_and_updates_keeps_its_meaning(
    steps: list[tuple[str, int, int]], outputs: int
) -> None:
    module = program(steps, outputs)
    with torch.no_grad():
        made = aten_graph(module, [torch.ones(4, 4), torch.ones(4, 4)])
    cast = with_copies(twin(made), read(made))
    results = []
    for run in (module, made, cast):
        inputs = [torch.arange(16.0).reshape(4, 4) - 8, torch.eye(4)]
        with torch.no_grad():
            results.append([t.clone() for t in (*run(*inputs), *inputs)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)


def program(steps: list[tuple[str, int, int]], outputs: int) -> fx.GraphModule:
    """A graph of views, copies and updates of earlier values; the last few are returned."""
    graph = fx.Graph()
    values = [graph.placeholder("x"), graph.placeholder("y")]
    ranks = [2, 2]
    for name, i, j in steps:
        value, rank = values[i % len(values)], ranks[i % len(values)]
        other = values[j % len(values)]
        rank_after = 1 if name == "flat" or rank == 1 else rank - (name == "row")
        if name == "row":
            one, two = ("narrow", (value, 0, 0, 2)) if rank == 1 else ("select", (value, 0, 1))
            new = graph.call_method(one, two)
        elif name == "flat":
            new = graph.call_method("reshape", (value, -1))
        elif name == "twice":
            new = graph.call_method("mul", (value, 2.0))
        elif name in ("plus", "add_", "copy_"):
            total = graph.call_method("sum", (other,))
            new = graph.call_method("add" if name == "plus" else name, (value, total))
        elif name == "mul_":
            new = graph.call_method("mul_", (value, 0.5))
        elif name == "t_" and value.op == "placeholder":
            continue  # it would change the caller's tensor
        else:
            new = graph.call_method(name, (value,))
        values.append(new)
        ranks.append(rank_after)
    graph.output(tuple(values[-outputs:]))
    return fx.GraphModule(nn.Module(), graph)
