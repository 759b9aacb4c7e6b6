"""AMP405: the logarithm of a softmax or sigmoid that is rounded in between."""

from __future__ import annotations

from collections.abc import Iterator

from ampconvert.findings import Finding, Fix
from ampconvert.lint.modes import LOW
from ampconvert.lint.patterns import Operation
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Mode, Settings
from ampconvert.lint.source import Source

_BETTER = {"softmax": "log_softmax", "sigmoid": "logsigmoid"}
_LOST = {
    "softmax": "below 3e-8 are 0 and their logarithm is -inf",
    "sigmoid": "below 3e-8 are 0, above 0.9998 they are 1: the logarithm is -inf or 0",
}


class LogOfSoftmax(Rule):
    """The logarithm of a softmax or sigmoid loses what rounding the probability to 16 bits lost.

    float16 has no probability below 3e-8: `log(softmax([0, -20]))` is [0, -inf], where
    `log_softmax` gives [0, -20]. From a logit of 8.5 on, `sigmoid` is 1, and its logarithm 0.
    bfloat16 keeps probabilities to 8 bits, so log-probabilities near 0 are off by 0.004.

    Under autocast on a GPU softmax and log run in float32, sigmoid doesn't: only the sigmoid is
    reported there. An epsilon inside (`log(p + 1e-8)`) keeps inf away at best. What a clamp bounds
    is not reported, and neither are probabilities that come from another file.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.log_softmax.html
    """

    CODE = "AMP405"
    NAME = "log-of-softmax"
    ADVICE = "Call log_softmax or logsigmoid on the logits; they never form the probability."
    FIX = "unsafe"
    FIX_SAFETY = (
        "It is more exact in float32 too, which changes results: -inf becomes a number, and an "
        "epsilon inside the logarithm goes."
    )
    JUDGED = Judged(true=10, read=10)
    WORDS = ((b"softmax", b"Softmax", b"sigmoid", b"Sigmoid", b"expit"), (b"log",))
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch

def entropy(model, x):
    with torch.autocast("cuda", dtype=torch.float16):
        p = torch.softmax(model(x), dim=-1)
    return -(p * torch.log(p)).sum(-1)
"""),
        Case("""\
import torch
import torch.nn.functional as F

def log_probabilities(model, x):
    logits = model.half()(x.half())
    return F.log_softmax(logits, dim=-1) + torch.log(F.softmax(logits.float(), dim=-1))
"""),
        Case("""\
import math
import torch

def report(model, x):
    model.half()
    p = model(x).softmax(-1).max().item()
    return math.log(p)
"""),
        Case("""\
import torch

def loss(logits):
    with torch.autocast("cuda"):
        p = torch.sigmoid(logits).clamp(1e-3, 1 - 1e-3)
        return -torch.log(p).mean()
"""),
    )
    INVALID = (
        Case(
            """\
import torch
import torch.nn.functional as F

def nll(model, x, target):
    logits = model.half()(x.half())
    return F.nll_loss(torch.log(F.softmax(logits, dim=-1)), target)  # AMP405
""",
            """\
import torch
import torch.nn.functional as F

def nll(model, x, target):
    logits = model.half()(x.half())
    return F.nll_loss(F.log_softmax(logits, dim=-1), target)  # AMP405
""",
        ),
        Case("""\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(8, 1)
        self.sigmoid = nn.Sigmoid()

    def probability(self, x):
        return self.sigmoid(self.score(x))

    @ac()
    def forward(self, real, fake):
        good = self.probability(real)
        bad = th.log(1 - self.probability(fake))  # AMP405
        return -(good.log() + bad).mean()  # AMP405
"""),
        Case(
            """\
import torch

def losses(x, y):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (
            x.softmax(dim=1).log(),  # AMP405
            torch.log(torch.sigmoid(y) + 1e-6),  # AMP405
            (1.0 - torch.sigmoid(y)).log(),  # AMP405
        )
""",
            """\
import torch

def losses(x, y):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (
            x.log_softmax(dim=1),  # AMP405
            torch.nn.functional.logsigmoid(y),  # AMP405
            torch.nn.functional.logsigmoid(-y),  # AMP405
        )
""",
        ),
        Case(
            """\
from torch.nn.functional import softmax

def log_probabilities(x):
    return softmax(x, dim=-1).log()  # AMP405
""",
            """\
import torch
from torch.nn.functional import softmax

def log_probabilities(x):
    return torch.nn.functional.log_softmax(x, dim=-1)  # AMP405
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Logarithms of softmax and sigmoid, through names, `1 - p` and `p + eps`."""
        if not source.modes.low_types:
            return
        for logarithm in source.operations.all("log"):
            inner, complement = _probability(source, logarithm)
            if inner is None:
                continue
            low = "float16" if "float16" in source.modes.low_types else "bfloat16"
            modes: list[Mode] = []
            for low in sorted(LOW, reverse=True):
                modes = source.running.modes(
                    logarithm.node, inner.operand, operator=inner.name, low=low
                )
                if modes:
                    break
            if modes:
                lost = _LOST[inner.name] if low == "float16" else "keep 8 bits"
                yield self.finding(
                    source, logarithm.node,
                    f"log of {inner.name} in {low} {told(modes)}: probabilities {lost}",
                    self._rewritten(source, logarithm, inner, complement),
                )  # fmt: skip

    def _rewritten(
        self, source: Source, logarithm: Operation, inner: Operation, complement: bool
    ) -> Fix | None:
        """log_softmax in place of both, where both stand in one expression."""
        if logarithm.node not in source.ancestors(inner.node) or len(logarithm.keywords) > 0:
            return None
        name = _BETTER[inner.name]
        if inner.name == "softmax":
            written = source.operations.renamed(inner, name)
        elif len(inner.operands) == 1 and not inner.keywords:
            spelled, imports = source.edits.spelled(f"torch.nn.functional.{name}", inner.node)
            sign = "-" if complement else ""
            logit = inner.operand
            text = source.edits.atom(logit) if complement else source.segment(logit)
            written = f"{spelled}({sign}{text})", imports
        else:
            written = None
        if written is None:
            return None
        edits = [*written[1], source.edits.rewritten(logarithm.node, written[0])]
        return self.fix(f"call {name}", edits, safe=False)


def _probability(source: Source, logarithm: Operation) -> tuple[Operation | None, bool]:
    """The softmax or sigmoid in `log(p)`, `log(p + eps)` or, of a sigmoid, `log(1 - p)`."""
    argument = logarithm.operand
    complement = False
    for _ in range(3):
        found = source.operations.behind(argument, *_BETTER)
        if found is not None:
            return (
                (found, complement) if found.name == "sigmoid" or not complement else (None, False)
            )
        outer = source.operations.behind(argument, "add", "sub")
        if outer is None or len(outer.operands) < 2:
            break
        a, b = outer.operands[:2]
        if outer.name == "add" and max(source.values.numbers(b), default=1.0) <= 1e-4:
            argument = a
        elif outer.name == "sub" and source.values.numbers(a) == {1.0}:
            argument, complement = b, True
        else:
            break
    return None, False
