"""Guessing inputs from the first layers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from ampconvert.frontends.inputs import parse_spec, resolve
from tests.model_files import around, guessed, load, message

GUESSES = [
    ("x => return self.a(x)", "self.a = nn.Linear(5, 2)", {"x": (2, 5)}),
    ("x => return self.a(torch.flatten(x, 1))", "self.a = nn.Linear(784, 2)", {"x": (2, 784)}),
    (
        "x => b, c, h, w = x.shape; return self.a(x.flatten(1))",
        "self.a = nn.Linear(784, 2)",
        {"x": (2, 1, 28, 28)},
    ),
    ("x => return self.a(x).mean((2, 3))", "self.a = nn.Conv2d(3, 2, 3)", {"x": (2, 3, 224, 224)}),
    (
        "x => return self.b(self.a(x).flatten(1))",
        "self.a = nn.Conv2d(3, 2, 3); self.b = nn.Linear(2 * 30 * 30, 1)",
        {"x": (2, 3, 32, 32)},
    ),
    (
        "x => return self.a(x) + self.p",
        "self.a = nn.Conv2d(1, 2, 3, padding=1); self.p = nn.Buffer(torch.ones(1, 2, 64, 64))",
        {"x": (2, 1, 64, 64)},
    ),
    ("x => return self.a(x.transpose(1, 2))", "self.a = nn.Conv1d(7, 2, 3)", {"x": (2, 16, 7)}),
    ("z => return self.a(z)", "self.a = nn.ConvTranspose2d(100, 4, 4)", {"z": (2, 100, 1, 1)}),
    ("x => return self.a(x)", "self.a = nn.Conv3d(1, 2, 3)", {"x": (2, 1, 16, 112, 112)}),
    ("x => return self.a(x)[0]", "self.a = nn.LSTM(6, 4, batch_first=True)", {"x": (2, 16, 6)}),
    ("x => return self.a(x)[0]", "self.a = nn.GRU(6, 4)", {"x": (16, 2, 6)}),
    ("x => return self.a(x)", "self.a = nn.BatchNorm1d(6)", {"x": (2, 6)}),
    ("x => return self.a(x)", "self.a = nn.LayerNorm((4, 6))", {"x": (2, 4, 6)}),
    (
        "q, k => return self.a(q, k, k)[0]",
        "self.a = nn.MultiheadAttention(8, 2, batch_first=True)",
        {"q": (2, 16, 8), "k": (2, 16, 8)},
    ),
    ("x => return self.a(x)", "self.a = nn.Embedding(9, 4)", {"x": (2, 16)}),
    (
        "user, item => return self.c(torch.cat([self.a(user), self.b(item)], 1))",
        "self.a = nn.Embedding(5, 4); self.b = nn.Embedding(9, 4); self.c = nn.Linear(8, 1)",
        {"user": (2,), "item": (2,)},
    ),
    (
        "a, b => return self.two(b) + self.one(a)",
        "self.two = nn.Linear(3, 4); self.one = nn.Linear(7, 4)",
        {"a": (2, 7), "b": (2, 3)},
    ),
    (
        "input_ids, attention_mask => return self.a(input_ids) * attention_mask[..., None]",
        "self.a = nn.Embedding(9, 4)",
        {"input_ids": (2, 16), "attention_mask": (2, 16)},
    ),
    (
        "x, t => return self.a(x) + self.b(t)[:, :, None, None]",
        "self.a = nn.Conv2d(4, 8, 1); self.b = nn.Embedding(50, 8)",
        {"x": (2, 4, 224, 224), "t": (2,)},
    ),
    (
        "x, edge_index => return self.a(x)[edge_index[0]]",
        "self.a = nn.Linear(3, 2)",
        {"x": (16, 3), "edge_index": (2, 64)},
    ),
    ("a, b => return a + b", "self.w = nn.Parameter(torch.ones(1))", None),
    ("x, n: int = 3 => return self.a(x)[:n]", "self.a = nn.Linear(3, 2)", {"x": (2, 3)}),
]


@pytest.mark.parametrize(("forward", "layers", "shapes"), GUESSES)
def test_guesses(
    tmp_path: Path, forward: str, layers: str, shapes: dict[str, tuple[int, ...]] | None
) -> None:
    inputs = guessed(tmp_path, forward, layers)
    if shapes is None:
        assert len({a.shape for a in inputs.args}) == 1
    else:
        named = dict(zip(inputs.names, inputs.args, strict=True))
        assert {name: tuple(t.shape) for name, t in named.items()} == shapes


def test_guessed_values(tmp_path: Path) -> None:
    inputs = guessed(
        tmp_path,
        "ids, type_mask => return self.a(ids) * type_mask[..., None]",
        "self.a = nn.Embedding(9, 4)",
    )
    ids, mask = inputs.args
    assert ids.dtype == torch.int64
    assert 4 < ids.max() <= 8
    assert (mask == 1).all()
    assert "Embedding(9, 4)" in inputs.source
    assert "int64[2, 16]" in inputs.source


def test_a_hugging_face_style_model(tmp_path: Path) -> None:
    text = """
class Config:
    vocab_size = 30
    use_cache = True
class Bert(nn.Module):
    main_input_name = "input_ids"
    def __init__(self):
        super().__init__()
        self.config = Config()
        self.places = nn.Embedding(64, 4)
        self.words = nn.Embedding(30, 4)
    def forward(self, input_ids=None, attention_mask=None, pixel_values=None, use_cache=None):
        assert use_cache is False
        return self.words(input_ids) * attention_mask[..., None]
"""
    inputs = resolve(load(tmp_path, text))
    assert inputs.names == ("input_ids", "attention_mask")
    assert 15 < inputs.args[0].max() <= 29
    assert inputs.kwargs == {"use_cache": False}


def test_nothing_to_guess_names_the_input_to_write(tmp_path: Path) -> None:
    text = around(
        "boxes, scores => assert len(boxes) == 77, 'need 77 boxes'; return self.a(boxes) * scores",
        "self.a = nn.Linear(4, 2)",
    )
    said = message(resolve, load(tmp_path, text))
    assert "boxes, scores of Net.forward(boxes, scores)" in said
    assert "need 77 boxes" in said
    assert "--input 'boxes:float32:2x4'" in said
    assert "def example_inputs()" in said
    assert str(tmp_path / "model.py") in said
    options = re.findall(r"--input '([^']+)'", said)
    assert [parse_spec(option).name for option in options] == ["boxes", "scores"]


def test_a_guess_that_gives_nan_is_said_to(tmp_path: Path) -> None:
    inputs = guessed(tmp_path, "x => return self.a(x) / 0", "self.a = nn.Linear(3, 2)")
    assert "not finite" in inputs.source


def test_a_model_without_inputs(tmp_path: Path) -> None:
    text = (
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a = nn.Linear(1, 1)\n    def forward(self):\n        return self.a.weight\n"
    )
    inputs = resolve(load(tmp_path, text))
    assert (inputs.args, inputs.kwargs, inputs.names) == ((), {}, ())


def test_forward_with_star_args_and_declared_inputs(tmp_path: Path) -> None:
    """What a Keras model on the torch backend looks like."""
    text = """
class Symbol:
    def __init__(self, name, shape):
        self.name, self.shape, self.dtype = name, shape, "float32"
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 2)
        self.inputs = [Symbol("features", (None, 6))]
    def forward(self, *args, **kwargs):
        (x,) = args
        return self.a(x)
"""
    inputs = resolve(load(tmp_path, text))
    assert inputs.names == ("features",)
    assert inputs.args[0].shape == (2, 6)
    assert resolve(load(tmp_path, text), ["features:5x6"]).args[0].shape == (5, 6)


def test_a_model_of_text_and_images(tmp_path: Path) -> None:
    text = """
class Vision:
    image_size = 40
class Config:
    vision_config = Vision()
class Clip(nn.Module):
    main_input_name = "input_ids"
    def __init__(self):
        super().__init__()
        self.config = Config()
        self.words = nn.Embedding(30, 4)
        self.patch = nn.Conv2d(3, 4, 40)
    def forward(self, input_ids=None, pixel_values=None, attention_mask=None):
        return self.words(input_ids).mean(1) + self.patch(pixel_values)[:, :, 0, 0]
"""
    inputs = resolve(load(tmp_path, text))
    assert inputs.names == ("input_ids", "pixel_values", "attention_mask")
    assert inputs.args[1].shape == (2, 3, 40, 40)
    assert inputs.source.startswith("guessed from Embedding(30, 4), Conv2d(3, 4")


def test_linear_layers_of_other_packages(tmp_path: Path) -> None:
    text = """
class DenseLinear(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.in_channels = in_channels
        self.weight = nn.Parameter(torch.ones(in_channels, 2))
    def forward(self, x):
        return x @ self.weight
model = nn.Sequential(DenseLinear(9))
"""
    assert resolve(load(tmp_path, text)).args[0].shape == (2, 9)
