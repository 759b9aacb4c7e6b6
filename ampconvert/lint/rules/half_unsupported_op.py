"""AMP307: an operator that has no kernel for half tensors."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint.patterns import operator
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Mode, Settings
from ampconvert.lint.source import Source

# Neither float16 nor bfloat16, on a CPU nor on a GPU.
_LINALG = (
    "cholesky", "cholesky_ex", "cond", "det", "eig", "eigh", "eigvals", "eigvalsh", "inv", "inv_ex",
    "lstsq", "lu", "lu_factor", "matrix_rank", "pinv", "qr", "slogdet", "solve", "solve_ex",
    "solve_triangular", "svd", "svdvals", "tensorinv",
)  # fmt: skip
_METHODS = (
    "cholesky", "cholesky_inverse", "cholesky_solve", "det", "geqrf", "inverse", "logdet",
    "nanquantile", "pinverse", "qr", "quantile", "slogdet", "svd",
)  # fmt: skip
_FUNCTIONS = (*_METHODS, "lobpcg", "pca_lowrank", "polar", "svd_lowrank", "triangular_solve",
              "cdist", "pdist")  # fmt: skip
_FFT = (
    "fft", "fft2", "fftn", "hfft", "ifft", "ifft2", "ifftn", "ihfft", "irfft", "irfft2", "irfftn",
    "rfft", "rfft2", "rfftn",
)  # fmt: skip
_NAMES = (
    *(f"torch.linalg.{name}" for name in _LINALG), *(f"torch.{name}" for name in _FUNCTIONS),
    *(f"torch.fft.{name}" for name in _FFT), "torch.stft", "torch.nn.functional.ctc_loss",
    "torch.nn.functional.pdist",
)  # fmt: skip
# Operators whose first operands are all tensors of one type.
_TWO = frozenset({"linalg_solve", "linalg_lstsq", "linalg_solve_triangular", "polar", "cdist",
                  "cholesky_solve", "triangular_solve"})  # fmt: skip


class HalfUnsupportedOp(Rule):
    """An operator that takes float32 and float64 only gets a half tensor, and raises.

    Matrix decompositions, inverses, determinants and solvers (`torch.linalg.inv`, `svd`, `eigh`,
    `qr`, `cholesky`, `solve`), `quantile`, `polar`, `ctc_loss` and, without autocast, `cdist` have
    no kernel for float16 or bfloat16: "Low precision dtypes not supported", or "not implemented for
    'Half'". FFTs take no half tensor on a CPU, and on a GPU only float16 of sizes that are powers
    of two. Autocast on a GPU doesn't cast for them, autocast on a CPU casts for most.

    Found where the tensor is sure to be half: after a cast, or from a layer or a matrix product
    under autocast. What comes from another file is not known and not reported.

    Under `--assume-amp` it is often wrong about tensors that another file has cast to float32.

    Sources: https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference and https://docs.pytorch.org/docs/stable/generated/torch.fft.fft.html
    """

    CODE = "AMP307"
    NAME = "half-unsupported-op"
    SEVERITY = "error"
    ADVICE = "Cast the tensor to float32 for this operator: x.float()."
    FIX = "unsafe"
    FIX_SAFETY = "It casts to float32, and the result is float32 from there on."
    WORDS = (
        (b"linalg", b"inverse", b"svd", b"qr", b"cholesky", b"det", b"quantile", b"polar", b"fft",
         b"ctc_loss", b"lowrank", b"cdist", b"pdist", b"lobpcg", b"triangular_solve"),
        (b"torch",),
    )  # fmt: skip
    NEEDS_MODE = True
    JUDGED = Judged(true=2, read=2)
    VALID = (
        Case("""\
import torch

def whiten(x, w):
    with torch.autocast("cuda"):
        y = x @ w
        cov = (y.transpose(0, 1) @ y).float()
        distance = torch.cdist(y, y)
    return torch.linalg.eigh(cov), distance, torch.quantile(y.softmax(-1), 0.5)
"""),
        Case("""\
import torch

with torch.autocast("cpu", dtype=torch.bfloat16):
    y = torch.linalg.inv(x @ w)

class Solver:
    def solve(self, a):
        return a.half().svd_free()
"""),
        Case("""\
import torch
from mylib import linalg

def spectrum(x):
    return torch.fft.rfft(x), linalg.inv(x.half())

spectrum(torch.zeros(8, dtype=torch.float32))
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch.cuda.amp import autocast as ac
from torch import nn

class Whiten(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 8)

    @ac()
    def forward(self, x):
        y = self.project(x)
        cov = y.transpose(0, 1) @ y
        for _ in range(2):
            values, vectors = th.linalg.eigh(cov)  # AMP307
        return th.linalg.solve(cov + 1, x.float()), cov.inverse()  # AMP307
""",
            """\
import torch as th
from torch.cuda.amp import autocast as ac
from torch import nn

class Whiten(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(8, 8)

    @ac()
    def forward(self, x):
        y = self.project(x)
        cov = y.transpose(0, 1) @ y
        for _ in range(2):
            values, vectors = th.linalg.eigh(cov.float())  # AMP307
        return th.linalg.solve((cov + 1).float(), x.float()), cov.float().inverse()  # AMP307
""",
        ),
        Case(
            """\
import torch
from torch.fft import rfft

def low(x):
    return x.half()

def spectrum(x):
    x = low(x)
    clipped = x.clamp(max=torch.quantile(x, 0.9))  # AMP307
    return rfft(clipped, dim=-1)  # AMP307
""",
            """\
import torch
from torch.fft import rfft

def low(x):
    return x.half()

def spectrum(x):
    x = low(x)
    clipped = x.clamp(max=torch.quantile(x.float(), 0.9))  # AMP307
    return rfft(clipped.float(), dim=-1)  # AMP307
""",
        ),
        Case(
            """\
import torch

def rotate(angle, w):
    return torch.polar(torch.ones(8), angle @ w)  # AMP307
""",
            """\
import torch

def rotate(angle, w):
    return torch.polar(torch.ones(8), (angle @ w).float())  # AMP307
""",
            settings=Settings(assume=frozenset({"cuda-autocast"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Calls of these operators with a tensor that is low in some mode."""
        if not source.modes.low_types:
            return
        for call, name, tensors in _calls(source):
            found = {one: source.running.surely(call, one, name) for one in tensors}
            low = [tensor for tensor, modes in found.items() if modes]
            if low:
                modes = [mode for modes in found.values() for mode in modes]
                yield self._found(source, call, name, low, modes)

    def _found(
        self, source: Source, call: ast.Call, name: str, low: list[ast.expr], modes: list[Mode]
    ) -> Finding:
        spelled = name.replace("linalg_", "linalg.").replace("fft_", "fft.")
        problem = "takes no half tensor, and gets one"
        if name.startswith("fft_") or name == "stft":
            problem = "takes a half tensor only on a GPU in sizes that are powers of two"
        edits = [source.edits.method(tensor, ".float()") for tensor in low]
        return self.finding(
            source, call, f"{spelled} {problem} {told(modes)}",
            self.fix("cast to float32", edits, safe=False),
        )  # fmt: skip


def _calls(source: Source) -> Iterator[tuple[ast.Call, str, list[ast.expr]]]:
    """The calls, the operator as autocast's lists name it, and the tensors that it gets."""
    for call in source.names.calls(*_NAMES):
        dotted = source.names.of(call.func)
        tensors = [a for a in call.args if not isinstance(a, ast.Starred)]
        tensors += [k.value for k in call.keywords if k.arg in ("input", "A", "B")]
        name = operator(dotted)
        if name and tensors:
            yield call, name, tensors[: 2 if name in _TWO else 1]
    for call in source.names.methods(*_METHODS, "stft"):
        assert isinstance(call.func, ast.Attribute)
        if not source.names.all_of(call.func):
            yield call, call.func.attr, [call.func.value]
