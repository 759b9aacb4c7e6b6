"""Checkpoints: the scaler's state goes along, and files from before still load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ampconvert.lint.rewrite import rewrite
from tests.lint.rewrite.test_scripts import run

SCRIPT = """\
import os
import torch
from torch import nn

PATH = {path!r}
torch.manual_seed(0)
model = nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
if os.path.exists(PATH):
    checkpoint = torch.load(PATH)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    print("resumed")
for step in range(5):
    x = torch.randn(8, 4)
    loss = 100 * nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save({{"model": model.state_dict(), "optimizer": optimizer.state_dict()}}, PATH)
"""


@pytest.mark.slow
def test_old_files_load_and_the_scale_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(SCRIPT.format(path=str(path)))
    after.write_text(rewrite(before.read_text()).text)

    first, second = run([f"1:{before}", f"1:{after}"])
    assert (first, second) == (told(""), told("resumed\n"))
    state = torch.load(path)["scaler"]
    assert state["scale"] < 65536.0, "the first steps overflow, so the scale has come down"

    assert run([f"1:{after}"]) == [told("resumed\n")]
    assert torch.load(path)["scaler"]["scale"] <= state["scale"]
    # Switched off, a run goes on from such a file, and one from its file with a scaler.
    assert run([f"0:{after}", f"1:{after}", f"1:{before}"]) == [told("resumed\n")] * 3


def told(printed: str) -> dict[str, str]:
    return {"printed": printed, "error": ""}


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (
            'torch.save({"net": model.state_dict(), "opt": optimizer.state_dict()}, "x")',
            'torch.save({"net": model.state_dict(), "opt": optimizer.state_dict(), '
            '"scaler": scaler.state_dict()}, "x")',
        ),
        (
            "torch.save({\n    'opt': optimizer.state_dict(),\n}, 'x')",
            "torch.save({\n    'opt': optimizer.state_dict(),\n    'scaler': scaler.state_dict(),"
            "\n}, 'x')",
        ),
        (
            "torch.save(dict(opt=optimizer.state_dict()), 'x')",
            "torch.save(dict(opt=optimizer.state_dict(), scaler=scaler.state_dict()), 'x')",
        ),
        (
            "state['opt'] = optimizer.state_dict()",
            "state['opt'] = optimizer.state_dict()\nstate[\"scaler\"] = scaler.state_dict()",
        ),
        (
            "optimizer.load_state_dict(ckpt['opt'])",
            "optimizer.load_state_dict(ckpt['opt'])\n"
            'if ckpt.get("scaler"):  # files of runs without a scaler have none\n'
            '    scaler.load_state_dict(ckpt["scaler"])',
        ),
    ],
)
def test_where_the_state_goes(saved: str, expected: str) -> None:
    done = rewrite(f"""\
import torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    optimizer.zero_grad()
    loss = model(x).mean()
    loss.backward()
    optimizer.step()
{saved}
""")
    assert f"    scaler.update()\n{expected}\n" in done.text


def test_a_file_of_its_own_is_told_of() -> None:
    done = rewrite("""\
import torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    optimizer.zero_grad()
    loss = model(x).mean()
    loss.backward()
    optimizer.step()
torch.save(optimizer.state_dict(), "optimizer.pt")
""")
    assert any("the scaler's is not saved" in note for note in done.notes)
