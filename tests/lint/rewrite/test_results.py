"""Devices, names and text of results, and that every result holds what it must."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ampconvert.lint.catalogue import selected
from ampconvert.lint.engine import check
from ampconvert.lint.rewrite import rewrite
from tests.lint.rewrite.rewritten import SCRIPTS, after


@pytest.mark.parametrize(
    ("moved", "device"),
    [
        ("model.to(device)", "device.type"),
        ("model.to(args.device)", "torch.device(args.device).type"),
        ("model.cuda()", '"cuda"'),
        ('model.to("cuda:1")', '"cuda"'),
        ("if args.gpu: model.cuda()", "next(model.parameters()).device.type"),
        ("model.to(rank)", "torch.device(rank).type"),
        ("model.to(kind)", "kind"),
        ("pass", '"cpu"'),
    ],
)
def test_the_device_is_the_one_that_the_script_chose(moved: str, device: str) -> None:
    text = after(f"""\
from options import args, rank
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
kind = "cuda" if torch.cuda.is_available() else "cpu"
model = nn.Linear(4, 1)
{moved}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    optimizer.zero_grad()
    loss = model(x).mean()
    loss.backward()
    optimizer.step()
""")
    assert f"with torch.amp.autocast({device}, dtype=" in text
    assert f"torch.amp.GradScaler({device}, enabled=" in text


def test_names_of_the_script_are_not_hidden() -> None:
    done = rewrite("""\
from sklearn.preprocessing import StandardScaler
from torch import nn, optim
scaler = StandardScaler()
AMP_ENABLED = "mine"
model = nn.Linear(4, 1)
opt = optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    opt.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    opt.step()
""")
    assert "import torch\nimport os\n" in done.text
    assert 'MIXED_PRECISION_ENABLED = os.environ.get("MIXED_PRECISION_ENABLED", "1")' in done.text
    assert "grad_scaler.scale(loss).backward()" in done.text


def test_line_ends_tabs_and_strings_stay() -> None:
    text = (
        "import torch as th\r\nm = th.nn.Linear(2, 1)\r\no = th.optim.SGD(m.parameters(), lr=1)\r\n"
        'for x in []:\r\n\to.zero_grad()\r\n\tout = m(x)  # ö\r\n\tq = """a\r\n b"""\r\n'
        "\tloss = out.mean()\r\n\tloss.backward()\r\n\to.step()"
    )
    done = rewrite(text).text
    assert done.count("\n") == done.count("\r\n")
    assert '\t\tout = m(x)  # ö\r\n\t\tq = """a\r\n b"""\r\n\t\tloss = out.mean()\r\n' in done
    assert done.endswith("\tscaler.step(o)\r\n\tscaler.update()")


def test_each_step_says_where_what_and_why() -> None:
    done = rewrite((Path(__file__).parent / "scripts" / "clipping.py").read_text())
    lines = done.text.splitlines()
    assert [s.line for s in done.steps] == sorted(s.line for s in done.steps)
    assert all(s.what and s.why for s in done.steps)
    assert any("unscale_" in s.what and "65536" in s.why for s in done.steps)
    assert any("scaler.unscale_(optimizer)" in line for line in lines)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("style", ["amp", "ampconvert"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_the_result_parses_is_clean_and_stays(script: Path, style: str, dtype: str) -> None:
    if style == "ampconvert" and script.stem == "data_parallel":
        pytest.skip("refused: ampconvert has no DataParallel")
    done = rewrite(script.read_text(), script.name, dtype=dtype, style=style)  # type: ignore[arg-type]
    ast.parse(done.text)
    assert done.steps and done.text != script.read_text()
    # A scheduler that steps once per epoch, after a list comprehension of steps, is none of AMP211.
    found = check(done.text, selected(["AMP0", "AMP1", "AMP2"], ["AMP211"]), script.name)
    assert [f for f in found if f.severity != "info"] == []
    again = rewrite(done.text, script.name, dtype=dtype, style=style)  # type: ignore[arg-type]
    assert again.text == done.text and again.notes and not again.steps
