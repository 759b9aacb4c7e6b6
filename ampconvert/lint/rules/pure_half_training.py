"""AMP302: a model that is trained with its parameters in float16 or bfloat16."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.low_training import trained_low
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source


class PureHalfTraining(Rule):
    """The parameters that an optimizer of torch.optim steps are float16 or bfloat16.

    An update that is less than half a step of the type is lost: at 1.0 that step is 0.00098 in
    float16 and 0.0078 in bfloat16, so a weight of 1.0 doesn't move at all with lr=1e-3 and Adam in
    bfloat16. In float16 gradients below 3e-8 are 0 as well, and GradScaler refuses: "Attempting to
    unscale FP16 gradients".

    Found where the optimizer gets `model.parameters()` of a model that is made and cast in this
    file, and the file trains. Not reported: models that are cast only under a condition or after
    training, files that use a library with FP32 copies of its own (Apex, DeepSpeed, Accelerate,
    Lightning) or adapters (PEFT), and optimizers that are made for low parameters.

    Sources: https://github.com/huggingface/diffusers/issues/1246 and https://docs.pytorch.org/docs/stable/notes/amp_examples.html
    """

    CODE = "AMP302"
    NAME = "pure-half-training"
    SEVERITY = "warning"
    ADVICE = (
        "Leave the parameters in float32 and run the forward pass under torch.autocast (with a "
        "GradScaler for float16)."
    )
    WORDS = (
        (b"half(", b"float16", b"HalfTensor"), (b"torch",), (b".backward(",), (b".parameters(",
         b"named_parameters("),
    )  # fmt: skip
    VALID = (
        Case("""\
import torch
from torch import nn

model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in data:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model(x).sum()
    loss.backward()
    optimizer.step()
model.half()
"""),
        Case("""\
import copy
import torch
from torchvision.models import resnet18

model = resnet18()
average = copy.deepcopy(model).half()
rounded = resnet18().half().float()
optimizer = torch.optim.Adam([*model.parameters()], lr=1e-3)
second = torch.optim.Adam(rounded.parameters(), lr=1e-3)
model(x).sum().backward()
optimizer.step()
"""),
        Case("""\
import torch
from torch import nn

def train(model, data, fp16):
    net = nn.Linear(4, 2)
    if fp16:
        net.half()
    masters = [p.detach().clone().float() for p in net.parameters()]
    optimizer = torch.optim.Adam(masters, lr=1e-3)
    other = torch.optim.Adam(net.parameters(), lr=1e-3)
    model(data).backward()
    optimizer.step()
"""),
        Case("""\
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("x", torch_dtype=torch.bfloat16)
model = get_peft_model(model, config)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
model(**batch).loss.backward()
optimizer.step()
"""),
    )
    INVALID = (
        Case("""\
import torch as th
from torch import nn
from torch.optim import Adam as Optimizer

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

def build(device):
    return Net().to(device).half()  # AMP302

class Trainer:
    def __init__(self, device):
        self.model = build(device)
        self.optimizer = Optimizer(params=self.model.parameters(), lr=1e-3)

    def step(self, x):
        self.model(x.half()).mean().backward()
        self.optimizer.step()
"""),
        Case("""\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
model.to(dtype=torch.bfloat16)  # AMP302
groups = [{"params": [p for n, p in model.named_parameters() if "bias" not in n]}]
optimizer = torch.optim.SGD(groups, lr=0.1)
for x, y in data:
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
"""),
        Case("""\
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(
    "gpt2", torch_dtype=torch.float16  # AMP302
).cuda()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
scaler = torch.amp.GradScaler("cuda")
scaler.scale(model(**batch).loss).backward()
scaler.step(optimizer)
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Casts of models whose parameters an optimizer steps."""
        for trained in trained_low(source):
            at: ast.AST = trained.made.cast or trained.made.constructor
            lost = "updates and gradients" if trained.low == "float16" else "updates"
            yield self.finding(
                source, at,
                f"{trained.name} on line {trained.optimizer.lineno} steps these parameters in "
                f"{trained.low}: small {lost} are lost",
            )  # fmt: skip
