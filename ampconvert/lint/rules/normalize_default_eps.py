"""AMP422: F.normalize and cosine_similarity with their own epsilons in float16."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_DEFAULTS = {"normalize": 1e-12, "cosine_similarity": 1e-8}
_AT = 3  # the position of eps in both


class NormalizeDefaultEps(Rule):
    """`F.normalize` and `cosine_similarity` have epsilons that are 0 in float16.

    `F.normalize` divides by `norm.clamp_min(1e-12)`, `cosine_similarity` takes 1e-8: float16 rounds
    both to 0, and a vector of zeros (padding, a dead unit) gives NaN where float32 gives 0.

    Under autocast on a GPU both compute in float32 and nothing is reported. In a float16 model and
    under autocast on a CPU they run in float16. bfloat16 holds both numbers.

    Sources: https://github.com/pytorch/pytorch/issues/32137
    and https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.normalize.html
    """

    CODE = "AMP422"
    NAME = "normalize-default-eps"
    SEVERITY = "info"
    ADVICE = "Give eps=1e-6 or more, or normalize in float32."
    DEFAULT = False
    FIX = "unsafe"
    FIX_SAFETY = "In float32 it changes the results for vectors whose norm is below 1e-6."
    JUDGED = Judged(true=60, read=60)
    WORDS = ((b"normalize", b"osine"),)
    NEEDS_MODE = True
    VALID = (
        Case("""\
import torch
import torch.nn.functional as F

def embed(model, x):
    with torch.autocast("cuda", dtype=torch.float16):
        return F.normalize(model(x), dim=-1)
"""),
        Case("""\
import torch.nn.functional as F

def embed(model, x):
    return F.normalize(model.half()(x.half()).float(), dim=-1)
"""),
        Case("""\
import torch
from torch.nn.functional import cosine_similarity
from torchvision.transforms.functional import normalize

def compare(a, b):
    a, b = a.bfloat16(), b.bfloat16()
    return cosine_similarity(normalize(a, 0.5, 0.5), b)
"""),
    )
    INVALID = (
        Case(
            """\
import torch.nn.functional as F

def embed(model, x):
    return F.normalize(model.half()(x.half()), dim=-1)  # AMP422
""",
            """\
import torch.nn.functional as F

def embed(model, x):
    return F.normalize(model.half()(x.half()), dim=-1, eps=1e-6)  # AMP422
""",
        ),
        Case(
            """\
import torch
from torch import nn
from torch.nn.functional import cosine_similarity as cosine

class Match(nn.Module):
    def __init__(self):
        super().__init__()
        self.similarity = nn.CosineSimilarity(dim=1)

    def forward(self, a, b):
        return self.similarity(a, b) + cosine(a, b, dim=1)  # AMP422
""",
            """\
import torch
from torch import nn
from torch.nn.functional import cosine_similarity as cosine

class Match(nn.Module):
    def __init__(self):
        super().__init__()
        self.similarity = nn.CosineSimilarity(dim=1)

    def forward(self, a, b):
        return self.similarity(a, b) + cosine(a, b, dim=1, eps=1e-6)  # AMP422
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls that leave eps to its default, on what may be float16."""
        if "float16" not in source.modes.low_types:
            return
        for operation in source.operations.all(*_DEFAULTS):
            if operation.argument("eps", _AT) is not None:
                continue
            compared = 2 if operation.name == "cosine_similarity" else 1
            modes = source.running.modes(
                operation.node, *operation.operands[:compared], operator=operation.name
            )
            if modes:
                fix = None
                if operation.is_function(source) and isinstance(operation.node, ast.Call):
                    edit = source.edits.add_keyword(operation.node, "eps=1e-6")
                    fix = self.fix("give eps=1e-6", [edit], safe=False)
                yield self.finding(
                    source, operation.node,
                    f"{operation.name} in float16 {told(modes)}: its eps of "
                    f"{_DEFAULTS[operation.name]:g} is 0 there, and zeros give NaN",
                    fix,
                )  # fmt: skip
