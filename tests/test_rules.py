"""Every built-in rule proves itself: one generic test each, run over all [[op]] entries."""

from __future__ import annotations

import builtins
import math
import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.defs
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from ampconvert.dtypes import Low
from ampconvert.rules import LOWS, OpRule, RuleBook, data_directory, load
from tests.rule_examples import (
    OPSET,
    TORCH,
    Trace,
    graph_of,
    in_low,
    nasty,
    numpy_type,
    parsed,
    same,
    tensors_in,
)

RULES = load()
BOOK = RuleBook(RULES)
# Runtime operators in the main domain that the standard does not list: ONNX Runtime's own.
RUNTIME_ONLY = {"SimplifiedLayerNormalization"}
# Not in PyTorch itself; torchvision and torchao may not be installed.
FOREIGN = ("torchvision::", "quantized_decomposed::")
# Rules may name operators that came after the oldest PyTorch that is supported.
LATEST_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)

by_name = pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)


# ---- the data -----------------------------------------------------------------------------------


def test_names_of_rules_are_unique() -> None:
    assert [n for n, count in Counter(r.name for r in RULES).items() if count > 1] == []


def test_every_toml_file_is_loaded() -> None:
    assert {r.file for r in RULES} == {p.name for p in data_directory().glob("*.toml")}


@by_name
def test_no_operator_twice_in_one_rule(rule: OpRule) -> None:
    assert [n for n, count in Counter(rule.operators()).items() if count > 1] == []


@by_name
def test_onnx_names_exist(rule: OpRule) -> None:
    known = {f"{s.domain}::{s.name}" if s.domain else s.name for s in onnx.defs.get_all_schemas()}
    # A phi is no operator of ONNX: it stands where branches and turns of a loop meet.
    own = ("com.microsoft::", "ampconvert::")
    names = {n for n in rule.onnx if not n.startswith(own)} - RUNTIME_ONLY
    assert names <= known


@by_name
def test_aten_names_exist(rule: OpRule) -> None:
    for full in _aten_names(rule):
        namespace, _, name = full.partition("::")
        if namespace == "python":  # arithmetic on sizes keeps the names of Python's own functions
            assert any(hasattr(module, name) for module in (operator, math, builtins, torch)), full
        elif not full.startswith(FOREIGN):
            assert _is_registered(namespace, name) or not LATEST_TORCH, full


@by_name
def test_an_operator_of_this_installation_has_an_example(rule: OpRule) -> None:
    standard = [n for n in rule.onnx if "::" not in n and n not in RUNTIME_ONLY]
    if standard or any(n.startswith("aten::") for n in _aten_names(rule)):
        # Synchronised batch norm has kernels on CUDA alone.
        assert rule.example or rule.example_torch or rule.name == "batch-norm-statistics"


@by_name
def test_shadowing(rule: OpRule) -> None:
    """No earlier rule without a condition takes all that a later one names an operator for."""
    earlier = {op: r.name for r in RULES[: RULES.index(rule)] if not r.when for op in r.operators()}
    for full in rule.operators():
        assert full not in earlier and full.rpartition(".")[0] not in earlier, earlier.get(full)


# ---- the examples -------------------------------------------------------------------------------


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("rule", [r for r in RULES if r.example], ids=lambda r: r.name)
def test_onnx_example_is_decided_by_this_rule(rule: OpRule, low: Low) -> None:
    graph = graph_of(parsed(rule))
    found = [BOOK.match(node, graph, low) for node in graph.nodes]
    assert (rule in found) is _speaks_of(rule, low), [r and r.name for r in found]


@pytest.mark.parametrize("rule", [r for r in RULES if r.example], ids=lambda r: r.name)
def test_converted_example_is_valid(rule: OpRule) -> None:
    for low in LOWS:
        if rule.class_for(low) != "deny" and _schema_allows(rule, low):
            onnx.checker.check_model(in_low(rule, low), full_check=True)


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("rule", [r for r in RULES if r.example_torch], ids=lambda r: r.name)
def test_torch_examples_are_decided_by_this_rule(rule: OpRule, low: Low) -> None:
    for line in rule.example_torch.strip().splitlines():
        trace = Trace()
        trace.run(line)
        graph = trace.graph()
        found = [BOOK.match(node, graph, low) for node in graph.nodes]
        assert (rule in found) is _speaks_of(rule, low), f"{line}: {[r and r.name for r in found]}"


def _speaks_of(rule: OpRule, low: Low) -> bool:
    """Whether the example is a hazard in `low`: 1e-8 is a normal number in bfloat16."""
    return low == "float16" or "eps_below" not in rule.when


CLEAR = [r for r in RULES if "clear" in r.classes.values()]


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("rule", [r for r in CLEAR if r.example_torch], ids=lambda r: r.name)
def test_clear_commutes_with_rounding_in_torch(rule: OpRule, low: Low) -> None:
    for line in rule.example_torch.strip().splitlines():
        after = Trace().run(line)
        before = Trace(TORCH[low]).run(line)
        for a, b in zip(tensors_in(after), tensors_in(before), strict=True):
            assert same(a.to(TORCH[low]), b.to(TORCH[low])), line


def test_clear_commutes_for_every_unary_operator() -> None:
    """Each clear ATen operator that takes one tensor and nothing else, not only the examples."""
    checked = 0
    for rule in CLEAR:
        for op in _unary_overloads(rule):
            for low in TORCH.values():
                data = nasty(2, 4, 4)
                try:
                    after = tensors_in(op(data))
                except (RuntimeError, NotImplementedError, IndexError):
                    continue  # another rank, or no kernel on this device
                before = tensors_in(op(data.to(low)))
                for a, b in zip(after, before, strict=True):
                    if a.is_floating_point():  # a cast to an integer has a rule of its own
                        assert same(a.to(low), b.to(low)), f"{rule.name}: {op}"
                checked += 1
    assert checked > 80


@pytest.mark.parametrize("rule", [r for r in CLEAR if r.example], ids=lambda r: r.name)
def test_clear_commutes_with_rounding_in_onnx(rule: OpRule) -> None:
    """By onnx.reference, which computes float16 with numpy."""
    model, low_model = parsed(rule), in_low(rule, "float16")
    feeds = _feeds(model, rule)
    with np.errstate(over="ignore"):
        low_feeds = {
            i.name: feeds[i.name].astype(numpy_type(i.type.tensor_type.elem_type))
            for i in low_model.graph.input
        }
        after = ReferenceEvaluator(model).run(None, feeds)
        before = ReferenceEvaluator(low_model).run(None, low_feeds)
        for a, b in zip(after, before, strict=True):
            np.testing.assert_array_equal(a.astype(np.float16), b.astype(np.float16))


@by_name
def test_deny_has_a_source_or_a_witness_that_goes_wrong(rule: OpRule) -> None:
    denied = [low for low in LOWS if rule.class_for(low) == "deny"]
    if not denied:
        return
    if not rule.witness:
        assert rule.source.startswith("https://"), "neither source nor witness"
        return
    wrong = [low for low in denied if _error(rule.witness, low) > 1e-2]
    assert wrong, "the witness does not go wrong"
    if rule.source.startswith("ours"):
        # Nobody else vouches for it, so it has to show the hazard in every type that it speaks of.
        assert wrong == [low for low in denied if _speaks_of(rule, low)]


# ---- coverage -----------------------------------------------------------------------------------


def test_every_standard_onnx_operator_is_named() -> None:
    standard = {
        f"{s.domain}::{s.name}" if s.domain else s.name for s in onnx.defs.get_all_schemas()
    }
    assert standard - {name for rule in RULES for name in rule.onnx} == set()


def test_every_functional_core_operator_is_named() -> None:
    """PyTorch's own Core ATen set: what torch.export's decompositions end in."""
    named = {name.partition(".")[0] for rule in RULES for name in _aten_names(rule)}
    missing = set()
    for full in torch._C._dispatch_get_all_op_names():
        namespace, _, name = full.partition("::")
        packet, _, overload = name.partition(".")
        if namespace != "aten" or packet.endswith(("_", "backward")):
            continue
        op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if op is not None and torch.Tag.core in op.tags and f"aten::{packet}" not in named:
            missing.add(packet)
    assert missing == set()


def _schema_allows(rule: OpRule, low: Low) -> bool:
    """Whether the standard has the operator in `low` at all; else a front end keeps it float32."""
    proto = parsed(rule).graph.node[-1]
    schema = onnx.defs.get_schema(proto.op_type, OPSET, proto.domain)
    return any(f"tensor({low})" in set(c.allowed_type_strs) for c in schema.type_constraints)


def _feeds(model: onnx.ModelProto, rule: OpRule) -> dict[str, np.ndarray[Any, Any]]:
    feeds = {}
    for info in model.graph.input:
        tensor = info.type.tensor_type
        shape = [d.dim_value or 4 for d in tensor.shape.dim]
        dtype = numpy_type(tensor.elem_type)
        if np.issubdtype(dtype, np.floating):
            feeds[info.name] = nasty(*shape).numpy()
        elif dtype == np.bool_:
            feeds[info.name] = np.resize(np.array([True, False]), shape)
        else:
            size = math.prod(d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim)
            is_shape = rule.name in ("view", "constant")
            feeds[info.name] = (
                np.full(shape, size, dtype) if is_shape else np.resize([1, 0, 3], shape)
            )
    if "scales" in feeds:
        feeds["scales"] = np.array([1, 1, 2, 2], np.float32)
        feeds["roi"] = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)
    if rule.name == "clamp":
        feeds["a"], feeds["b"] = np.float32(-1.3), np.float32(1.7)
    return feeds


def _error(line: str, low: Low) -> float:
    """Relative error of the line in `low` against float64; inf when the result is not finite."""
    exact = next(tensors_in(Trace(torch.float64).run(line))).double()
    rounded = next(tensors_in(Trace(TORCH[low]).run(line))).double()
    assert torch.isfinite(exact).all(), "a witness is finite in the reference"
    if not torch.isfinite(rounded).all():
        return math.inf
    distance, scale = float((rounded - exact).norm()), float(exact.norm())
    if scale > 0:
        return distance / scale
    return math.inf if distance > 0 else 0.0


def _is_registered(namespace: str, name: str) -> bool:
    found = getattr(torch.ops, namespace)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is not None


def _aten_names(rule: OpRule) -> set[str]:
    return {name if "::" in name else f"aten::{name}" for name in rule.aten}


def _unary_overloads(rule: OpRule) -> Iterator[Any]:
    for name in rule.aten:
        packet, _, overload = name.partition(".")
        undefined = "empty" in packet or packet in ("resize", "set")  # what they hold is
        if "::" in name or undefined:
            continue
        op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if op is None:
            continue
        required = [a for a in op._schema.arguments if not a.has_default_value()]
        if len(required) == 1 and str(required[0].type) == "Tensor":
            yield op
