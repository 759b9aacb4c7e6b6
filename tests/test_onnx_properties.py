"""What holds for every ONNX model and every choice of rules, tried on random ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ampconvert.classify import Verdicts
from ampconvert.conversion import Conversion
from ampconvert.cost import load_target
from ampconvert.cut import LOW, Network
from ampconvert.dtypes import Low
from ampconvert.pipeline_onnx import convert
from ampconvert.plan import Problem, touches_float32
from ampconvert.rules import LOWS, OpRule
from ampconvert.verify.emulate import emulate
from ampconvert.verify.runtimes import run_onnx
from tests.onnx_random import Sample, samples

FREE_AT_MOST = 10  # nodes whose types are all tried: 1024 choices
# Largest error of a smooth model, as a share of the largest bound among its inputs and outputs.
WITHIN = {"float16": 0.03, "bfloat16": 0.25}


def examples(count: int) -> settings:
    """Settings of a test that draws whole models, which takes time and is meant to."""
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclass(frozen=True)
class Wish:
    """What a user asks for: the type, classes pinned on nodes in turn, inputs and outputs in `low`.

    `pins` are dealt out over the nodes of the graph, "" leaves a node to the rules.
    """

    low: Low
    pins: tuple[str, ...]
    outside: tuple[bool, ...]

    def rules(self, model: onnx.ModelProto) -> list[OpRule]:
        """A user's rule for each node that a pin falls on, in bodies and where values meet too."""
        turns = zip(_node_names(model.graph), itertools.cycle(self.pins))
        return [
            OpRule(f"{pin} {name}", dict.fromkeys(LOWS, pin), "drawn", nodes=(name,), user=True)
            for name, pin in turns
            if pin
        ]

    def io(self, model: onnx.ModelProto) -> dict[str, str]:
        """Float inputs and outputs that are to be `low` outside too."""
        places = [*model.graph.input, *model.graph.output]
        floats = [p.name for p in places if p.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
        turns = zip(dict.fromkeys(floats), itertools.cycle(self.outside))
        return {name: self.low for name, chosen in turns if chosen}


PINS = st.lists(st.sampled_from(["", "", "allow", "deny"]), min_size=1, max_size=7).map(tuple)
OUTSIDE = st.one_of(st.just((False,)), st.lists(st.booleans(), min_size=1, max_size=4).map(tuple))
WISHES = st.builds(Wish, st.sampled_from(LOWS), PINS, OUTSIDE)


def converted(sample: Sample, wish: Wish) -> Conversion:
    model = sample.model
    return convert(model, dtype=wish.low, rules=wish.rules(model), io=wish.io(model), verify=False)


Check = Callable[[Sample, Wish], None]


def check_all(sample: Sample, wish: Wish) -> None:
    """Everything that holds of one conversion."""
    before = sample.model.SerializeToString(deterministic=True)
    result = converted(sample, wish)
    assert sample.model.SerializeToString(deterministic=True) == before, "the source was changed"
    assert result.onnx is not None
    proto = ir.to_proto(result.onnx)
    assert isinstance(proto, onnx.ModelProto)
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    if wish.low == "float16":
        loads(proto)
    check_interface(sample.model, proto, wish)
    check_nodes(sample.model, proto, result)
    check_answers(sample, result.onnx, wish)
    check_again(result, wish, sample)


def loads(proto: onnx.ModelProto) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # An optimisation of ONNX Runtime 1.32 ends the process: see ampconvert.verify.runtimes.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.InferenceSession(proto.SerializeToString(), options)


def check_interface(source: onnx.ModelProto, made: onnx.ModelProto, wish: Wish) -> None:
    """Inputs and outputs keep names, order, shapes, and types but for those that were asked for."""
    io = wish.io(source)
    low = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}[wish.low]
    for kind in ("input", "output"):
        wanted, found = getattr(source.graph, kind), getattr(made.graph, kind)
        assert [v.name for v in wanted] == [v.name for v in found]
        for one, other in zip(wanted, found, strict=True):
            expected = onnx.ValueInfoProto.FromString(one.SerializeToString())
            if one.name in io:
                expected.type.tensor_type.elem_type = low
            assert other.type == expected.type, one.name


def check_nodes(source: onnx.ModelProto, made: onnx.ModelProto, result: Conversion) -> None:
    """Every node is there under its name and operator; what was added are the plan's casts."""
    before, after = ({node.name: node.op_type for node in _nodes(m.graph)} for m in (source, made))
    assert before.items() <= after.items()
    added = [after[name] for name in after.keys() - before.keys()]
    assert added == ["Cast"] * len(result.plan.casts)
    assert len(list(_nodes(made.graph))) == len(after)


def check_answers(sample: Sample, made: ir.Model, wish: Wish) -> None:
    """Emulated, an exact model gives what it gave, a smooth one what is near."""
    used = {v.name for v in sample.model.graph.input}
    feeds = [{k: v for k, v in feed.items() if k in used} for feed in sample.feeds]
    expected = run_onnx(sample.model, feeds)
    found = run_onnx(emulate(made), feeds)
    for wanted, got in zip(expected, found, strict=True):
        for name, array in wanted.items():
            assert got[name].shape == array.shape
            if sample.exact or array.dtype.kind != "f":
                np.testing.assert_array_equal(got[name], array, err_msg=name)
            else:
                most = WITHIN[wish.low] * max(1.0, sample.bounds[name])
                np.testing.assert_allclose(got[name], array, rtol=0, atol=most, err_msg=name)


def check_again(result: Conversion, wish: Wish, sample: Sample) -> None:
    """A second conversion finds nothing left to do."""
    assert result.onnx is not None
    again = convert(result.onnx, dtype=wish.low, rules=wish.rules(sample.model), verify=False)
    assert again.onnx is not None
    assert again.plan.casts == ()
    assert bare(again.onnx) == bare(result.onnx)


def bare(model: ir.Model) -> bytes:
    """The model's bytes without metadata."""
    proto = ir.to_proto(model)
    assert isinstance(proto, onnx.ModelProto)
    for node in _nodes(proto.graph):
        del node.metadata_props[:]
    return bytes(proto.SerializeToString(deterministic=True))


def check_verified(sample: Sample, wish: Wish) -> None:
    """With ranges seen and parity measured; `sample` is exact, so there is no error."""
    model = sample.model
    result = convert(
        model, sample.feeds, dtype=wish.low, rules=wish.rules(model), io=wish.io(model)
    )
    assert result.ok and result.verification is not None
    assert {parity.rel_l2 for parity in result.verification.parities} <= {0.0}


def check_cost(sample: Sample, wish: Wish) -> None:
    """No painter does better than the plan and, where few nodes are free, no choice at all."""
    network, plan_choice, greedy = priced(converted(sample, wish))
    total = sum(network.low.values()) + sum(network.full.values())
    slack = 1e-6 * (total + sum(wire.up + wire.down for wire in network.wires))
    price = network.price(plan_choice)
    assert price <= network.price(greedy) + slack
    free = [name for name in network.low if name not in network.fixed]
    if len(free) <= FREE_AT_MOST:
        best = min(network.price(choice) for choice in choices(network, free))
        assert price == pytest.approx(best, abs=slack)


def priced(result: Conversion) -> tuple[Network, dict[str, bool], dict[str, bool]]:
    """The network that the plan was made from, the plan's choice, and a greedy painter's."""
    graph, plan = result.analysis.graph, result.plan
    floats = {n.name: n for n in graph.nodes if touches_float32(graph, n)}
    verdicts = Verdicts(plan.decisions, plan.scalars, plan.masks)
    network = Problem(graph, verdicts, plan.low, load_target(), plan.io).network()
    chosen = {name: network.fixed.get(name) == LOW for name in network.low}
    greedy = dict(chosen)
    for name in floats:
        chosen[name] = plan.compute[name] == plan.low
        if name not in network.fixed:
            makers = (graph.producers.get(i) for i in floats[name].inputs if i is not None)
            greedy[name] = any(m is not None and greedy.get(m.name, False) for m in makers)
    return network, chosen, greedy


def choices(network: Network, free: Sequence[str]) -> Iterator[dict[str, bool]]:
    pinned = {name: side == LOW for name, side in network.fixed.items()}
    for bits in itertools.product([True, False], repeat=len(free)):
        yield pinned | dict(zip(free, bits, strict=True))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _node_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Every node, and the phis that the core graph has for a branch or a loop."""
    for node in _nodes(graph):
        yield node.name
        if node.op_type in ("If", "Loop"):
            yield from (f"{node.name}.{way}{i}" for way in ("in", "out") for i in range(2))


@examples(60)
@given(samples())
def test_the_models_are_sound(sample: Sample) -> None:
    """They pass the checker, run, and stay within the bounds that the other tests rest on."""
    onnx.checker.check_model(sample.model, full_check=True)
    for answers in run_onnx(sample.model, sample.feeds):
        for name, array in answers.items():
            magnitudes = np.abs(array.astype(np.float64))
            assert magnitudes.max(initial=0.0) <= sample.bounds[name] * 1.001
            assert not sample.exact or np.array_equal(array, np.round(array))


@examples(150)
@given(samples(), WISHES)
def test_a_conversion_is_right(sample: Sample, wish: Wish) -> None:
    check_all(sample, wish)


@examples(100)
@given(samples(exact=True, steps=5), WISHES)
def test_no_choice_of_types_is_cheaper(sample: Sample, wish: Wish) -> None:
    check_cost(sample, wish)


@examples(40)
@given(samples(exact=True), WISHES)
def test_parity_of_an_exact_model_is_perfect(sample: Sample, wish: Wish) -> None:
    check_verified(sample, wish)


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_all, check_cost])
def test_more_of_the_same(check: Check) -> None:
    @examples(2_000)
    @given(samples(steps=14), WISHES)
    def run(sample: Sample, wish: Wish) -> None:
        check(sample, wish)

    run()


def test_a_wrong_weight_would_be_seen() -> None:
    """The answers of an exact model tell a conversion apart from one that is slightly off."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) '
        "<float[2] w = {1, 2}> { y = Mul (x, w) }"
    )
    wrong = onnx.ModelProto.FromString(model.SerializeToString())
    wrong.graph.initializer[0].float_data[:] = [1.0, 2.015625]
    feed: dict[str, np.ndarray[Any, Any]] = {"x": np.array([3, 4], np.float32)}
    sample = Sample("", model, (feed,), True, {"y": 8.0})
    check_answers(sample, ir.from_proto(model), Wish("float16", ("",), (False,)))
    with pytest.raises(AssertionError):
        check_answers(sample, ir.from_proto(wrong), Wish("float16", ("",), (False,)))
