"""The training examples run as their first lines say, and learn."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DTYPES = ["fp16", "bf16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_train(dtype: str) -> None:
    needs("sklearn")
    lines = run("train.py", "--dtype", dtype, "--epochs", "4").splitlines()
    full, low, guard = lines
    assert full.startswith("fp32") and low.startswith(dtype)
    assert accuracy(full) > 90 and abs(accuracy(full) - accuracy(low)) < 3
    assert f"loss scale {65536 if dtype == 'fp16' else 1}, 0 of 92 steps skipped" == guard


def test_the_textbook_mistake() -> None:
    """What docs/training.md says of it."""
    before, after = run("train_half.py").split("ampconvert\n")
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    for error in re.findall(r"RuntimeError: .*", before):
        assert error in page
    assert "model.half() too: loss nan, 12 of 321 weights" in before
    assert "beyond 65504: loss nan, 317 of 321 weights" in before
    assert after.count(" 0 of 321 weights not finite after step 1, 0 after step 2") == 3
    assert "inputs.half(): loss 0.0500" in after and "loss inf" in after
    [error] = re.findall(r"UserError: .*", after)
    assert error.removeprefix("UserError: ") in page


@pytest.mark.slow
def test_dynamic_precision() -> None:
    """Its log is the one in docs/training.md."""
    out = run("train_overflow.py", errors=True)
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    lines = re.findall(r"^step \d+: (?:matmul|mul) .*", out, re.M)
    assert len(lines) == 6 and sum(line in page for line in lines) == 4
    assert "12 of 1100 steps skipped" in out


@pytest.mark.slow
def test_train_writes_for_tensorboard(tmp_path: Path) -> None:
    needs("sklearn", "tensorboard")
    run("train.py", "--epochs", "2", "--log", str(tmp_path))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    assert "loss" in tags
    [scale] = [tag for tag in tags if tag.endswith("loss_scale")]
    assert [event.value for event in events.Scalars(scale)] == [65536.0] * 2


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("words", [(), ("--fsdp",)], ids=["ddp", "fsdp"])
def test_train_ddp(words: tuple[str, ...], dtype: str) -> None:
    out = run("train_ddp.py", "--dtype", dtype, *words, launcher=TORCHRUN)
    assert "2 processes" in out
    assert float(re.search(r"last loss ([\d.]+)", out)[1]) < 0.7  # type: ignore[index]
    assert "0 of 40 steps skipped" in out


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_train_lightning(dtype: str) -> None:
    needs("lightning", "sklearn")
    out = run("train_lightning.py", "--dtype", dtype, "--epochs", "3")
    assert float(re.search(r"^accuracy ([\d.]+)", out, re.M)[1]) > 0.8  # type: ignore[index]
    assert "ampconvert/loss_scale" in out


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_train_transformers(dtype: str) -> None:
    needs("transformers", "accelerate")
    out = run("train_transformers.py", "--dtype", dtype, "--steps", "40")
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+),", out)]
    assert len(losses) == 4 and losses[-1] < 3.0 < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_train_keras(dtype: str) -> None:
    needs("keras", "sklearn")
    out = run("train_keras.py", "--dtype", dtype, "--epochs", "3")
    assert accuracy(out) > 85 and re.search(r"[012] of 69 steps skipped", out)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def needs(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def run(name: str, *words: str, launcher: tuple[str, ...] = (), errors: bool = False) -> str:
    """What the example prints, and logs with `errors`."""
    command = [sys.executable, *launcher, str(ROOT / "examples" / name), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + (done.stderr if errors else "")


def accuracy(line: str) -> float:
    return float(re.search(r"accuracy ([\d.]+)%", line)[1])  # type: ignore[index]
