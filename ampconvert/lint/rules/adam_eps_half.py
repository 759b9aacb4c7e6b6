"""AMP303: Adam with its default epsilon on float16 parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.low_training import Trained, trained_low
from ampconvert.lint.rule import Case, Rule
from ampconvert.lint.source import Source

_UNDERFLOW = 2.0**-25  # what is not above it rounds to 0 in float16
# The optimizers that divide by a root or a maximum plus eps, and the place of eps.
_POSITIONS = {"Adam": 3, "AdamW": 3, "Adamax": 3, "NAdam": 3, "RMSprop": 3, "Adagrad": 5}


class AdamEpsHalf(Rule):
    """Adam's default eps, 1e-8, is 0 in float16, and it steps float16 parameters here.

    The first step divides by the root of the squared gradients, which underflow as well: a gradient
    of 0 makes NaN of the weight, and one of 1e-3 makes it -inf. AdamW, NAdam, Adamax, RMSprop and
    Adagrad (eps=1e-10) do the same. `fused=True` computes in float32 and is not reported; bfloat16
    holds 1e-8.

    Found where AMP302 finds float16 parameters.

    Sources: https://github.com/pytorch/pytorch/issues/8860 and https://discuss.pytorch.org/t/adam-half-precision-nans/1765
    """

    CODE = "AMP303"
    NAME = "adam-eps-half"
    SEVERITY = "error"
    ADVICE = (
        "Keep the parameters in float32 and run the forward pass under torch.autocast; eps=1e-4 "
        "only keeps a pure float16 run finite."
    )
    FIX = "unsafe"
    FIX_SAFETY = "A larger eps makes smaller steps where gradients are small."
    WORDS = (
        (b"half(", b"float16", b"HalfTensor"), (b"torch",), (b".backward(",),
        (b"Ada", b"Adam", b"RMSprop"),
    )  # fmt: skip
    VALID = (
        Case("""\
import torch
from torch import nn

model = nn.Linear(4, 2).bfloat16()
optimizer = torch.optim.Adam(model.parameters())
other = nn.Linear(4, 2).half()
second = torch.optim.Adam(other.parameters(), eps=1e-4)
third = torch.optim.AdamW(other.parameters(), fused=True)
fourth = torch.optim.SGD(other.parameters(), lr=0.1)
model(x).sum().backward()
optimizer.step()
"""),
        Case("""\
import torch
from torch import nn

model = nn.Linear(4, 2)
optimizer = torch.optim.Adam(model.parameters())
with torch.autocast("cuda", dtype=torch.float16):
    loss = model(x).sum()
loss.backward()
optimizer.step()
"""),
        Case("""\
import torch
from apex.optimizers import FusedAdam
from torch import nn

model = nn.Linear(4, 2).half()
optimizer = torch.optim.Adam(model.parameters())
model(x).sum().backward()
optimizer.step()
"""),
    )
    INVALID = (
        Case(
            """\
import torch
from torch import nn

model = nn.Linear(4, 2).cuda().half()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # AMP303
model(x).sum().backward()
optimizer.step()
""",
            """\
import torch
from torch import nn

model = nn.Linear(4, 2).cuda().half()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-4)  # AMP303
model(x).sum().backward()
optimizer.step()
""",
        ),
        Case(
            """\
import torch as th
from torch import nn, optim as o

class Trainer:
    EPS = 1e-8

    def __init__(self):
        self.model = nn.Linear(4, 2)
        self.model = self.model.to("cuda", th.float16)
        self.optimizer = o.AdamW(  # AMP303
            [{"params": self.model.parameters(), "lr": 1e-4}],
            eps=self.EPS,
        )

    def step(self, x):
        for _ in range(2):
            self.model(x).sum().backward()
            self.optimizer.step()
""",
            """\
import torch as th
from torch import nn, optim as o

class Trainer:
    EPS = 1e-8

    def __init__(self):
        self.model = nn.Linear(4, 2)
        self.model = self.model.to("cuda", th.float16)
        self.optimizer = o.AdamW(  # AMP303
            [{"params": self.model.parameters(), "lr": 1e-4}],
            eps=1e-4,
        )

    def step(self, x):
        for _ in range(2):
            self.model(x).sum().backward()
            self.optimizer.step()
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Optimizers over float16 parameters whose eps is lost."""
        for trained in trained_low(source):
            position = _POSITIONS.get(trained.name)
            if trained.low != "float16" or position is None or _is_fused(source, trained.optimizer):
                continue
            call = trained.optimizer
            keywords = {k.arg: k.value for k in call.keywords}
            given = keywords.get("eps") or next(iter(call.args[position : position + 1]), None)
            default = 1e-10 if trained.name == "Adagrad" else 1e-8
            numbers = {default} if given is None else source.values.numbers(given)
            if None in keywords or not numbers or max(numbers) > _UNDERFLOW:
                continue
            yield self.finding(
                source, call,
                f"eps={max(numbers):g} is 0 in float16, the type of these parameters: the first "
                f"step of {trained.name} gives NaN or inf",
                self._raised(source, trained, given),
            )  # fmt: skip

    def _raised(self, source: Source, trained: Trained, given: ast.expr | None) -> Fix | None:
        edits = source.edits
        if given is not None:
            return self.fix("set eps=1e-4", [edits.replace(given, "1e-4")], safe=False)
        edit = edits.add_keyword(trained.optimizer, "eps=1e-4")
        return self.fix("add eps=1e-4", [edit], safe=False)


def _is_fused(source: Source, optimizer: ast.Call) -> bool:
    given = [k.value for k in optimizer.keywords if k.arg == "fused"]
    return bool(given) and source.values.constants(given[0]) != {False}
