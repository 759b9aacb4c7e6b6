"""Scripts that are refused: with the line, the reason and what to do, and never half done."""

from __future__ import annotations

import re

import pytest

from ampconvert.errors import UserError
from ampconvert.lint.rewrite import rewrite

HEAD = """\
import torch
from torch import nn, optim

model = nn.Linear(4, 1)
loss_fn = nn.MSELoss()
optimizer = optim.SGD(model.parameters(), lr=0.1)
"""
BOTH = ("amp", "ampconvert")

# Name: the script, what the message must say, the styles and the types that refuse it.
CASES = {
    "lbfgs": (
        """\
import torch
model = torch.nn.Linear(2, 1)
opt = torch.optim.LBFGS(model.parameters())
def closure():
    opt.zero_grad()
    loss = model(torch.ones(1, 2)).sum()
    loss.backward()
    return loss
opt.step(closure)
""",
        r"train.py:3: LBFGS .*closure", BOTH, ("float16", "bfloat16"),
    ),
    "closure": (
        HEAD + """\
def closure():
    loss = loss_fn(model(torch.ones(2, 4)), torch.ones(2, 1))
    loss.backward()
    return loss
optimizer.step(closure)
""",
        r"train.py:11: step\(\) gets a closure", BOTH, ("float16", "bfloat16"),
    ),
    "sam": (
        """\
import torch
from sam import SAM
model = torch.nn.Linear(2, 1)
optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
for x, y in []:
    loss = torch.nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.first_step(zero_grad=True)
    torch.nn.functional.mse_loss(model(x), y).backward()
    optimizer.second_step(zero_grad=True)
""",
        r"train.py:8: .*SAM", BOTH, ("float16", "bfloat16"),
    ),
    "fsdp": (
        """\
import torch
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
model = FSDP(torch.nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    model(x).sum().backward()
    optimizer.step()
""",
        r"ShardedGradScaler|use_orig_params", BOTH, ("float16", "bfloat16"),
    ),
    "deepspeed": (
        """\
import torch, deepspeed
engine, _, _, _ = deepspeed.initialize(model=torch.nn.Linear(2, 1))
for x in []:
    loss = engine(x).sum()
    engine.backward(loss)
    engine.step()
""",
        r'train.py:1: DeepSpeed.*"fp16"', BOTH, ("float16", "bfloat16"),
    ),
    "lightning": (
        """\
import pytorch_lightning as pl
class Module(pl.LightningModule):
    def training_step(self, batch, _):
        return self(batch).sum()
pl.Trainer(max_epochs=1).fit(Module())
""",
        r'Lightning.*Trainer\(precision="16-mixed"\)', BOTH, ("float16",),
    ),
    "lightning in bfloat16": (
        "from lightning import Trainer\nTrainer().fit(None)\n",
        r'train.py:1: .*precision="bf16-mixed"', BOTH, ("bfloat16",),
    ),
    "accelerate": (
        """\
from accelerate import Accelerator
import torch
accelerator = Accelerator()
model = torch.nn.Linear(2, 1)
opt = torch.optim.SGD(model.parameters(), lr=0.1)
model, opt = accelerator.prepare(model, opt)
accelerator.backward(model(torch.ones(1, 2)).sum())
opt.step()
""",
        r'mixed_precision="fp16"', BOTH, ("float16",),
    ),
    "transformers": (
        """\
from transformers import Trainer, TrainingArguments
Trainer(None, TrainingArguments("x")).train()
""",
        r"TrainingArguments\(fp16=True\)", BOTH, ("float16",),
    ),
    "fabric": (
        "import lightning as L\nfabric = L.Fabric()\nfabric.launch()\n",
        r'train.py:2: Fabric.*precision="16-mixed"', BOTH, ("float16",),
    ),
    "half model": (
        HEAD + """\
model.half()
for x, y in []:
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
        r"train.py:7: model.half\(\) .*take it out", BOTH, ("float16", "bfloat16"),
    ),
    "half model by to": (
        """\
import torch
model = torch.nn.Linear(2, 1).to("cuda", dtype=torch.bfloat16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    model(x).sum().backward()
    optimizer.step()
""",
        r"train.py:2: .*16 bits wide", BOTH, ("float16", "bfloat16"),
    ),
    "double model": (
        """\
import torch
model = torch.nn.Linear(2, 1)
model.double()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    model(x).sum().backward()
    optimizer.step()
""",
        r"train.py:3: .*float64", BOTH, ("float16", "bfloat16"),
    ),
    "no loop": (
        "import torch\nmodel = torch.nn.Linear(2, 1)\nprint(model(torch.ones(1, 2)))\n",
        r"train.py: no training loop", BOTH, ("float16", "bfloat16"),
    ),
    "no optimizer": (
        """\
import torch
model = torch.nn.Linear(2, 1)
for x in []:
    model(x).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
""",
        r"train.py:4: no optimizer's step\(\)", BOTH, ("float16", "bfloat16"),
    ),
    "no model": (
        """\
import torch
optimizer = torch.optim.SGD([w], lr=0.1)
for x, y in []:
    loss = ((x * w - y) ** 2).mean()
    loss.backward()
    optimizer.step()
""",
        r"train.py:5: no forward pass", ("amp",), ("float16", "bfloat16"),
    ),
    "gradient penalty": (
        HEAD + """\
for x, y in []:
    optimizer.zero_grad()
    out = model(x)
    (g,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    loss = loss_fn(out, y) + g.pow(2).mean()
    loss.backward()
    optimizer.step()
""",
        r"train.py:10: create_graph.*--dtype bf16", ("amp",), ("float16",),
    ),
    "gradient of an input": (
        HEAD + """\
for x, y in []:
    x.requires_grad_()
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    attacked = x + 0.1 * x.grad.sign()
    optimizer.step()
""",
        r"train.py:12: the gradient of an input", ("amp",), ("float16",),
    ),
    "by hand": (
        HEAD + """\
for x, y in []:
    loss = loss_fn(model(x), y)
    loss.backward()
    if y is not None:
        optimizer.step()
    else:
        for p in model.parameters():
            p.data.add_(p.grad, alpha=-0.1)
""",
        r"train.py:14: parameters are updated by hand", ("amp",), ("float16",),
    ),
    "clipped per micro-batch": (
        HEAD + """\
for i, (x, y) in enumerate([]):
    loss = loss_fn(model(x), y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if i % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
""",
        r"train.py:10: gradients are read in every micro-batch", ("amp",), ("float16",),
    ),
    "clipped by one norm": (
        """\
import torch
from torch import nn
a, b = nn.Linear(2, 2), nn.Linear(2, 2)
opt_a = torch.optim.SGD(a.parameters(), lr=0.1)
opt_b = torch.optim.SGD(b.parameters(), lr=0.1)
for x in []:
    opt_a.zero_grad()
    opt_b.zero_grad()
    loss = b(a(x)).sum()
    loss.backward()
    nn.utils.clip_grad_norm_([*a.parameters(), *b.parameters()], 1.0)
    opt_a.step()
    opt_b.step()
""",
        r"train.py:11: the gradients of several optimizers", ("amp",), ("float16",),
    ),
    "steps under conditions of their own": (
        """\
import torch
from torch import nn
a, b = nn.Linear(2, 2), nn.Linear(2, 2)
opt_a = torch.optim.SGD(a.parameters(), lr=0.1)
opt_b = torch.optim.SGD(b.parameters(), lr=0.1)
for i, x in enumerate([]):
    loss = b(a(x)).sum()
    loss.backward()
    if i % 2:
        opt_a.step()
    if i % 3:
        opt_b.step()
""",
        r"train.py:11: two optimizers step under conditions", ("amp",), ("float16",),
    ),
    "rarer": (
        """\
import torch
from torch import nn
a, b = nn.Linear(2, 2), nn.Linear(2, 2)
opt_a = torch.optim.SGD(a.parameters(), lr=0.1)
opt_b = torch.optim.SGD(b.parameters(), lr=0.1)
for i, x in enumerate([]):
    loss = b(a(x)).sum()
    loss.backward()
    opt_a.step()
    opt_a.zero_grad()
    if i % 4 == 3:
        opt_b.step()
        opt_b.zero_grad()
""",
        r"train.py:12: this optimizer steps less often", ("amp",), ("float16",),
    ),
    "optimizer from elsewhere": (
        """\
import torch
def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
""",
        r"train.py:\d+: the gradient scaler can.t be handed to train", ("amp",), ("float16",),
    ),
    "function handed to a process": (
        """\
import torch
import torch.multiprocessing as mp
def train(rank, model, optimizer):
    for x in []:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
def main():
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mp.Process(target=train, args=(0, model, optimizer)).start()
    train(0, model, optimizer)
""",
        r"train.py:\d+: the gradient scaler can't be handed to train", ("amp",), ("float16",),
    ),
    "wrapped optimizer": (
        """\
import torch
class Noam:
    def __init__(self, optimizer):
        self.optimizer = optimizer
    def step(self):
        self.optimizer.step()
    def zero_grad(self):
        self.optimizer.zero_grad()
model = torch.nn.Linear(2, 1)
opt = Noam(torch.optim.Adam(model.parameters()))
for x in []:
    opt.zero_grad()
    loss = model(x).mean()
    loss.backward()
    opt.step()
""",
        r"train.py:6: Noam wraps an optimizer", ("amp",), ("float16",),
    ),
    "unknown step": (
        """\
import torch
def train(model, loader, thing):
    for x in loader:
        model.zero_grad()
        model(x).sum().backward()
        thing.step()
""",
        r"train.py:6: nothing in this file tells what thing.step steps",
        BOTH, ("float16", "bfloat16"),
    ),
    "exec": (
        HEAD + """\
exec(open("config.py").read())
for x, y in []:
    loss_fn(model(x), y).backward()
    optimizer.step()
""",
        r"train.py:7: exec\(\)", BOTH, ("float16", "bfloat16"),
    ),
    "data parallel": (
        """\
import torch
import torchvision
model = torch.nn.DataParallel(torchvision.models.resnet18())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in []:
    optimizer.zero_grad()
    model(x).sum().backward()
    optimizer.step()
""",
        r"train.py:3: DataParallel runs .* in threads", ("amp",), ("bfloat16",),
    ),
    "no Python": ("def f(:\n", r"train.py:1: .*parsed", BOTH, ("float16", "bfloat16")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str) -> None:
    text, message, styles, types = CASES[name]
    for style in styles:
        for dtype in types:
            with pytest.raises(UserError) as caught:
                rewrite(text, "train.py", dtype=dtype, style=style)
            told = str(caught.value)
            assert re.search(message, told), told
            assert told.startswith("train.py:") and ("; " in told or name == "no Python")


def test_only_float16_needs_a_scaler() -> None:
    text, *_ = CASES["gradient penalty"]
    done = rewrite(text, dtype="bfloat16")
    assert "GradScaler" not in done.text and "with torch.amp.autocast(" in done.text


def test_scripts_in_mixed_precision_stay() -> None:
    text = HEAD + "scaler = torch.cuda.amp.GradScaler()\nscaler.scale(model(x)).backward()\n"
    done = rewrite(text, "train.py")
    assert done.text == text and not done.steps
    assert "line 7" in done.notes[0]
