"""Runs every hazard over a model. A hazard is found by its file: there is no list to keep."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from ampconvert import functions, hazards
from ampconvert.dtypes import Low
from ampconvert.findings import SEVERITIES, Finding
from ampconvert.graph import Graph
from ampconvert.hazards.base import Hazard
from ampconvert.hazards.scene import Scene
from ampconvert.plan import Plan
from ampconvert.ranges.calibrate import Range


def find(
    graph: Graph, low: Low, ranges: Mapping[str, Range], plan: Plan | None = None
) -> tuple[Finding, ...]:
    """Every hazard of running `graph` in `low`, in execution order.

    `ranges` maps value names to what was seen in them, and may be empty: then only constants and
    the graph's own form speak. With a `plan`, `Finding.handled` says how it has dealt with the
    operators in question.
    """
    scene = Scene(graph, low, ranges, functions.calls(graph))
    order = {node.name: number for number, node in enumerate(graph.nodes)}
    found: dict[tuple[str, str, str], Finding] = {}
    for hazard in all_hazards():
        for one in hazard.check(scene):
            if plan is not None:
                one = replace(one, handled=hazard.handled(one, scene, plan))
            found.setdefault((one.code, one.where.node, one.message), one)
    return tuple(
        sorted(
            found.values(),
            key=lambda one: (order[one.where.node], one.code, SEVERITIES.index(one.severity)),
        )
    )


@lru_cache
def all_hazards() -> tuple[Hazard, ...]:
    """One of each hazard in this folder, by code."""
    for module in pkgutil.iter_modules(hazards.__path__, f"{hazards.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return tuple(sorted((kind() for kind in Hazard.__subclasses__()), key=lambda h: h.CODE))
