"""AMP005: apex.amp."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ampconvert.findings import Finding
from ampconvert.lint import imports
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.source import Source

_GONE = ("apex.amp", "apex.fp16_utils")
_NATIVE = (
    "torch.amp.autocast",
    "torch.amp.GradScaler",
    "torch.cuda.amp.autocast",
    "torch.cuda.amp.GradScaler",
)
_INSTEAD = {
    "apex.amp.initialize": "needs nothing instead: parameters stay FP32 under torch.amp.autocast",
    "apex.amp.scale_loss": "becomes scaler.scale(loss).backward()",
    "apex.amp.master_params": "becomes model.parameters(), after scaler.unscale_(optimizer)",
    "apex.amp.state_dict": "becomes scaler.state_dict()",
    "apex.amp.load_state_dict": "becomes scaler.load_state_dict(...)",
    "apex.amp.disable_casts": "becomes torch.amp.autocast(..., enabled=False)",
    "apex.amp.float_function": "becomes torch.amp.autocast(..., enabled=False) in the function",
}


class ApexAmp(Rule):
    """`apex.amp` and `apex.fp16_utils` were removed from Apex in May 2025.

    `from apex import amp` raises ImportError with a newer Apex. Where the import stands in a `try`,
    the script goes on in FP32, or fails at the first use. PyTorch has had the same since 1.6.

    A file that also uses PyTorch's own autocast or GradScaler is left alone: it has a choice of
    both. So is one that only tries whether Apex is there. The rest of Apex (FusedAdam,
    FusedLayerNorm) is not meant.

    Sources: https://github.com/NVIDIA/apex/pull/1896
    and https://github.com/NVIDIA/apex/issues/818
    """

    CODE = "AMP005"
    NAME = "apex-amp"
    SEVERITY = "error"
    ADVICE = "Use torch.amp.autocast and torch.amp.GradScaler."
    WORDS = ((b"apex",), (b"amp", b"fp16_utils"))
    JUDGED = Judged(true=18, read=18)
    VALID = (
        Case("""\
from apex.optimizers import FusedAdam

optimizer = FusedAdam([])
amp = None
"""),
        Case("""\
import torch

try:
    from apex import amp
except ImportError:
    amp = None


def backward(loss, optimizer, scaler):
    if amp is not None:
        with amp.scale_loss(loss, optimizer) as scaled:
            scaled.backward()
    else:
        with torch.amp.autocast("cuda"):
            scaler.scale(loss).backward()
"""),
        Case("""\
try:
    from apex import amp

    has_apex = True
except ImportError:
    has_apex = False
"""),
        Case("""\
from mylib.apex import amp

model = amp.initialize(None)
"""),
    )
    INVALID = (
        Case("""\
from apex import amp


def train(model, optimizer, batches):
    model, optimizer = amp.initialize(model, optimizer, opt_level="O1")  # AMP005
    for x, y in batches:
        loss = model(x, y)
        with amp.scale_loss(loss, optimizer) as scaled:  # AMP005
            scaled.backward()
        optimizer.step()
"""),
        Case("""\
try:
    from apex import amp as apex_amp
except ImportError:
    apex_amp = None


class Focal:
    @apex_amp.float_function  # AMP005
    def __call__(self, x):
        return x

    def save(self):
        return {"amp": apex_amp.state_dict()}  # AMP005
"""),
        Case("""\
from apex.fp16_utils import FP16_Optimizer, network_to_half  # AMP005
"""),
        Case("""\
import apex.amp as amp

amp.register_half_function(None, "f")  # AMP005
"""),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Uses of the removed modules; their imports where nothing uses them."""
        brought = [
            (statement, alias)
            for statement, alias in source.names.imports(
                *_GONE, *(f"{module}.*" for module in _GONE)
            )
        ]
        is_dotted = any(alias.name == "apex" for s in source.nodes(ast.Import) for alias in s.names)
        if not (brought or is_dotted) or source.names.references(*_NATIVE):
            return
        guarded = bool(brought) and all(imports.is_guarded(source, alias) for _, alias in brought)
        used = False
        for node in self._uses(source):
            used = True
            name = min(source.names.all_of(node))
            instead = _INSTEAD.get(name)
            message = f"{name} was removed from Apex" + (f"; it {instead}" if instead else "")
            at = source.parents[node]
            where = at if isinstance(at, ast.Call) and at.func is node else node
            yield self.finding(source, where, message, severity="warning" if guarded else None)
        if not used and not guarded:
            for statement, _ in brought:
                yield self.finding(source, statement, "the module was removed from Apex")

    def _uses(self, source: Source) -> list[ast.expr]:
        """The outermost names below the modules: calls, decorators, base classes."""
        wanted = [f"{module}.*" for module in _GONE]
        nodes: list[ast.expr] = [*source.nodes(ast.Attribute, ast.Name)]
        found = [
            node
            for node in nodes
            if not isinstance(source.parents[node], ast.Attribute)
            and source.names.is_one(node, *wanted)
            and _is_used(source, node)
        ]
        return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def _is_used(source: Source, node: ast.expr) -> bool:
    above = source.parents[node]
    if isinstance(above, ast.Call):
        return above.func is node
    decorated = isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    return decorated and isinstance(getattr(node, "ctx", None), ast.Load)
