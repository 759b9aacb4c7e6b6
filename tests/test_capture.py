"""Capture: functional programs, dynamic batches, and messages that name the line to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from ampconvert.errors import UserError
from ampconvert.frontends import fx
from ampconvert.frontends.capture import adopt, capture
from tests.models import CASES, Case, Fn, build, tensors


@pytest.mark.parametrize("name", CASES)
def test_the_program_answers_as_the_model(name: str) -> None:
    found, again = build(name), build(name)
    program = capture(found.module, found.args, found.kwargs).program
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        assert schema is None or not schema.is_mutable, f"{node.name} updates in place"
    before = tensors(again.module(*again.args, **again.kwargs))
    after = tensors(program.module()(*found.args, **found.kwargs))
    for a, b in zip(after, before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_buffers_keep_what_they_held() -> None:
    found = build("counter")
    capture(found.module, found.args)
    assert int(found.module.calls) == 0  # type: ignore[arg-type]
    assert not found.module.mean.any()  # type: ignore[union-attr, operator]


def test_a_dynamic_batch_is_found() -> None:
    found = capture(build("mlp").module, (torch.randn(1, 16),))
    assert found.dynamic == "batch"
    assert found.program.module()(torch.randn(7, 16)).shape == (7, 8)
    fixed = capture(build("mlp").module, (torch.randn(2, 16),), dynamic_batch=False)
    assert fixed.dynamic == ""


def test_a_model_bound_to_its_batch_is_captured_as_it_is() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(3, 4) @ m.w

    found = capture(Fn(forward, w=torch.randn(4, 4)), (torch.randn(3, 4),))
    assert found.dynamic == ""


def test_named_dimensions() -> None:
    found = capture(
        build("transformer").module,
        (torch.randn(2, 6, 16),),
        dynamic={"src": ("batch", "time", None)},
    )
    assert found.program.module()(torch.randn(3, 9, 16)).shape == (3, 9, 16)


def test_keyword_only_inputs_with_a_dynamic_batch() -> None:
    found = build("keywords")
    made = capture(found.module, (), found.kwargs)
    assert made.dynamic == "batch"
    answer = made.program.module()(x=torch.randn(5, 4), scale=2, bias=None)
    assert answer["y"].shape == (5, 4) and answer["n"] == 2 and answer["none"] is None


def test_a_dataclass_comes_back() -> None:
    @dataclass
    class Answer:
        logits: torch.Tensor
        hidden: torch.Tensor | None = None

    torch.export.register_dataclass(Answer, serialized_type_name="tests.Answer")
    found = Case(Fn(lambda m, x: Answer(m.a(x), x), a=nn.Linear(4, 2)), (torch.randn(3, 4),))
    program = capture(found.module, found.args).program
    answer = program.module()(*found.args)
    assert isinstance(answer, Answer)
    assert fx.output_labels(program) == ["logits", "hidden"]


def test_a_program_is_adopted_and_made_functional() -> None:
    found = build("in_place")
    program = torch.export.export(found.module, found.args, strict=False)
    assert any(
        getattr(n.target, "_schema", None) is not None and n.target._schema.is_mutable
        for n in program.graph.nodes
        if n.op == "call_function"
    )
    made = adopt(program).program
    assert isinstance(made, ExportedProgram)
    assert "relu_" not in made.graph_module.code and "add_" not in made.graph_module.code
    torch.testing.assert_close(made.module()(*found.args), build("in_place").module(*found.args))


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the line
            return x
        return -x


def test_an_if_on_data_names_the_line_and_the_way_out() -> None:
    with pytest.raises(UserError) as caught:
        capture(Branching(), (torch.randn(3, 4),))
    message = str(caught.value)
    assert "test_capture.py" in message and "if x.sum() > 0" in message
    assert "torch.where" in message and "torch.cond" in message
    assert "\n" not in message


class Numbers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float(x.detach().numpy().sum())


def test_code_that_leaves_pytorch_is_named() -> None:
    with pytest.raises(UserError, match="numpy"):
        capture(Numbers(), (torch.randn(3, 4),))


def test_a_model_that_does_not_run_says_where() -> None:
    with pytest.raises(UserError, match=r"does not run on its inputs: .*mat1 and mat2"):
        capture(build("mlp").module, (torch.randn(3, 5),))


class Moody(nn.Module):
    """Python state that changes between calls: what is captured is one of its moods."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls


def test_state_in_python_is_refused() -> None:
    with pytest.raises(UserError, match="changes between calls"):
        capture(Moody(), (torch.ones(2, 3),))


def test_random_numbers_are_no_such_state() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.a(x) + torch.randn_like(x) * torch.rand(4)

    model, x = Fn(forward, a=nn.Linear(4, 4)), torch.randn(3, 4)
    before = torch.get_rng_state()
    assert capture(model, (x,)).program
    assert torch.equal(torch.get_rng_state(), before)  # a caller's random numbers stay the same


def test_inputs_that_forward_writes_are_left_as_they_were() -> None:
    x = torch.randn(3, 4)
    held = x.clone()
    capture(Fn(lambda m, x: x.add_(1) @ m.w, w=torch.randn(4, 4)), (x,))
    assert torch.equal(x, held)
