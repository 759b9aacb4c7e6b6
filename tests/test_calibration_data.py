"""Calibration data: from the file, from a folder of .npz, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ampconvert.frontends.inputs import resolve
from tests.model_files import TWO, load, message


def test_calibration_data_of_the_file(tmp_path: Path) -> None:
    text = TWO + "example_inputs = torch.zeros(4, 3)\ndef calibration_data():\n"
    generator = text + "    for i in range(100):\n        yield torch.full((4, 3), float(i))\n"
    inputs = resolve(load(tmp_path, generator))
    assert [int(args[0][0, 0]) for args, _ in inputs.calibration] == [0, *range(15)]
    assert inputs.calibration_source == "calibration_data() in model.py, 16 batches"
    assert not inputs.calibration_random
    listed = text + "    return [{'x': torch.ones(4, 3)}, torch.zeros(4, 3)]\n"
    inputs = resolve(load(tmp_path, listed), max_batches=2)
    assert len(inputs.calibration) == 2
    variable = TWO + "calibration_data = [(torch.ones(4, 3),)] * 3\n"
    inputs = resolve(load(tmp_path, variable))
    assert inputs.source == "first batch of calibration_data in model.py, 3 batches"
    assert len(inputs.calibration) == 3
    assert not inputs.random


def test_a_data_loader_with_a_smaller_last_batch(tmp_path: Path) -> None:
    text = TWO + "calibration_data = torch.utils.data.DataLoader(torch.ones(10, 3), batch_size=4)\n"
    inputs = resolve(load(tmp_path, text))
    assert [args[0].shape[0] for args, _ in inputs.calibration] == [4, 4]
    assert "1 left out: x is float32[2, 3]" in inputs.calibration_source
    inputs = resolve(load(tmp_path, text), ["x:?x3"])
    assert [args[0].shape[0] for args, _ in inputs.calibration] == [4, 4, 2]
    assert inputs.source.startswith("first batch of calibration_data")


def test_random_calibration_data_is_called_random(tmp_path: Path) -> None:
    text = TWO + "def calibration_data():\n    while True:\n        yield torch.randn(4, 3)\n"
    inputs = resolve(load(tmp_path, text))
    assert inputs.random
    assert inputs.calibration_random
    assert inputs.calibration_source.endswith("(random numbers)")
    assert len(inputs.calibration) == 16


def test_a_random_example_before_real_calibration_data(tmp_path: Path) -> None:
    text = TWO + "calibration_data = [torch.ones(4, 3)]\n"
    inputs = resolve(load(tmp_path, text), ["x:4x3:0..1"])
    assert inputs.random
    assert not inputs.calibration_random
    assert len(inputs.calibration) == 2
    assert "after one random example" in inputs.calibration_source


def test_a_folder_of_npz(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(5):
        np.savez(folder / f"{i}.npz", x=np.full((2, 3), float(i)))
    inputs = resolve(load(tmp_path, TWO), data=folder, max_batches=3)
    assert [int(args[0][0, 0]) for args, _ in inputs.calibration] == [0, 1, 2]
    assert inputs.calibration_source == f"{folder}, 3 of 5 files"
    assert not inputs.calibration_random
    inputs = resolve(load(tmp_path, TWO), data=folder)
    np.savez(folder / "1.npz", x=np.full((2, 3), np.nan))
    said = message(lambda: list(inputs.calibration))
    assert f"{folder}/1.npz: input x holds 6 NaN" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def calibration_data():\n    return []\n", "yields no batch"),
        ("def calibration_data():\n    return 3\n", "gives a int"),
        ("def calibration_data():\n    yield 1 / 0\n", "model.py:12: calling calibration_data()"),
        ("calibration_data = [torch.full((1, 3), float('nan'))]\n", "batch 0 of calibration_data"),
        (
            "example_inputs = torch.ones(1, 3)\ncalibration_data = [torch.ones(8, 3)]\n",
            "no batch has the example's shape: x is float32[8, 3], the example float32[1, 3]",
        ),
        ("calibration_data = [(torch.ones(1, 3), None, 4, 5)]\n", "too many positional"),
    ],
)
def test_wrong_calibration_data(tmp_path: Path, text: str, words: str) -> None:
    assert words in message(resolve, load(tmp_path, TWO + text))


def test_missing_calibration_folder(tmp_path: Path) -> None:
    model = load(tmp_path, TWO)
    assert "no such file or folder" in message(resolve, model, data=tmp_path / "none")
    assert "holds no .npz" in message(resolve, model, data=tmp_path)


def test_data_by_keyword_beside_an_example_by_position(tmp_path: Path) -> None:
    """--input makes a positional example; a file's own batches may name their arguments."""
    text = (
        "import torch\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x, scale):\n"
        "        return x * scale\n"
        "def calibration_data():\n"
        "    yield {'scale': torch.full((1,), 2.0), 'x': torch.ones(2, 3)}\n"
    )
    found = resolve(load(tmp_path, text), ["x:2x3:0..1", "scale:1"])
    args, kwargs = found.calibration[-1]
    assert kwargs == {}
    assert [a.shape for a in args] == [(2, 3), (1,)]
    assert float(args[1]) == 2.0
