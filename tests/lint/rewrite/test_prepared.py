"""The style of ampconvert's own training: run, and compared with the script before."""

from __future__ import annotations

from pathlib import Path

import pytest

from ampconvert.lint.rewrite import rewrite
from tests.lint.rewrite.test_scripts import HERE, compare_off, compare_on, read, run

NAMES = ["clipping", "gan", "trainer_class", "accumulation_clipping", "checkpoint_resume"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_loop_stays_and_the_model_is_prepared(name: str, tmp_path: Path) -> None:
    script = HERE / "scripts" / f"{name}.py"
    done = tmp_path / script.name
    done.write_text(rewrite(script.read_text(), style="ampconvert", dtype="float16").text)
    before, off, on = run([f"1:{script}", f"0:{done}", f"1:{done}"])
    compare_off(name, read(before), read(off))
    compare_on(read(off), read(on), same_parameters=True)


def test_prepared_before_the_optimizer_and_guarded_after_it() -> None:
    done = rewrite(
        """\
import torch
from torch import nn
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
for x, y in []:
    x = x.half()
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
        style="ampconvert",
    )
    assert (
        done.text
        == """\
import torch
from torch import nn
import ampconvert
import os

AMP_ENABLED = os.environ.get("AMP_ENABLED", "1") != "0"  # AMP_ENABLED=0 runs all in float32
model = nn.Linear(4, 1)
if AMP_ENABLED:
    ampconvert.prepare_training(model, dtype=torch.float16)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
if AMP_ENABLED:
    ampconvert.skip_nonfinite_steps(optimizer, model)
for x, y in []:
    loss = nn.functional.mse_loss(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
    )


def test_bfloat16_needs_no_guard() -> None:
    text = (HERE / "scripts" / "clipping.py").read_text()
    done = rewrite(text, style="ampconvert", dtype="bfloat16")
    assert "prepare_training(model, dtype=torch.bfloat16)" in done.text
    assert "skip_nonfinite_steps" not in done.text
