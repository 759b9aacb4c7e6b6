"""`ampconvert verify`: how far one model's answers are from another's."""

from __future__ import annotations

from argparse import Namespace

from ampconvert.commands.outcome import DONE, FAILED, Outcome
from ampconvert.report.progress import StageLine


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Compare `options.candidate` with `options.reference`; code 1 when parity failed."""
    from ampconvert.report import jsonable, parity
    from ampconvert.verification import verify_models

    found = verify_models(
        options.reference,
        options.candidate,
        model=options.model,
        candidate_model=options.candidate_model,
        weights=options.weights,
        candidate_weights=options.candidate_weights,
        specs=options.input,
        npz=options.inputs,
        data=options.data,
        seed=options.seed,
        tolerance=options.tolerance,
        progress=progress,
    )
    return Outcome(
        DONE if found.verification.ok else FAILED,
        lambda: parity.comparison_page(found),
        lambda: jsonable.comparison(found),
    )
