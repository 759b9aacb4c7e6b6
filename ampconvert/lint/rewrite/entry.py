"""`rewrite`: which way a script is rewritten, and the checks of what came out."""

from __future__ import annotations

import ast
import difflib
from typing import Literal

from ampconvert.errors import UserError
from ampconvert.extras import need
from ampconvert.lint.catalogue import selected
from ampconvert.lint.engine import check, fix
from ampconvert.lint.rewrite import amp, prepared
from ampconvert.lint.rewrite.changes import Plan
from ampconvert.lint.rewrite.refusals import refuse, uses_amp
from ampconvert.lint.rewrite.result import Rewritten, Step
from ampconvert.lint.rewrite.script import Script
from ampconvert.lint.source import Source

Low = Literal["float16", "bfloat16"]
Style = Literal["amp", "ampconvert"]

# Which schedulers step in every iteration is decided in `stepping`, which sees more of the script.
_DECIDED = ("AMP211",)


def rewrite(
    text: str, path: str = "<stdin>", *, dtype: Low = "float16", style: Style = "amp"
) -> Rewritten:
    """`text`, the script `path`, rewritten to train in `dtype`.

    A script that does so already comes back as it is, with a note. UserError, with the line, the
    reason and what to do, where a correct rewrite can't be decided: there is no half-done one.
    """
    try:
        source = Source(text, path)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        place = f"{path}:{line}" if line else path
        raise UserError(f"{place}: this is no Python that can be parsed: {error}") from error
    if _is_keras(source):
        from ampconvert.lint.rewrite.keras import rewrite_keras

        return rewrite_keras(text, path, dtype=dtype)
    return _torch(source, dtype, style)


def _torch(source: Source, dtype: Low, style: Style) -> Rewritten:
    script = Script(source, dtype)
    used = uses_amp(script)
    if used is not None:
        line = getattr(used, "lineno", 1)
        note = (
            f"line {line}: this script uses mixed precision already, and stays as it is; "
            "`ampconvert lint` checks how"
        )
        return Rewritten(source.text, (), (note,))
    refuse(script, style)
    if style == "ampconvert":
        return _checked(source, prepared.plan(script))
    return _without_large_masks(source, _checked(source, amp.plan(script)))


def _checked(source: Source, plan: Plan) -> Rewritten:
    """The text after `plan`; a fault in it is an error here and not in the user's file."""
    need("rewriting", "rewrite")
    from ampconvert.lint.rewrite.apply import apply

    text = apply(source.text, plan.changes)
    try:
        ast.parse(text)
    except SyntaxError as error:
        raise UserError(
            f"{source.path}: the rewritten script would not parse at its line {error.lineno}; "
            "nothing was changed, please report this script"
        ) from error
    found = [
        f for f in check(text, selected(["AMP1", "AMP2"], _DECIDED), source.path)
        if f.severity != "info"
    ]  # fmt: skip
    if found:
        first = found[0]
        raise UserError(
            f"{source.path}: the rewritten script would have {first.code} at its line "
            f"{first.where.line} ({first.message}); nothing was changed, rewrite this part by hand"
        )
    steps = sorted(plan.steps, key=lambda step: step.line)
    notes = [*plan.notes, *_numeric(text, source.path)]
    return Rewritten(text, tuple(steps), tuple(notes))


def _without_large_masks(source: Source, done: Rewritten) -> Rewritten:
    """`masked_fill(mask, -1e9)` raises in float16: what AMP401 has a fix for is fixed."""
    fixed = fix(done.text, selected(["AMP401"]), source.path, unsafe=True)
    if not fixed.made:
        return done
    steps = [
        Step(
            _line_before(source.text, done.text, found.where.line),
            "a mask's constant from torch.finfo instead of a number",
            f"{found.message}; behind a softmax both give 0",
        )
        for found in fixed.made
    ]
    steps = sorted([*done.steps, *dict.fromkeys(steps)], key=lambda step: step.line)
    kept = [note for note in done.notes if ": AMP401 " not in note]
    return Rewritten(fixed.text, tuple(steps), tuple(kept))


def _line_before(before: str, after: str, line: int) -> int:
    """Which line of `before` has become that line of `after`."""
    old, new = before.splitlines(), after.splitlines()
    for a, b, size in difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks():
        if b <= line - 1 < b + size:
            return a + line - b
    return 1


def _numeric(text: str, path: str) -> list[str]:
    """What lint finds in the rewritten script that only a person can decide."""
    found = check(text, selected(["AMP3", "AMP4"], extend=()), path)
    return [
        f"line {f.where.line} of the result: {f.code} {f.message}"
        for f in found
        if f.severity != "info"
    ]


def _is_keras(source: Source) -> bool:
    """Whether a script is one of Keras or TensorFlow; beside torch, if it builds Keras models."""
    imports = source.names.imports
    if not imports("keras", "keras.*", "tensorflow", "tensorflow.*"):
        return False
    if not imports("torch", "torch.*"):
        return True
    from ampconvert.lint.rewrite.keras import is_keras

    return is_keras(source)


__all__ = ["Low", "Rewritten", "Step", "Style", "rewrite"]
