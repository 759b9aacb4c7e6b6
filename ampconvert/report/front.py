"""The page of `--pareto`: predicted time against error, as a table and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from ampconvert.report import model_data
from ampconvert.report.jsonable import head
from ampconvert.report.layout import BLANK, QUIET, bullets, indented, table
from ampconvert.report.subject import Subject
from ampconvert.report.terminal import title
from ampconvert.report.words import duration, figure, plural, type_name

if TYPE_CHECKING:
    from ampconvert.conversion import Pareto, Tried

WIDTH, HEIGHT = 72, 16  # of the plot, in characters
DEFAULT = 0  # the number of the plan that the verdicts alone give


def front_page(subject: Subject, found: Pareto, seconds: float) -> RenderableType:
    """What `ampconvert MODEL --pareto` prints."""
    low = type_name(found.analysis.low)
    rows = numbered(found)
    return Group(
        *title(subject, found.analysis, "from FP32 to"),
        BLANK,
        _table(found, rows, low),
        BLANK,
        indented(Text(plot(rows))),
        BLANK,
        bullets(_remarks(found, low)),
        BLANK,
        Text(_took(found, seconds), style=QUIET),
    )


def front_data(subject: Subject, found: Pareto, seconds: float) -> Mapping[str, Any]:
    """What `ampconvert MODEL --pareto --json` prints."""
    return {
        **head("pareto", subject, found.analysis),
        "nodes": model_data.nodes(found.analysis),
        "casts": model_data.casts(found.analysis),
        "front": model_data.measured_front(found),
        "seconds_full": found.seconds_full,
        "points": [
            {
                "point": number,
                "seconds": tried.point.seconds,
                "full_ops": tried.point.full,
                "casts": len(tried.point.plan.casts),
                "predicted_error": tried.point.error,
                "measured_error": tried.measured,
                "finite": tried.finite,
            }
            for number, tried in numbered(found)
        ],
        "runs": found.runs,
        "seconds_total": seconds,
    }


def numbered(found: Pareto) -> list[tuple[int, Tried]]:
    """The points with the numbers that `--point` takes; the default plan is 0."""
    points = list(enumerate(found.points, 1))
    if any(tried.point.plan == found.default.point.plan for _, tried in points):
        return points
    return [(DEFAULT, found.default), *points]


def plot(rows: Sequence[tuple[int, Tried]]) -> str:
    """Microseconds to the right, the measured error upwards by its logarithm, points by number."""
    import plotext

    shown = [(n, t.point.seconds * 1e6, t.measured) for n, t in rows if t.finite and t.measured > 0]
    if len(shown) < 2:
        return "Fewer than two points have a measured error: there is nothing to plot."
    heights = [math.log10(error) for _, _, error in shown]
    low, high = math.floor(min(heights)), math.ceil(max(heights))
    times = [time for _, time, _ in shown]
    room = 0.06 * (max(times) - min(times) or 1.0)
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(WIDTH, HEIGHT)
    plotext.xlim(min(times) - room, max(times) + room)
    plotext.ylim(low, max(high, low + 1))
    decades = list(range(low, max(high, low + 1) + 1))
    plotext.yticks(decades, [f"1e{decade}" for decade in decades])
    plotext.scatter(times, heights, marker=".")
    for (number, time, _), height in zip(shown, heights, strict=True):
        plotext.text(str(number), x=time, y=height)
    plotext.title("relative L2 error against predicted microseconds")
    text: str = plotext.uncolorize(plotext.build())
    return "\n".join(line.rstrip() for line in text.splitlines())


def _table(found: Pareto, rows: Sequence[tuple[int, Tried]], low: str) -> RenderableType:
    shown = table(
        "point", "time", "speed-up", "ops in FP32", "casts", "predicted", "measured",
        right=(0, 1, 2, 3, 4, 5, 6), fold=(),
    )  # fmt: skip
    for number, tried in rows:
        point = tried.point
        is_default = point.plan == found.default.point.plan
        shown.add_row(
            f"{number}{'*' if is_default else ''}",
            f"{point.seconds * 1e6:.4g} us",
            f"{found.seconds_full / point.seconds:.2f}" if point.seconds else "-",
            f"{point.full:,}",
            f"{len(point.plan.casts):,}",
            figure(point.error),
            figure(tried.measured) if tried.finite else "not finite",
        )
    return shown


def _took(found: Pareto, seconds: float) -> str:
    return f"Took {duration(seconds)} and {plural(found.runs, 'parity run')}; nothing was written."


def _remarks(found: Pareto, low: str) -> list[str]:
    analysis = found.analysis
    lines = [
        f"Times are predicted for {analysis.target or 'an H100'} at the example's sizes, operator "
        f"by operator, each a kernel of its own: FP32 takes {found.seconds_full * 1e6:.4g} us. "
        "Errors are relative L2 errors of the worst output.",
        "* is the plan that a conversion takes without --tolerance. --point N converts with "
        "another; --tolerance X looks for the fastest inside X.",
    ]
    if found.points[0].point.full == analysis.summary.float_nodes:
        lines.append(
            f"At these sizes no plan with {low} is predicted to be faster than FP32: the tensors "
            "are small, and each cast is one more kernel to start. Give larger inputs."
        )
    return lines
