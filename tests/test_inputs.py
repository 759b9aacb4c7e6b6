"""Inputs from `--input`, from .npz, from the file, and from saved programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ampconvert.frontends.entry import Entry, find
from ampconvert.frontends.inputs import resolve
from tests.model_files import TWO, around, load, message


def test_specs_give_random_inputs_and_three_more_batches(tmp_path: Path) -> None:
    model = load(tmp_path, TWO)
    inputs = resolve(model, ["x:4x3", "y:4x2:5..6"])
    assert inputs.source == "--input"
    assert inputs.random
    assert inputs.calibration_random
    assert inputs.names == ("x", "y")
    assert [a.shape for a in inputs.args] == [(4, 3), (4, 2)]
    assert 5 <= inputs.args[1].min() <= inputs.args[1].max() <= 6
    firsts = [args[0] for args, _ in inputs.calibration]
    assert len(firsts) == 4
    assert torch.equal(firsts[0], inputs.args[0])
    assert not any(torch.equal(firsts[0], other) for other in firsts[1:])
    again = resolve(model, ["x:4x3", "y:4x2:5..6"])
    assert torch.equal(again.args[0], inputs.args[0])
    assert not torch.equal(resolve(model, ["x:4x3"], seed=9).args[0], inputs.args[0])
    assert len(resolve(model, ["x:4x3"], max_batches=2).calibration) == 2


def test_dynamic_dimensions(tmp_path: Path) -> None:
    inputs = resolve(load(tmp_path, TWO), ["x:batchx3", "y:batchx2"])
    assert inputs.dynamic == {"x": ("batch", None), "y": ("batch", None)}
    assert inputs.args[0].shape[0] == inputs.args[1].shape[0] >= 2
    inputs = resolve(load(tmp_path, TWO), ["x:?x3"])
    assert inputs.dynamic == {"x": ("", None)}
    inputs = resolve(load(tmp_path, TWO), ["x:n=7x3", "y:nx2"])
    assert [a.shape for a in inputs.args] == [(7, 3), (7, 2)]
    said = message(resolve, load(tmp_path, TWO), ["x:n=7x3", "y:n=6x2"])
    assert "n is given as 7 and as 6" in said


def test_open_sizes_types_and_ranges_come_from_the_layers(tmp_path: Path) -> None:
    text = around("ids => return self.e(ids)", "self.e = nn.Embedding(11, 4)")
    inputs = resolve(load(tmp_path, text), ["ids:50xseq"])
    assert inputs.args[0].dtype == torch.int64
    assert 2 < inputs.args[0].max() <= 10
    text = around("x => return self.c(x).mean((2, 3))", "self.c = nn.Conv2d(3, 4, 3)")
    inputs = resolve(load(tmp_path, text), ["x:?x3x?x?"])
    assert inputs.args[0].shape == (2, 3, 224, 224)


def test_a_spec_for_what_forward_does_not_have(tmp_path: Path) -> None:
    said = message(resolve, load(tmp_path, TWO), ["x:1x3", "scales:1"])
    assert "no input 'scales' in Two.forward(x, y=None, scale=1.0)" in said
    assert "did you mean scale?" in said


def test_a_required_input_without_a_spec(tmp_path: Path) -> None:
    text = around(
        "a, b => return self.f(a) + self.g(b)", "self.f = nn.Linear(3, 2); self.g = nn.Linear(5, 2)"
    )
    assert "add for example --input 'b:float32:2x5'" in message(
        resolve, load(tmp_path, text), ["a:2x3"]
    )


def test_scalars_and_plain_numbers(tmp_path: Path) -> None:
    text = around("x, n: int, s => return self.f(x)[:n] * s", "self.f = nn.Linear(3, 2)")
    inputs = resolve(load(tmp_path, text), ["x:4x3", "n:int64:scalar:3..3", "s:scalar"])
    assert inputs.args[1] == 3
    assert type(inputs.args[1]) is int
    assert inputs.args[2].shape == ()
    assert inputs.names == ("x", "s")


def test_a_shape_that_forward_refuses(tmp_path: Path) -> None:
    said = message(resolve, load(tmp_path, TWO), ["x:1x4"])
    assert f"{tmp_path}/model.py:9: running Two.forward" in said
    assert "x: float32[1, 4]" in said
    assert "RuntimeError" in said


def test_the_same_input_twice(tmp_path: Path) -> None:
    assert "given twice" in message(resolve, load(tmp_path, TWO), ["x:1x3", "x:2x3"])


def test_npz_by_name_and_by_position(tmp_path: Path) -> None:
    x, y = np.ones((4, 3)), np.zeros((4, 2), np.float32)
    np.savez(tmp_path / "named.npz", x=x, y=y, scale=np.array(2.0))
    inputs = resolve(load(tmp_path, TWO), npz=tmp_path / "named.npz")
    assert inputs.source == str(tmp_path / "named.npz")
    assert not inputs.random
    assert not inputs.calibration_random
    assert len(inputs.calibration) == 1
    assert inputs.args[0].dtype == torch.float32
    assert inputs.kwargs["scale"].shape == ()
    assert inputs.names == ("x", "y", "scale")
    np.savez(tmp_path / "numbered.npz", x, y)
    by_position = resolve(load(tmp_path, TWO), npz=tmp_path / "numbered.npz")
    assert torch.equal(by_position.args[1], inputs.args[1])


def test_npz_with_dynamic_dimensions(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((4, 3)))
    inputs = resolve(load(tmp_path, TWO), ["x:?x3"], npz=tmp_path / "a.npz")
    assert inputs.dynamic == {"x": ("", None)}
    assert not inputs.random
    said = message(resolve, load(tmp_path, TWO), ["x:?x5"], npz=tmp_path / "a.npz")
    assert "x is float32[4, 3], and x:?x5 is asked for" in said
    np.savez(tmp_path / "a.npz", x=np.ones((1, 3)))
    said = message(resolve, load(tmp_path, TWO), ["x:?x3"], npz=tmp_path / "a.npz")
    assert "give an example with 2 or more" in said


def test_npz_that_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    model = load(tmp_path, TWO)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"z": np.ones(3)}, "no input 'z' in Two.forward"),
        ({"y": np.ones((4, 2))}, "also needs x"),
        ({"x": np.array([1.0, np.nan, 3.0])}, "input x holds 1 NaN of 3"),
        ({"x": np.array(["a"])}, "no tensor"),
        ({"x": np.array([{}], dtype=object)}, "Python objects"),
        ({f"arr_{i}": np.ones(3) for i in range(4)}, "holds 4 arrays"),
        ({}, "no array"),
    ]
    for arrays, words in cases:
        np.savez(file, **arrays)
        said = message(resolve, model, npz=file)
        assert words in said
        assert str(file) in said
    file.write_bytes(b"junk")
    assert "damaged" in message(resolve, model, npz=file)
    assert "no such file" in message(resolve, model, npz=tmp_path / "none.npz")
    assert ".npz" in message(resolve, model, npz=tmp_path / "model.py")


def test_infinity_is_data(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([[1.0, np.inf, -np.inf]]))
    assert torch.isinf(resolve(load(tmp_path, TWO), npz=tmp_path / "a.npz").args[0]).sum() == 2


@pytest.mark.parametrize(
    ("value", "call"),
    [
        ("torch.ones(4, 3)", (1, set())),
        ("np.ones((4, 3))", (1, set())),
        ("(torch.ones(4, 3),)", (1, set())),
        ("[torch.ones(4, 3), torch.ones(4, 2)]", (2, set())),
        ("{'x': torch.ones(4, 3), 'scale': 2.0}", (0, {"x", "scale"})),
        ("((torch.ones(4, 3),), {'y': torch.ones(4, 2)})", (1, {"y"})),
    ],
)
@pytest.mark.parametrize("form", ["example_inputs = {}", "def example_inputs():\n    return {}"])
def test_example_inputs(tmp_path: Path, value: str, call: Any, form: str) -> None:
    inputs = resolve(load(tmp_path, TWO + form.format(value) + "\n"))
    assert (len(inputs.args), set(inputs.kwargs)) == call
    called = "()" if "def" in form else ""
    assert inputs.source == f"example_inputs{called} in model.py"
    assert not inputs.random
    assert len(inputs.calibration) == 1


def test_a_list_or_dict_as_the_one_argument(tmp_path: Path) -> None:
    text = around("pair => return self.f(pair[0]) + pair[1]", "self.f = nn.Linear(3, 2)")
    pair = "example_inputs = [torch.ones(4, 3), torch.ones(2)]\n"
    inputs = resolve(load(tmp_path, text + pair))
    assert inputs.names == ("pair.0", "pair.1")
    text = around("batch => return self.f(batch['image'])", "self.f = nn.Linear(3, 2)")
    inputs = resolve(load(tmp_path, text + "example_inputs = {'image': torch.ones(1, 3)}\n"))
    assert inputs.names == ("batch.image",)


def test_random_example_inputs_are_called_random(tmp_path: Path) -> None:
    drawn = TWO + "def example_inputs():\n    return torch.rand(4, 3)\n"
    inputs = resolve(load(tmp_path, drawn))
    assert inputs.random
    assert inputs.source == "example_inputs() in model.py (random numbers)"
    assert len(inputs.calibration) == 4
    values = torch.stack([args[0] for args, _ in inputs.calibration])
    assert len(values.flatten(1).unique(dim=0)) == 4
    assert values.min() >= 0
    assert torch.equal(resolve(load(tmp_path, drawn)).args[0], inputs.args[0])


@pytest.mark.parametrize(
    "text",
    ["def example_inputs():\n    torch.manual_seed(1)\n    return torch.randn(4, 3)\n",
     "example_inputs = torch.randn(4, 3)\n"],
)  # fmt: skip
def test_fixed_random_examples_are_shuffled_for_more(tmp_path: Path, text: str) -> None:
    inputs = resolve(load(tmp_path, TWO + text))
    assert inputs.random
    first, other = inputs.calibration[0][0][0], inputs.calibration[1][0][0]
    assert not torch.equal(first, other)
    assert torch.equal(first.flatten().sort().values, other.flatten().sort().values)


def test_specs_that_fit_the_example_keep_its_values(tmp_path: Path) -> None:
    model = load(tmp_path, TWO + "example_inputs = torch.ones(4, 3)\n")
    inputs = resolve(model, ["x:?x3"])
    assert inputs.source == "example_inputs in model.py"
    assert inputs.dynamic == {"x": ("", None)}
    assert torch.equal(inputs.args[0], torch.ones(4, 3))
    assert resolve(model, ["x:5x3"]).source == "--input"
    assert resolve(model, ["x:?x3:0..1"]).source == "--input"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def example_inputs():\n    return 1 / 0\n", "model.py:12: calling example_inputs()"),
        ("example_inputs = torch.full((1, 3), float('nan'))\n", "input x holds 3 NaN"),
        ("example_inputs = (torch.ones(1, 3),) * 5\n", "Two.forward(x, y=None, scale=1.0)"),
        ("example_inputs = {'q': torch.ones(1, 3)}\n", "Two.forward"),
        ("example_inputs = 'x.png'\n", "is a str"),
        ("def example_inputs():\n    yield torch.ones(1, 3)\n", "calibration_data"),
        ("example_inputs = torch.ones(1, 9)\n", "running Two.forward"),
    ],
)
def test_wrong_example_inputs(tmp_path: Path, text: str, words: str) -> None:
    said = message(resolve, load(tmp_path, TWO + text))
    assert words in said
    assert "example_inputs" in said


class Sum(nn.Module):
    def forward(self, x: torch.Tensor, *, y: torch.Tensor) -> torch.Tensor:
        return x + y


@pytest.fixture
def program(tmp_path: Path) -> Entry:
    x, y = torch.ones(2, 3), torch.full((3,), 5.0)
    exported = torch.export.export(Sum(), (x,), {"y": y}, strict=False)
    torch.export.save(exported, tmp_path / "sum.pt2")
    return find(str(tmp_path / "sum.pt2"))


def test_a_saved_program_keeps_its_example(program: Entry) -> None:
    inputs = resolve(program)
    assert inputs.source == "the example stored in sum.pt2"
    assert inputs.names == ("x", "y")
    assert torch.equal(inputs.kwargs["y"], torch.full((3,), 5.0))
    assert not inputs.random


def test_a_saved_program_with_other_inputs(program: Entry, tmp_path: Path) -> None:
    inputs = resolve(program, ["x:2x3:1..2", "y:3"])
    assert inputs.random
    assert 1 <= inputs.args[0].min() <= inputs.args[0].max() <= 2
    assert set(inputs.kwargs) == {"y"}
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)), y=np.zeros(3))
    assert not resolve(program, npz=tmp_path / "a.npz").random
    assert "add for example --input 'y:float32:3'" in message(resolve, program, ["x:2x3:1..2"])


def test_a_saved_program_without_an_example(program: Entry) -> None:
    program.model.example_inputs = None
    inputs = resolve(program)
    assert inputs.random
    assert inputs.source == "guessed from the placeholders of sum"
    assert [inputs.args[0].shape, inputs.kwargs["y"].shape] == [(2, 3), (3,)]
