"""Rewritten Keras scripts are run: switched off they compute what they did, on they train as well.

They run in processes of their own, on the backend for PyTorch, or for TensorFlow where they import
that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from ampconvert.lint.rewrite.keras import rewrite_keras
from ampconvert.lint.rewrite.keras_script import Low

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("keras_*.py"))
# These raise, or compute what the rewrite repairs: float16 weights, a softmax taken twice.
CHANGED = {
    "keras_textbook", "keras_experimental", "keras_add_floatx", "keras_sentiment",
    "keras_probabilities",
}  # fmt: skip
# How far the last loss may be from that in float32. The normalizations of an untrained MobileNetV2
# take means of 16 images with 1 x 1 pixels, whose rounding errors they enlarge.
TOLERANCE: dict[Low, float] = {"float16": 0.02, "bfloat16": 0.04}
LOOSE = {"keras_transfer": 0.2}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("keras") is None, reason="runs scripts: needs keras"),
]


@pytest.mark.parametrize(
    "path", [p for p in SCRIPTS if p.stem not in CHANGED], ids=lambda p: p.stem
)
def test_switched_off_it_computes_the_same(path: Path) -> None:
    was = run(path.read_text())
    assert any(line.startswith("weights") for line in was)
    for dtype in TOLERANCE:
        assert run(rewrite_keras(path.read_text(), path.name, dtype=dtype).text, "0") == was


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_switched_on_it_trains_as_well(path: Path, dtype: Low) -> None:
    text = rewrite_keras(path.read_text(), path.name, dtype=dtype).text
    off, on = losses(run(text, "0")), losses(run(text, "1"))
    assert len(on) == len(off) > 1
    assert on != off, "nothing was computed in 16 bits"
    assert on == pytest.approx(off, rel=LOOSE.get(path.stem, TOLERANCE[dtype]), abs=0.005)
    if path.stem not in ("keras_gan", "keras_transfer"):
        assert on[-1] < 0.97 * on[0]


@pytest.mark.parametrize("stem", ["keras_textbook", "keras_experimental"])
def test_the_original_raises(stem: str) -> None:
    (path,) = [p for p in SCRIPTS if p.stem == stem]
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(path.read_text())
    assert "AttributeError" in caught.value.stderr or "ImportError" in caught.value.stderr


def test_a_softmax_once_trains_better() -> None:
    (path,) = [p for p in SCRIPTS if p.stem == "keras_probabilities"]
    text = rewrite_keras(path.read_text(), path.name, dtype="float16").text
    assert losses(run(text, "1"))[-1] < 0.8 * losses(run(path.read_text()))[-1]


def losses(lines: list[str]) -> list[float]:
    """The losses that a script printed; of a GAN the two of each epoch."""
    return [float(x) for line in lines if line.startswith("loss") for x in line.split()[1:]]


@cache
def _run(text: str, backend: str, switch: str) -> tuple[str, ...]:
    environment = {
        **os.environ, "KERAS_BACKEND": backend, "AMP_ENABLED": switch, "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.py"  # TensorFlow reads the source of what it compiles
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", file], env=environment, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
    return tuple(done.stdout.splitlines())


def run(text: str, switch: str = "") -> list[str]:
    """What a script prints. Raises CalledProcessError."""
    tensorflow = "import tensorflow" in text or "tensorflow import" in text
    for package in ("tensorflow", "tf_keras") if tensorflow else ():
        if find_spec(package) is None and package in text:
            pytest.skip(f"the script needs {package}")
    return list(_run(text, "tensorflow" if tensorflow else "torch", switch))
