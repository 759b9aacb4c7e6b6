"""Scripts as people write them, before and after: run, and compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ampconvert.lint.rewrite import rewrite
from tests.lint.rewrite.rewritten import SCRIPTS

HERE = Path(__file__).parent
QUICK = {"plain_loop", "accumulation_clipping", "textbook", "phases"}
# It raises as it stands: its inputs are cast to half before a model in float32.
BROKEN = {"textbook"}
# BCEWithLogitsLoss rounds otherwise than BCELoss after a Sigmoid.
ROUNDED = {"bce_last_layer"}
# oneDNN has no LSTM in float16 on most CPUs.
ONLY_BFLOAT16 = {"lstm"}
# Losses b in float32 and a in 16 bits: |a - b| <= ABSOLUTE + RELATIVE * |b| in the last third.
# Before that 0.3 of the first loss more, since GradScaler skips steps until its scale fits.
ABSOLUTE, RELATIVE, EARLY = 0.02, 0.1, 0.3


@dataclass(frozen=True)
class Run:
    losses: list[float]
    parameters: str
    printed: str


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(p, id=p.stem, marks=() if p.stem in QUICK else pytest.mark.slow)
        for p in SCRIPTS
    ],
)
def test_the_same_when_off_and_close_when_on(script: Path, tmp_path: Path) -> None:
    text = script.read_text()
    words = [f"1:{script}"]
    types = ["bfloat16"] if script.stem in ONLY_BFLOAT16 else ["float16", "bfloat16"]
    for dtype in types:
        after = tmp_path / f"{dtype}.py"
        after.write_text(rewrite(text, script.name, dtype=dtype).text)
        words += [f"0:{after}", f"1:{after}"]
    before, *rest = run(words)
    for off, on in zip(rest[::2], rest[1::2], strict=True):
        if script.stem in BROKEN:
            assert "dtype" in before["error"]
        else:
            compare_off(script.stem, read(before), read(off))
        compare_on(read(off), read(on))


def compare_off(name: str, before: Run, off: Run) -> None:
    if name in ROUNDED:
        assert off.losses == pytest.approx(before.losses, rel=1e-4)
    else:
        assert off.printed == before.printed


def compare_on(off: Run, on: Run, *, same_parameters: bool = False) -> None:
    """`same_parameters`: a small model may stay in float32, where that is faster."""
    assert len(on.losses) == len(off.losses) >= 2
    assert same_parameters or on.parameters != off.parameters, "nothing ran in 16 bits"
    for i, (low, full) in enumerate(zip(on.losses, off.losses, strict=True)):
        early = EARLY * abs(off.losses[0]) if 3 * i < 2 * len(off.losses) else 0.0
        assert abs(low - full) <= ABSOLUTE + RELATIVE * abs(full) + early
    assert (on.losses[-1] < on.losses[0]) == (off.losses[-1] < off.losses[0])


def run(words: list[str]) -> list[dict[str, str]]:
    done = subprocess.run(
        [sys.executable, str(HERE / "run_scripts.py"), *words],
        capture_output=True, text=True, timeout=300,
        env={
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore",
            "PYTHONPATH": str(HERE.parents[2]),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return told


def read(told: dict[str, str]) -> Run:
    assert not told["error"], told["error"]
    losses = [float(n) for n in re.findall(r"loss\s+([-+.\de]+|nan|inf)", told["printed"])]
    found = re.findall(r"parameters (\w+)", told["printed"])
    assert len(found) == 1, told["printed"]
    return Run(losses, found[0], told["printed"])
