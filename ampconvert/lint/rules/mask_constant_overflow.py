"""AMP401: a mask constant beyond the low type."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ampconvert.findings import Finding, Fix
from ampconvert.lint.ranges import beyond, is_whole, largest
from ampconvert.lint.rule import Case, Judged, Rule
from ampconvert.lint.running import told
from ampconvert.lint.settings import Settings
from ampconvert.lint.source import Source

_LOW = ("float16", "bfloat16")
# Operator -> position of the tensor whose type decides, and of the constant; those that raise.
_RAISING = {"masked_fill": (0, 2), "masked_fill_": (0, 2), "full_like": (0, 1), "new_full": (0, 2)}


@dataclass(frozen=True, eq=False)
class _Use:
    """`value` becomes an element of `tensor`, or a factor of it. `raises`: torch checks that it
    fits. `known`: only a tensor that is sure to be low counts.
    """

    node: ast.AST
    at: ast.expr
    tensor: ast.expr
    value: ast.expr
    how: str
    raises: bool
    surely: bool = True
    known: bool = False


class MaskConstantOverflow(Rule):
    """A mask constant such as -1e9 is beyond the largest float16, 65504.

    `scores.masked_fill(mask, -1e9)` raises "value cannot be converted to type c10::Half without
    overflow" as soon as the scores are float16, and so do `torch.full_like(scores, -1e9)` and
    `scores.new_full(size, -1e9)`. `torch.where(mask, scores, -1e9)`, `scores[mask] = -1e9` and
    `scores + mask * -1e9` give -inf without a word, and softmax makes NaN of a row that is masked
    everywhere: they are reported where the scores go to softmax. bfloat16 holds 1e9, but not
    `torch.finfo(torch.float32).min`.

    Tensors that are float32, integer or boolean are not reported: after `.float()`, with
    `dtype=torch.float32`, and under autocast on a GPU what comes from softmax, sum, log and their
    like. Scores that another file computes count as float16 where this file shows autocast or
    float16. `mask * -1e9` is reported only if the mask is sure to be half: it is mostly float32,
    and makes float32 of the scores.

    Sources: https://github.com/NVIDIA/apex/issues/1105 and https://github.com/huggingface/transformers/pull/17306
    """

    CODE = "AMP401"
    NAME = "mask-constant-overflow"
    SEVERITY = "error"
    ADVICE = "Take the lowest number of the tensor's own type: torch.finfo(scores.dtype).min."
    FIX = "unsafe"
    FIX_SAFETY = "In float32 the masked elements become -3.4e38 instead of the constant."
    WORDS = ((b"masked_fill", b"where", b"]", b"full_like", b"new_full"), (b"torch",))
    NEEDS_MODE = True
    JUDGED = Judged(true=3, read=3)
    VALID = (
        Case("""\
import torch

def attention(q, k, mask):
    scores = q @ k.transpose(-2, -1)
    scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)
    scores = scores.masked_fill(mask, float("-inf"))
    return torch.where(mask, scores, -1e4).softmax(-1)

with torch.autocast("cuda"):
    attention(q, k, mask)
"""),
        Case("""\
import torch

def scores(q, k, mask, labels):
    with torch.autocast("cuda", dtype=torch.float16):
        weights = torch.softmax(q @ k, -1).masked_fill(mask, -1e9)
        full = (q @ k).float().masked_fill(mask, -1e9)
    labels = torch.zeros(8, dtype=torch.long).masked_fill(mask, -1000000)
    return weights, full, labels
"""),
        Case("""\
import torch

def scores(q, k, mask, fp16=False):
    fill = -1e4 if fp16 else -1e9
    with torch.autocast("cuda"):
        return (q @ k).masked_fill(mask, fill)
"""),
        Case("""\
import torch

def scores(q, k, mask):
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return (q @ k).masked_fill(mask, -1e9)

table = {}
table["limit"] = 1e9
"""),
        Case("""\
import torch

def unknown_words(tokenizer, text, device, mask):
    with torch.autocast("cuda"):
        words = tokenizer(text).input_ids.to(device)
        words[mask] = 128000
        near, far = torch.meshgrid(torch.arange(4.0), torch.arange(4.0))
        return words, near.masked_fill(mask, 1e8)
"""),
        Case("""\
import torch

def pooled(tokens, mask, w):
    with torch.autocast("cuda"):
        tokens = tokens @ w
        biased = tokens + (1.0 - mask.float()) * -1e9
        tokens = tokens * 2
        tokens[mask] = -1e9
        return tokens.max(1).values, biased.softmax(-1)
"""),
        Case("""\
import torch

def scores(q, k, mask):
    return (q @ k).masked_fill(mask, -1e9)
"""),
        Case("""\
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor

class Ban(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores.masked_fill(self.banned, -1e9)

model = AutoModelForCausalLM.from_pretrained("gpt2", torch_dtype=torch.float16)
"""),
    )
    INVALID = (
        Case(
            """\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

NEGATIVE = -1e9

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.fill = -(2**31)

    def forward(self, q, k, mask):
        scores = th.matmul(q, k.transpose(-2, -1))
        scores = scores.masked_fill(mask == 0, NEGATIVE)  # AMP401
        for head in range(2):
            scores[mask[:, head]] = self.fill  # AMP401
        return scores.softmax(-1)

with ac():
    Attention()(q, k, mask)
""",
            """\
import torch as th
from torch import nn
from torch.cuda.amp import autocast as ac

NEGATIVE = -1e9

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.fill = -(2**31)

    def forward(self, q, k, mask):
        scores = th.matmul(q, k.transpose(-2, -1))
        scores = scores.masked_fill(mask == 0, th.finfo(scores.dtype).min)  # AMP401
        for head in range(2):
            scores[mask[:, head]] = th.finfo(scores.dtype).min  # AMP401
        return scores.softmax(-1)

with ac():
    Attention()(q, k, mask)
""",
        ),
        Case(
            """\
import torch
from torch import where

def masked(scores, mask, value=-1e9):
    scores = where(mask, scores, torch.tensor(value))  # AMP401
    scores += mask.to(torch.float16) * value  # AMP401
    lowest = torch.full_like(scores, fill_value=value)  # AMP401
    return (scores + lowest).softmax(-1)

def run(q, k, mask):
    q, k = q.half(), k.half()
    return masked(torch.bmm(q, k), mask)
""",
            """\
import torch
from torch import where

def masked(scores, mask, value=-1e9):
    scores = where(mask, scores, torch.finfo(scores.dtype).min)  # AMP401
    scores += mask.to(torch.float16) * value  # AMP401
    lowest = torch.full_like(scores, fill_value=torch.finfo(scores.dtype).min)  # AMP401
    return (scores + lowest).softmax(-1)

def run(q, k, mask):
    q, k = q.half(), k.half()
    return masked(torch.bmm(q, k), mask)
""",
        ),
        Case(
            """\
import torch

def scores(q, k, mask):
    lowest = torch.finfo(torch.float32).min
    with torch.autocast("cuda", dtype=torch.bfloat16):
        return (q @ k).masked_fill(mask, lowest)  # AMP401
""",
        ),
        Case(
            """\
import torch

def farthest(distance, mask):
    return distance.masked_fill_(mask, 1e6)  # AMP401
""",
            """\
import torch

def farthest(distance, mask):
    return distance.masked_fill_(mask, torch.finfo(distance.dtype).max)  # AMP401
""",
            settings=Settings(assume=frozenset({"half"})),
        ),
    )

    def check(self, source: Source) -> Iterator[Finding]:
        """Fills, selections and assignments whose constant the tensor's type can't hold."""
        if not source.modes.low_types:
            return
        scores = _Scores(source)
        for use in _uses(source):
            for low in _LOW:
                number = beyond(source, use.value, low)
                if number is None or not (use.raises or scores.hold(use)):
                    continue
                if _is_generation(source, use.node):
                    continue
                modes = source.running.modes(use.at, use.tensor, low=low, surely=use.surely)
                if use.known or not _is_mask(source, use, number):
                    sure = source.running.surely(use.at, use.tensor) if modes else []
                    modes = [mode for mode in modes if mode in sure]
                if modes:
                    outcome = "raises" if use.raises else f"gives {'-' if number < 0 else ''}inf"
                    yield self.finding(
                        source, use.node,
                        f"{number:g} is beyond {low}'s largest number, {largest(low):g}: "
                        f"{use.how} {outcome} {told(modes)}",
                        self._limited(source, use, number),
                        "error" if use.raises else "warning",
                    )  # fmt: skip
                    break

    def _limited(self, source: Source, use: _Use, number: float) -> Fix | None:
        if not _is_plain(use.tensor):
            return None
        finfo, imports = source.edits.spelled("torch.finfo", use.at)
        which = "min" if number < 0 else "max"
        text = f"{finfo}({source.segment(use.tensor)}.dtype).{which}"
        edit = source.edits.replace(use.value, text)
        return self.fix(f"take torch.finfo(...).{which}", [*imports, edit], safe=False)


def _uses(source: Source) -> Iterator[_Use]:
    for found in source.operations.all(*_RAISING):
        tensor, position = _RAISING[found.name]
        name = "value" if found.name.startswith("masked_fill") else "fill_value"
        value = found.argument(name, position)
        if value is not None and "dtype" not in found.keywords:
            yield _Use(found.node, found.node, found.operands[tensor], value, found.name, True)
    for found in source.operations.all("where"):
        if len(found.operands) == 3:
            _, one, other = found.operands
            yield _Use(found.node, found.node, one, other, "where", False)
            yield _Use(found.node, found.node, other, one, "where", False)
    for assigned in source.nodes(ast.Assign):
        target = assigned.targets[0]
        if isinstance(target, ast.Subscript):
            yield _Use(
                assigned, target, target.value, assigned.value, "the assignment", False, False
            )
    for product in source.nodes(ast.BinOp):
        if isinstance(product.op, ast.Mult):
            for mask, value in ((product.left, product.right), (product.right, product.left)):
                if source.values.numbers(value):
                    yield _Use(product, product, mask, value, "the product", False, known=True)


def _is_mask(source: Source, use: _Use, number: float) -> bool:
    """Whether the constant alone says that the tensor holds scores: labels, sizes and distances are
    whole or positive.
    """
    if use.raises:
        return number < 0 or not is_whole(source, use.value)
    return number < 0 and not is_whole(source, use.value)


class _Scores:
    """What goes to softmax in this file, through names, views, sums and products."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def hold(self, use: _Use) -> bool:
        """Whether the tensor that a silent use makes or changes is among it."""
        if not isinstance(use.node, ast.Assign):
            return use.node in self._reached
        bindings = self._source.scopes.bindings
        names = [node for node in ast.walk(use.tensor) if isinstance(node, ast.Name)]
        return any(binding.node in self._reached for name in names for binding in bindings(name))

    @cached_property
    def _reached(self) -> set[ast.AST]:
        source = self._source
        seen: set[ast.expr] = set()
        bound: set[ast.AST] = set()
        left = [one.operand for one in source.operations.all("softmax", "log_softmax", "softmin")]
        while left:
            expression = left.pop()
            if expression in seen:
                continue
            seen.add(expression)
            left += [value for value in source.values.of(expression) if value is not expression]
            operation = source.operations.of(expression)
            if operation is not None:
                left += operation.operands
            elif isinstance(expression, ast.Name):
                for binding in source.scopes.bindings(expression):
                    bound.add(binding.node)
                    above = source.parents[binding.node]
                    if isinstance(above, ast.AugAssign):  # scores += mask
                        left += [above.target, above.value]
            elif isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
                left.append(expression.func.value)
            elif isinstance(expression, ast.Subscript):
                left.append(expression.value)
        return seen | bound


def _is_generation(source: Source, node: ast.AST) -> bool:
    """Whether a logits processor of transformers holds it, which gets its scores in float32."""
    owner = source.class_of(node)
    bases = [b for one in source.values.lineage(owner) for b in one.bases] if owner else []
    names = {name for base in bases for name in source.names.all_of(base)}
    return any(
        name.startswith("transformers.") and name.endswith(("LogitsProcessor", "LogitsWarper"))
        for name in names
    )


def _is_plain(expression: ast.expr) -> bool:
    """Whether it may be written twice: a name or an attribute of one."""
    while isinstance(expression, ast.Attribute):
        expression = expression.value
    return isinstance(expression, ast.Name)
