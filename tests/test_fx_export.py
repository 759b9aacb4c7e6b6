"""Export of lowered programs: valid ONNX, one Cast per Cast of the plan, a reason on every node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.frontends import fx_run
from ampconvert.frontends.fx import user_outputs
from ampconvert.frontends.fx_apply import apply
from ampconvert.frontends.fx_export import Exported, export_program, illegal_nodes, save, to_onnx
from ampconvert.graph import Graph
from ampconvert.plan import OUTPUT, Cast, Plan
from tests.models import CASES, Case, Fn, build, captured, plan_for

# Quick, and no kind of trouble left out; the others run in the slow set.
QUICK = (
    "mlp", "lstm", "promotion", "key_cache", "type_arguments", "masks", "cond", "keywords",
)  # fmt: skip
# The exporter drops tensors that are overwritten as a whole or only looked at for their shape.
OVERWRITES = ("in_place", "multihead_attention")
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in CASES]


def exported(
    found: Case, low: Low = "float16", scatter: int = 0
) -> tuple[Exported, ExportedProgram, Graph, Plan]:
    program = captured(found)
    graph, plan = plan_for(program, found, low, scatter=scatter)
    return to_onnx(apply(program, plan), program, plan), program, graph, plan


@pytest.mark.parametrize("name", NAMES)
def test_valid_runs_and_holds_the_plans_casts(name: str) -> None:
    found = build(name)
    for low, scatter in (("float16", 0), ("float16", 2), ("bfloat16", 0)):
        made, program, graph, plan = exported(found, low, scatter)  # type: ignore[arg-type]
        own = sum(n.op_type == "Cast" for n in export_program(program).model.graph.all_nodes())
        # One that is read in two types is written twice.
        own += sum(n.op in ("aten::to", "aten::_to_copy") for n in graph.nodes)
        inputs, answers = set(program.graph_signature.user_inputs), user_outputs(program)
        assert_casts(made, graph, plan, own, inputs, answers, exact=name not in OVERWRITES)
        if illegal_nodes(made, low):
            continue  # the pipeline denies those and plans again
        proto = ir.to_proto(made.model)
        onnx.checker.check_model(proto, full_check=True)
        if low == "float16":
            assert_runs(made.model, proto, program, found)


def assert_casts(
    made: Exported,
    graph: Graph,
    plan: Plan,
    own: int,
    lively: set[Any],
    answers: list[str],
    exact: bool,
) -> None:
    """One Cast per Cast of the plan, but for what depends on no input and is computed once, at
    export.
    """
    for node in graph.nodes:
        if any(name in lively for name in node.inputs):
            lively.update(node.outputs)
    needed = set(answers)  # a buffer's new content is no output of an ONNX model
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(name for name in node.inputs if name)
    expected = [
        cast
        for cast in plan.casts
        if cast.value in lively and needed.intersection(_made_by_readers(graph, cast, answers))
    ]
    found = [n for n in made.model.graph.all_nodes() if n.op_type == "Cast"]
    planned = [n for n in found if n.metadata_props.get("ampconvert.reason", "").startswith("Cast")]
    assert len(planned) <= len(plan.casts)
    assert not exact or len(expected) <= len(planned) + own, "a cast of the plan is missing"
    assert len(found) <= len(plan.casts) + own, "the exporter added casts of its own"


def _made_by_readers(graph: Graph, cast: Cast, answers: list[str]) -> set[str]:
    outputs = {node.name: node.outputs for node in graph.nodes}
    found: set[str] = set()
    for reader, number in cast.readers:
        if reader != OUTPUT:
            found.update(outputs[reader])
        elif graph.outputs[number] in answers:
            found.add(graph.outputs[number])
    return found


def assert_runs(
    model: ir.Model, proto: onnx.ModelProto, program: ExportedProgram, found: Case
) -> None:
    # ONNX Runtime 1.32 crashes in this pass on a transposed value that is read in two types.
    session = ort.InferenceSession(
        proto.SerializeToString(),
        providers=["CPUExecutionProvider"],
        disabled_optimizers=["MatmulTransposeFusion"],
    )
    names = [value.name for value in model.graph.inputs]
    arrays = fx_run.input_arrays(program, (found.args, found.kwargs))
    got = session.run(None, dict(zip(names, arrays, strict=True)))
    want = fx_run.outputs(program, [(found.args, found.kwargs)])[0]
    assert [a.dtype for a in got] == [a.dtype for a in want]
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        if b.dtype.kind == "f" and b.size:
            assert np.linalg.norm(a - b) <= 1e-2 * max(float(np.linalg.norm(b)), 1e-6)


def test_every_node_says_what_it_runs_in_and_why() -> None:
    made, _, _, plan = exported(build("transformer"))
    for node in made.model.graph:
        if node.op_type == "Cast":
            continue
        props = node.metadata_props
        assert (
            plan.compute.get(props["ampconvert.node"], "unchanged") == props["ampconvert.precision"]
        )
        assert props["ampconvert.reason"]
    types = {v.dtype for v in made.model.graph.initializers.values() if v.dtype is not None}
    assert ir.DataType.FLOAT16 in types and ir.DataType.FLOAT not in types


def test_no_detour_over_float32_inside_a_low_operator() -> None:
    """The exporter would compute this sum in float32 between casts of its own."""
    found = Case(Fn(lambda m, x: m.a(x).abs().sum(-1), a=nn.Linear(64, 64)), (torch.randn(4, 64),))
    made, _, _, plan = exported(found, scatter=1)
    assert set(plan.compute.values()) == {"float16"}
    assert [n.op_type for n in made.model.graph].count("Cast") == len(plan.casts) == 2
    total = next(n for n in made.model.graph if n.op_type == "ReduceSum")
    assert total.inputs[0] is not None and total.inputs[0].dtype == ir.DataType.FLOAT16


def test_attention_without_heads_and_outputs_that_are_numbers() -> None:
    def forward(m: Any, x: torch.Tensor) -> Any:
        q = m.a(x)
        return torch.nn.functional.scaled_dot_product_attention(q, q, x), 3, None

    found = Case(Fn(forward, a=nn.Linear(8, 8)), (torch.randn(2, 5, 8),))
    made, program, _, _ = exported(found)
    assert len(made.model.graph.outputs) == 1
    assert_runs(made.model, ir.to_proto(made.model), program, found)


def test_what_onnx_does_not_take_is_named() -> None:
    made, _, _, plan = exported(build("einsum"), "bfloat16", 1)
    refused = illegal_nodes(made, "bfloat16")
    assert set(refused) <= set(plan.compute) and refused
    assert "Einsum" in next(iter(refused.values()))
    assert illegal_nodes(exported(build("mlp"))[0], "float16") == {}


def test_an_operator_without_translation_is_named() -> None:
    found = Case(
        Fn(lambda m, x: torch.special.bessel_j0(m.a(x)), a=nn.Linear(4, 4)), (torch.randn(2, 4),)
    )
    with pytest.raises(UserError, match=r"no translation for .*bessel_j0"):
        exported(found)


def test_save_leaves_nothing_behind_when_it_fails(tmp_path: Path) -> None:
    made = exported(build("mlp"))[0]
    path = tmp_path / "m.onnx"
    assert save(made.model, path) == [path]
    assert list(tmp_path.iterdir()) == [path]
    onnx.checker.check_model(path, full_check=True)
    with pytest.raises(OSError):
        save(made.model, tmp_path / "missing" / "m.onnx")
    assert list(tmp_path.iterdir()) == [path]
