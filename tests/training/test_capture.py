"""Captured training graphs: the model's numbers, gradients and buffers; what `read` says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from ampconvert.training.capture import NotCapturable, aten_graph, bodies
from ampconvert.training.read import read
from tests.training.capture_models import Fn, linear
from tests.training.capture_runs import CASES, captured, compiled, recorded, short, step

MODES = ("train", "eval", "dynamic")
QUICK = ("mlp", "cnn_with_batch_norm", "transformer_encoder_layer", "outputs_collected",
         "view_updated", "checkpointed_batch_norm", "buffers_updated")  # fmt: skip


def marked(name: str, mode: str) -> Any:
    slow = mode != "train" and name not in QUICK
    return pytest.param(name, mode, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("name", "mode"), [marked(n, m) for m in MODES for n in CASES])
def test_runs_as_the_model_does(name: str, mode: str) -> None:
    torch.manual_seed(0)
    module, inputs = CASES[name]()
    module.train(mode != "eval")
    other = copy.deepcopy(module)
    run, recorder = compiled(other, dynamic=mode == "dynamic")
    with torch._dynamo.config.patch(allow_rnn=True), torch.set_grad_enabled(mode != "eval"):
        for recorder.casts in (False, True):
            want = step(module, module, inputs)
            torch.testing.assert_close(step(run, other, inputs), want, equal_nan=True)
    assert recorder.modules


# A compiler updates the statistics of a checkpointed batch norm once, PyTorch by itself twice.
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES.keys() - {"checkpointed_batch_norm"}))
def test_compilers_take_the_graphs(name: str) -> None:
    from torch._dynamo import lookup_backend

    torch.manual_seed(0)
    module, inputs = CASES[name]()
    compiler = lookup_backend("aot_eager")

    def converted(gm: fx.GraphModule, given: list[Any]) -> Any:
        return compiler(aten_graph(gm, given), given)

    other = copy.deepcopy(module)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        want = step(module, module, inputs)
        got = step(torch.compile(other, backend=converted), other, inputs)
    torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    if name == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1,
            eos_token_id=2,
        )  # fmt: skip
        module = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32,
        )  # fmt: skip
        module = transformers.BertForMaskedLM(config)
    other = copy.deepcopy(module)
    run, recorder = compiled(other)
    tokens = torch.randint(50, (2, 9))
    mask = torch.ones_like(tokens)
    mask[0, -2:] = 0

    def forward(model: Any) -> Any:
        return lambda ids, keep: model(input_ids=ids, attention_mask=keep, labels=ids)["logits"]

    want = step(forward(module), module, (tokens, mask))
    torch.testing.assert_close(step(forward(run), other, (tokens, mask)), want)
    scopes = {node.scope for graph in recorder.graphs for node in graph.nodes}
    assert scopes <= {name for name, _ in module.named_modules()}
    assert any(scope.endswith("attn" if name == "gpt2" else "self") for scope in scopes)


@pytest.mark.parametrize(
    ("name", "kept", "bound"),
    [
        ("residual_in_place", [], []),
        ("stochastic_depth", ["bernoulli_"], ["new_empty", "bernoulli_"]),
        ("metadata_updated", [], []),
        ("scattered", [], []),
        (
            "outputs_collected",
            ["copy_"] * 3,
            ["zeros", *(["select", "copy_"] * 3), "alias"],
        ),
        ("base_updated_view_read", ["add_"], ["linear", "view", "add_", "alias"]),
        ("parameter_updated", ["mul_", "add_"], ["mul_", "detach", "add_", "alias"]),
    ],
)
def test_updates_go_where_nothing_can_tell(name: str, kept: list[str], bound: list[str]) -> None:
    graph = captured(name)
    assert [short(n) for n in graph.nodes if short(n).endswith("_")] == kept
    assert [short(n) for n in graph.nodes if n.bound] == bound


def test_what_stays_as_it_is_says_why() -> None:
    graph = captured("autocast_inside")
    first, cast, second, *_ = graph.nodes
    assert (short(first), short(second)) == ("linear", "linear")
    assert "chooses its types" in first.bound and "chooses its types" not in second.bound
    assert "turns torch.autocast off" in cast.bound and "turns torch.autocast off" in second.bound
    assert graph.values[first.outputs[0]].dtype == "bfloat16"
    for name, op in (("vmapped", "python::run_whole"), ("cond", "higher_order::cond")):
        (node,) = [n for n in captured(name).nodes if n.op == op]
        assert node.bound
    ops = [n.op for n in captured("custom_autograd_function").nodes]
    assert ops == ["aten::linear", "higher_order::autograd_function_apply", "aten::mul"]


def test_normalisation_is_whole_and_its_statistics_stay() -> None:
    graph = captured("batch_norm_twice")
    norms = [n for n in graph.nodes if short(n) == "batch_norm"]
    assert [n.bound for n in norms] == ["", ""]
    for norm in norms:
        names = [norm.operands[i] for i in norm.fixed_inputs]
        assert names == ["running_mean", "running_var"]
    labels = {v.label: v.kind for v in graph.values.values() if v.kind != "computed"}
    assert labels["bn.weight"] == "weight" and labels["bn.running_mean"] == "input"
    (eval_norm, _, _) = captured("batch_norm_twice", train=False).nodes
    assert eval_norm.fixed_inputs == ()


def test_checkpoints_have_bodies_of_their_own() -> None:
    module = recorded("checkpointed").modules[0]
    found = bodies(module)
    assert len(found) == 2
    for body in found:
        graph = read(body.module)
        assert [short(n) for n in graph.nodes] == ["linear", "gelu", "dropout", "mul"]
        assert {v.label for v in graph.values.values() if v.kind == "weight"} == {
            "fc.weight",
            "fc.bias",
        }
        assert {n.scope for n in graph.nodes} == {"", "fc"}
        assert len(body.module.graph.find_nodes(op="placeholder")) == len(body.node.args) - 1


def test_constants_have_data_and_parameters_none() -> None:
    graph = captured("constants")
    consts = [v for v in graph.values.values() if v.const is not None]
    assert [v.const().tolist() for v in consts if v.const] == [[1, 2, 3, 4, 5, 6]]
    weights = [v for v in graph.values.values() if v.kind == "weight" and v.const is None]
    assert {v.label for v in weights} == {"fc.weight", "fc.bias"}
    assert [graph.values[name].label for name in graph.inputs] == ["inputs[0]"]


def test_placeholders_are_those_of_the_graph() -> None:
    pairs: list[tuple[fx.GraphModule, fx.GraphModule, list[Any]]] = []

    def backend(gm: fx.GraphModule, inputs: list[Any]) -> Any:
        pairs.append((gm, aten_graph(gm, inputs), inputs))
        return gm.forward

    torch._dynamo.reset()
    module, inputs = CASES["double_use"]()
    torch.compile(module, backend=backend)(*inputs)
    ((gm, made, given),) = pairs
    old, new = (m.graph.find_nodes(op="placeholder") for m in (gm, made))
    assert [n.name for n in new] == [n.name for n in old]
    assert [n.meta["val"].requires_grad for n in new] == [t.requires_grad for t in given]
    calls = [n for n in made.graph.nodes if n.op == "call_function"]
    assert calls and all("capture_models.py" in n.meta["stack_trace"] for n in calls)


class Broken(nn.Module):
    """Breaks its graph in the middle, so that Dynamo compiles it by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        torch._dynamo.graph_break()
        return torch.relu(self.inner(x))


def test_parts_of_a_model_are_named_from_its_root() -> None:
    module = Fn(lambda m, x: m.parts["b"](m.fc(x)), **linear(parts=nn.ModuleDict({"b": Broken()})))
    run, recorder = compiled(module)
    run(torch.randn(4, 6)).sum().backward()
    nodes = [n for graph in recorder.graphs for n in graph.nodes]
    assert {n.scope for n in nodes if short(n) == "linear"} == {"fc", "parts.b.inner"}
    assert {n.scope for n in nodes if short(n) == "relu"} == {"parts.b"}
    labels = {v.label for graph in recorder.graphs for v in graph.values.values()}
    assert {"parts.b.inner.weight", "fc.bias"} <= labels
    assert all(n.where for n in nodes)


def test_one_graph_serves_batches_of_any_size() -> None:
    module = Fn(lambda m, x: m.bn(m.fc(x.flatten(1))), **linear(bn=nn.BatchNorm1d(6)))
    other = copy.deepcopy(module)
    run, recorder = compiled(other, dynamic=None)
    for size in (4, 7, 5):
        x = torch.randn(size, 2, 3)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(run(x), module(x))
    (graph,) = recorder.graphs
    (name,) = [n for n in graph.inputs if graph.values[n].label == "inputs[0]"]
    batch, *rest = graph.values[name].shape or ()
    assert isinstance(batch, str) and rest == [2, 3] and graph.values[name].hint == (4, 2, 3)


def test_autocast_around_it_is_left_alone() -> None:
    run, _ = compiled(nn.Linear(3, 2))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(Exception, match=r"torch\.autocast is on for cpu"),
    ):
        run(torch.randn(4, 3))


def test_subclasses_are_refused() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    graph = fx.symbolic_trace(lambda x: x + 1)
    with pytest.raises(NotCapturable, match="x is a TwoTensor"):
        aten_graph(graph, [TwoTensor(torch.ones(2), torch.ones(2))])


def test_a_refusal_names_the_call_and_leaves_no_mode_behind() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch._C._set_grad_enabled, (False,))
    bad = graph.call_method("no_such_method", (x,))
    bad.meta["stack_trace"] = 'File "/home/me/model.py", line 7, in forward'
    graph.output((bad,))
    with pytest.raises(NotCapturable, match=r"no_such_method \(model.py:7\): .*no_such_method"):
        aten_graph(fx.GraphModule(nn.Module(), graph), [torch.ones(2)])
    assert torch.is_grad_enabled()
