"""Running modules through `aten_graph`, as they are and with copies in place of casts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ampconvert.frontends.fx_nodes import is_getitem, is_tensor, replace_operands
from ampconvert.graph import Graph, Node
from ampconvert.training.capture import aten_graph
from ampconvert.training.checkpoints import checkpoint_eagerly
from ampconvert.training.read import read
from tests.training import capture_models_updates
from tests.training.capture_models import CASES

assert capture_models_updates  # it adds its cases to CASES


class Recorder:
    """A backend that runs what `aten_graph` made, and keeps it."""

    def __init__(self, root: nn.Module | None = None) -> None:
        self.root = root
        self.casts = False
        self.modules: list[fx.GraphModule] = []
        self.graphs: list[Graph] = []

    def __call__(self, gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        before = torch.get_rng_state()
        module = aten_graph(gm, inputs, self.root)
        assert torch.equal(torch.get_rng_state(), before)
        self.modules.append(module)
        self.graphs.append(read(module))
        plain = checkpoint_eagerly(twin(module))
        cast = checkpoint_eagerly(with_copies(twin(module), self.graphs[-1]))
        return lambda *args: (cast if self.casts else plain)(*args)

    @property
    def graph(self) -> Graph:
        (graph,) = self.graphs
        return graph


def twin(module: fx.GraphModule) -> fx.GraphModule:
    """A module with a graph of its own, of the same names, over the same tensors."""
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    graph.output(graph.graph_copy(module.graph, made))
    for old, new in made.items():
        new.name, new.meta = old.name, dict(old.meta)
    return fx.GraphModule(module, graph)


def with_copies(module: fx.GraphModule, graph: Graph) -> fx.GraphModule:
    """`module` with a copy after each float32 value, read by every call that may run in another
    type: where a cast would stand in the worst of all plans.
    """
    known = {node.name: node for node in graph.nodes}
    for holder in list(module.graph.nodes):
        if not is_tensor(holder) or holder.meta["val"].dtype != torch.float32:
            continue
        place = holder
        while place.next.op in ("placeholder", "get_attr") or is_getitem(place.next):
            place = place.next
        with module.graph.inserting_after(place):
            copied = module.graph.call_function(torch.ops.aten.clone.default, (holder,))
        copied.meta = {"val": holder.meta["val"]}
        for reader in list(holder.users):
            node = known.get(reader.name)
            if node is None or node.bound:
                continue
            read_copy(reader, holder, copied, node.fixed_inputs)
        if not copied.users:
            module.graph.erase_node(copied)
    module.graph.lint()
    module.recompile()
    return module


def read_copy(reader: fx.Node, value: fx.Node, copied: fx.Node, fixed: tuple[int, ...]) -> None:
    replace_operands(reader, lambda i, old: copied if old is value and i not in fixed else old)


def compiled(module: nn.Module, dynamic: bool | None = False) -> tuple[Any, Recorder]:
    torch._dynamo.reset()
    recorder = Recorder(module)
    return torch.compile(module, backend=recorder, dynamic=dynamic), recorder


def step(run: Any, module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Outputs, gradients and buffers of one call with a seed."""
    torch.manual_seed(3)
    module.zero_grad()
    floats = [t for t in inputs if isinstance(t, Tensor) and t.is_floating_point()]
    given = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    out = [t for t in pytree.tree_leaves(run(*given)) if isinstance(t, Tensor)]
    loss = sum((torch.view_as_real(t) if t.is_complex() else t).double().sum() for t in out)
    if isinstance(loss, Tensor) and loss.requires_grad:
        loss.backward()
    grads = [t.grad for t in (*given, *module.parameters())]
    assert len(floats) == 0 or not torch.is_grad_enabled() or any(g is not None for g in grads)
    state = [t.clone() for t in (*module.buffers(), *module.parameters())]
    found = [*out, *(torch.zeros(()) if g is None else g for g in grads), *state]
    return [t.detach() for t in (*found, torch.get_rng_state())]


def captured(name: str, train: bool = True) -> Graph:
    return recorded(name, train).graph


def recorded(name: str, train: bool = True) -> Recorder:
    torch.manual_seed(0)
    module, inputs = CASES[name]()
    run, recorder = compiled(module.train(train))
    run(*inputs)
    return recorder


def short(node: Node) -> str:
    return node.op.rpartition(":")[2]
