"""Batch normalisation folded for export: the same answers, rounded once, and only where nothing
else reads.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from ampconvert.frontends.fold import ready_for_export
from ampconvert.frontends.fx_apply import apply
from tests.models import Case, Fn, build, captured, plan_for, tensors


def randomised(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            assert norm.running_mean is not None and norm.running_var is not None
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.2, 3)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.uniform_(norm.bias, -1, 1)
    return module.eval()


def norms(program: ExportedProgram) -> int:
    return sum("batch_norm" in str(node.target) for node in program.graph.nodes)


FOLDED: dict[str, tuple[list[nn.Module], tuple[int, ...]]] = {
    "conv1d": ([nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)], (2, 3, 8)),
    "conv2d without bias": ([nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)], (2, 3, 8, 8)),
    "grouped": ([nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (2, 4, 8, 8)),
    "padding by name": ([nn.Conv2d(3, 6, 3, padding="same"), nn.BatchNorm2d(6)], (2, 3, 8, 8)),
    "conv3d": ([nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)], (1, 2, 4, 4, 4)),
    "transposed": ([nn.ConvTranspose2d(3, 6, 3, stride=2), nn.BatchNorm2d(6)], (2, 3, 5, 5)),
    "without affine": ([nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)], (2, 3, 8, 8)),
    "linear": ([nn.Linear(8, 6), nn.BatchNorm1d(6)], (4, 8)),
    "two in a row": (
        [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)],
        (2, 3, 8, 8),
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_folds_and_answers_the_same(name: str) -> None:
    torch.manual_seed(2)
    parts, shape = FOLDED[name]
    found = Case(randomised(nn.Sequential(*parts)), (torch.randn(shape),))
    program = captured(found)
    folded, renamed = ready_for_export(program, program)
    assert norms(program) > 0 and norms(folded) == 0
    assert all(new.endswith("bias") for new in renamed.values())
    with torch.no_grad():
        torch.testing.assert_close(
            folded.module()(*found.args), found.module(*found.args), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("low", ["float16", "bfloat16"])
def test_weights_are_rounded_once(low: Any) -> None:
    """Folded from the float32 originals: at most half a step from the exact kernel, channel by
    channel.
    """
    torch.manual_seed(3)
    conv, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    found = Case(randomised(nn.Sequential(conv, norm)), (torch.randn(2, 3, 8, 8),))
    program = captured(found)
    _, plan = plan_for(program, found, low, scatter=1)
    folded, _ = ready_for_export(apply(program, plan), program)
    assert norm.running_var is not None
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    exact = conv.weight.double() * scale[:, None, None, None]
    stored = folded.state_dict["0.weight"]
    assert str(stored.dtype) == f"torch.{low}"
    assert torch.equal(stored, exact.float().to(stored.dtype))


KEPT: dict[str, Any] = {
    "another reader of the product": lambda m, x: (y := m.c(x), m.n(y), y.sum())[1:],
    "a weight read twice": lambda m, x: m.n(m.c(x)) + m.c.weight.sum(),
    "no convolution before it": lambda m, x: m.n(torch.relu(m.c(x))),
}


@pytest.mark.parametrize("name", KEPT)
def test_left_alone_where_something_else_reads(name: str) -> None:
    torch.manual_seed(4)
    model = randomised(Fn(KEPT[name], c=nn.Conv2d(3, 6, 3), n=nn.BatchNorm2d(6)))
    found = Case(model, (torch.randn(2, 3, 8, 8),))
    program = captured(found)
    folded, renamed = ready_for_export(program, program)
    assert norms(folded) == norms(program) == 1 and not renamed
    with torch.no_grad():
        for a, b in zip(
            tensors(folded.module()(*found.args)), tensors(model(*found.args)), strict=True
        ):
            torch.testing.assert_close(a, b)


def test_a_grouped_transposed_convolution_is_left_alone_and_still_right() -> None:
    parts = nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4))
    found = Case(randomised(parts), (torch.randn(2, 4, 5, 5),))
    program = captured(found)
    folded, _ = ready_for_export(program, program)
    with torch.no_grad():
        torch.testing.assert_close(
            folded.module()(*found.args), found.module(*found.args), rtol=1e-4, atol=1e-5
        )


def test_the_program_that_was_given_keeps_its_weights() -> None:
    found = build("convolutions")
    program = captured(found)
    before = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    ready_for_export(program, program)
    assert all(torch.equal(tensor, before[name]) for name, tensor in program.state_dict.items())
