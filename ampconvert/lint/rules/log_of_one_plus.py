"""AMP423: log(1 + x), whose sum swallows a small x."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.modes import LOW
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source


class LogOfOnePlus(Rule):
    """`log(1 + x)` is 0 for every x below 0.00049 in float16, and below 0.0039 in bfloat16.

    1 is followed by 1.00098 in float16 and by 1.0078 in bfloat16: the sum rounds what lies
    between away. `torch.log1p` never forms it. Under autocast on a GPU the logarithm runs in
    float32, but the sum before it runs in the type of x.

    `log(1 + exp(x))` is AMP409's. A logarithm that only scales large counts loses nothing by it.

    Sources: https://docs.pytorch.org/docs/stable/generated/torch.log1p.html
    and https://github.com/meta-pytorch/torchfix
    """

    CODE = "AMP423"
    NAME = "log-of-one-plus"
    SEVERITY = "info"
    ADVICE = "Call torch.log1p(x)."
    DEFAULT = False
    FIX = "unsafe"
    FIX_SAFETY = "The same function, but more exact in float32 too."
    JUDGED = Judged(true=2, read=2)
    WORDS = ((b"log",),)
    NEEDS_MODE = True
    VALID = (
        Case("""\
import math
import torch

def scale(model, n):
    model.half()
    return torch.log1p(n.half()) * math.log(1 + 3)
"""),
        Case("""\
import torch

def compress(model, x):
    with torch.autocast("cuda", dtype=torch.float16):
        energy = model(x).norm(dim=-1)
        return torch.log(1 + energy)
"""),
        Case(
            """\
import torch

def soft(x, y):
    return torch.log(1 + torch.exp(x)) + torch.log(2 + y) + torch.log(1 + y.float())
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )
    INVALID = (
        Case(
            """\
import torch

def compress(x):
    x = x.half()
    return torch.log(1 + x) + (x.abs() + 1.0).log()  # AMP423
""",
            """\
import torch

def compress(x):
    x = x.half()
    return torch.log1p(x) + torch.log1p(x.abs())  # AMP423
""",
        ),
        Case(
            """\
import torch as th
from torch.cuda.amp import autocast as ac

@ac(dtype=th.bfloat16)
def compress(model, x):
    shifted = 1 + th.relu(model(x))
    return th.log(shifted)  # AMP423
""",
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Logarithms of a sum with 1."""
        if not source.modes.low_types:
            return
        for logarithm in source.operations.all("log"):
            total = source.operations.behind(logarithm.operand, "add")
            if total is None or len(total.operands) < 2:
                continue
            a, b = total.operands[:2]
            x = b if source.values.numbers(a) == {1.0} else a
            one = a if x is b else b
            if source.values.numbers(one) != {1.0} or source.values.numbers(x):
                continue
            if source.operations.behind(x, "exp", "floor", "ceil", "round") is not None:
                continue
            modes = {mode for low in LOW for mode in source.running.modes(total.node, x, low=low)}
            if modes:
                fix = None
                if logarithm.node in source.ancestors(total.node):
                    spelled, imports = source.edits.spelled("torch.log1p", logarithm.node)
                    text = f"{spelled}({source.segment(x)})"
                    edits = [*imports, source.edits.rewritten(logarithm.node, text)]
                    fix = self.fix("call torch.log1p", edits, safe=False)
                yield self.finding(
                    source, logarithm.node,
                    f"log(1 + x) in 16 bits {told(modes)}: 1 + x is 1 for a small x", fix,
                )  # fmt: skip
