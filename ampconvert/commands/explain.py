"""`ampconvert explain`: why each op of a part of the model is what it is."""

from __future__ import annotations

from argparse import Namespace

from ampconvert.commands.analyze import analysed
from ampconvert.commands.outcome import DONE, Outcome
from ampconvert.errors import UserError
from ampconvert.report.progress import StageLine


def run(options: Namespace, progress: StageLine) -> Outcome:
    """Explain the nodes that `options.parts` name; UserError with near names where nothing is."""
    subject, found = analysed(options, progress)

    from ampconvert.report import explanation, jsonable

    for pattern in options.parts:
        if not explanation.find_nodes(found.graph.nodes, [pattern]):
            near = explanation.near_names(found.graph.nodes, pattern)
            raise UserError(
                f"no module or op of {subject.name} is named {pattern!r}; "
                f"there are {', '.join(near)} and others"
            )
    nodes = explanation.find_nodes(found.graph.nodes, options.parts)
    return Outcome(
        DONE,
        lambda: explanation.explanation_page(subject, found, nodes),
        lambda: jsonable.explanation(subject, found, options.parts, nodes),
    )
