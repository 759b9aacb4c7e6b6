"""Rewrites a Keras training script: a mixed policy, float32 outputs, loss scaling where needed."""

from __future__ import annotations

from ampconvert.errors import UserError
from ampconvert.lint.catalogue import selected
from ampconvert.lint.engine import UNREADABLE, check, parses
from ampconvert.lint.rewrite.keras_draft import Draft
from ampconvert.lint.rewrite.keras_float32 import Float32
from ampconvert.lint.rewrite.keras_loops import Loops
from ampconvert.lint.rewrite.keras_losses import Losses
from ampconvert.lint.rewrite.keras_outputs import Outputs
from ampconvert.lint.rewrite.keras_removals import OLD_POLICIES, POLICIES, Removals, policy_names
from ampconvert.lint.rewrite.keras_script import KerasScript, Low
from ampconvert.lint.rewrite.keras_top import Top
from ampconvert.lint.rewrite.result import Rewritten
from ampconvert.lint.source import Source

_MIXED = ("mixed_float16", "mixed_bfloat16")


def rewrite_keras(text: str, path: str = "<stdin>", *, dtype: Low = "float16") -> Rewritten:
    """`text`, the Keras script `path`, rewritten to train in `dtype`.

    A script that sets a mixed policy already, or builds no layers, comes back as it is, with a
    note. UserError, with the line, the reason and what to do, where it can't be done right.

    What can't be seen in the script: features above 65504 that go into a layer as they are, layers
    and losses of other files, and who else reads what the model gives.
    """
    try:
        source = Source(text, path)
    except UNREADABLE as error:
        line = getattr(error, "lineno", None)
        place = f"{path}:{line}" if line else path
        raise UserError(f"{place}: this is no Python that can be parsed: {error}") from error
    script = KerasScript(source, dtype)
    note = _nothing_to_do(script)
    if note:
        return Rewritten(text, (), (note,))
    draft = Draft(source)
    _plan(script, draft)
    return _checked(draft.made(), path)


def is_keras(source: Source) -> bool:
    """Whether a script builds layers or models of Keras, whatever runs them."""
    script = KerasScript(source, "float16")
    return bool(script.layers or script.models)


def _nothing_to_do(script: KerasScript) -> str:
    """Why a script stays as it is, or ""."""
    names = script.source.names
    for call in names.calls(*POLICIES):
        known = policy_names(script, call)
        if not known or known & {*_MIXED}:
            return (
                f"line {call.lineno}: this script sets a policy for mixed precision already, and "
                "stays as it is; `ampconvert lint` checks how"
            )
    built = [call for call in script.models if script.kind(call) not in ("loaded", "clone")]
    if script.layers or built:
        return ""
    for call in script.models:
        return (
            f"line {call.lineno}: this script builds no layers: a loaded model keeps the policy "
            "that it was saved with, so rewrite the script that made it"
        )
    raise script.refuse(
        None, "no layer or model of Keras is made in this script",
        "give the script that builds the model",
    )  # fmt: skip


def _plan(script: KerasScript, draft: Draft) -> None:
    """Decide all changes. Raises UserError where that can't be done right."""
    top = Top(script, draft)
    outputs = Outputs(script)
    Removals(script, top, draft).plan()
    Losses(script, outputs, draft).plan()
    Float32(script, outputs, top, draft).plan()
    loops = Loops(script, top, draft)
    if script.dtype == "float16":
        loops.plan()
    else:
        loops.plan_unscaled()
    top.write()
    loaded = [str(call.lineno) for call in script.models if script.kind(call) == "loaded"]
    if loaded:
        lines = f"line {loaded[0]}" if len(loaded) == 1 else f"lines {', '.join(loaded)}"
        draft.note(f"{lines}: a loaded model keeps the policy that it was saved with")
    raising = script.source.names.calls(*OLD_POLICIES)
    if raising:
        draft.note(
            f"line {raising[0].lineno}: the original raises in Keras 3 (TensorFlow 2.16 and "
            "later), so there is nothing to compare the rewritten script with there"
        )


def _checked(made: Rewritten, path: str) -> Rewritten:
    """`made`, with what lint still says of it as notes. Raises UserError if it doesn't parse, or
    would be rewritten again.
    """
    if not parses(made.text):
        raise UserError(
            f"{path}: the rewritten script would not parse; nothing was changed, please report "
            "this script"
        )
    again = KerasScript(Source(made.text, path), "float16")
    if not _nothing_to_do(again):
        raise UserError(
            f"{path}: the rewritten script would be rewritten again; nothing was changed, please "
            "report this script"
        )
    found = check(made.text, selected(["AMP5"], extend=()), path)
    notes = [
        f"line {f.where.line} of the result: {f.code} {f.message}"
        for f in found if f.severity != "info"
    ]  # fmt: skip
    return Rewritten(made.text, made.steps, (*made.notes, *notes))


__all__ = ["is_keras", "rewrite_keras"]
