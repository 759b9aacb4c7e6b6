"""Difference per layer of a converted ONNX model, emulated, against the float32 model it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.differences import Differences, DifferenceSums
from ampconvert.element_types import stores_low
from ampconvert.graph import Graph
from ampconvert.verify.emulate import emulate, upcast
from ampconvert.verify.segments import lockstep


def layer_differences(
    original: ir.Model,
    converted: ir.Model,
    graph: Graph,
    feeds: Sequence[Mapping[str, Any]],
) -> Differences:
    """Each float32 result of `graph`, read from `original`, in the emulated `converted` model.

    Both run once per batch, in segments, side by side; no tensor is kept. What happens inside the
    body of a Loop or an If is seen at that node's results. Raises UserError when one of the models
    does not load or run.
    """
    sums = DifferenceSums()
    wanted = [v.name for node in graph.nodes for v in graph.output_values(node) if v.is_float32]
    reference = upcast(original) if stores_low(original) else original
    with closing(lockstep(emulate(converted), reference, feeds, wanted)) as pairs:
        for _, name, got, expected in pairs:
            if isinstance(got, np.ndarray) and isinstance(expected, np.ndarray):
                sums.add(name, got, expected)
    return sums.finish(graph, len(feeds))
