"""What rounding a few values of an ONNX model does to its outputs, measured by running it.

There are no gradients to predict it with. The values are rounded together first: where that does no
harm, none of them does; else each half is tried again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ampconvert.dtypes import Low
from ampconvert.frontends.onnx_data import tensor_of
from ampconvert.frontends.onnx_load import numbers
from ampconvert.frontends.onnx_scopes import Layout
from ampconvert.verify.segments import outputs

TYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
RUNS = 12  # of the model, at most, to find what does no harm
FIRST_GROUPS, ALL_RUNS = 12, 28  # to share out the error among all values

Array = np.ndarray[Any, Any]


def rounding_errors(
    model: ir.Model, names: Sequence[str], feed: Mapping[str, Array], low: Low, harmless: float
) -> dict[str, float]:
    """For each of `names`, weights and results of nodes, a bound on the squared relative error of
    the outputs when it is rounded to `low`; infinite where it was not found to be below `harmless`.

    One group of values shares its bound: that of rounding all of them. `feed` is one batch.
    """
    (truth,) = outputs(model, [feed])
    found = dict.fromkeys(names, float("inf"))
    waiting = [list(names)] if names else []
    for _ in range(RUNS):
        if not waiting:
            break
        group = waiting.pop(0)
        (answers,) = outputs(_rounded(model, group, low), [feed])
        energy = _energy(answers, truth)
        if energy <= harmless:
            found |= dict.fromkeys(group, energy)
        elif len(group) > 1:
            half = len(group) // 2
            waiting += [group[:half], group[half:]]
    return found


def shared_errors(
    model: ir.Model,
    names: Sequence[str],
    feed: Mapping[str, Array],
    low: Low,
    tell: Callable[[int, int], None],
) -> dict[str, float]:
    """Each value's share of the squared relative error of the outputs when all are rounded to
    `low`; infinite where that makes an output infinite.

    `names` are in order of execution. Neighbours are rounded together; the group that errs most is
    split in two, again and again; a group's error is shared out evenly. `tell` hears of each run.
    """
    (truth,) = outputs(model, [feed])
    runs = 0

    def measured(group: Sequence[str]) -> tuple[float, int, Sequence[str]]:
        nonlocal runs
        runs += 1
        tell(runs, ALL_RUNS)
        (answers,) = outputs(_rounded(model, group, low), [feed])
        return (-_energy(answers, truth), runs, group)  # the number keeps groups from comparison

    size = max(1, -(-len(names) // FIRST_GROUPS))
    queue = [measured(names[i : i + size]) for i in range(0, len(names), size)]
    heapq.heapify(queue)
    done = []
    while queue and runs + 2 <= ALL_RUNS:
        worst = heapq.heappop(queue)
        group = worst[2]
        if len(group) == 1:
            done.append(worst)
            continue
        half = len(group) // 2
        heapq.heappush(queue, measured(group[:half]))
        heapq.heappush(queue, measured(group[half:]))
    return {name: -energy / len(group) for energy, _, group in (*queue, *done) for name in group}


def _rounded(model: ir.Model, names: Sequence[str], low: Low) -> ir.Model:
    """`model` in float32, with the named values rounded to `low` where they are made."""
    clone = model.clone()
    layout = Layout(clone)
    values = {name: value for value, name in layout.values.items()}
    for name in names:
        value = values[name]
        if name in layout.weights:
            _round_weight(value, TYPES[low])
        else:
            _round_result(value, TYPES[low])
    return clone


def _round_weight(value: ir.Value, low: ir.DataType) -> None:
    with np.errstate(over="ignore"):
        data = numbers(tensor_of(value)).astype(low.numpy()).astype(np.float32)
    node = value.producer()
    if node is None:
        value.const_value = ir.Tensor(data, name=value.name)
    else:
        node.attributes.clear()
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(data))


def _round_result(value: ir.Value, low: ir.DataType) -> None:
    """A pair of casts behind the value; ONNX Runtime keeps it in a float32 model."""
    node = value.producer()
    if node is None or not isinstance(node.graph, ir.Graph):
        return
    name = value.name or ""
    down = ir.Value(name=f"{name}/rounded/{low.name}", type=ir.TensorType(low), shape=value.shape)
    up = ir.Value(name=name, type=value.type, shape=value.shape)
    value.replace_all_uses_with(up, replace_graph_outputs=True)
    value.name = f"{name}/unrounded"
    casts = [
        ir.Node("", "Cast", [a], [ir.AttrInt64("to", to)], outputs=[b], name=f"round/{b.name}")
        for a, b, to in ((value, down, low), (down, up, ir.DataType.FLOAT))
    ]
    node.graph.insert_after(node, casts)


def _energy(answers: Mapping[str, Any], truth: Mapping[str, Any]) -> float:
    """The largest squared relative L2 error among the floating-point outputs."""
    worst = 0.0
    for name, right in truth.items():
        if not isinstance(right, np.ndarray) or right.dtype.kind != "f":
            continue
        expected = right.astype(np.float64)
        shown = np.isfinite(expected)
        difference = answers[name].astype(np.float64)[shown] - expected[shown]
        size = float(np.square(expected[shown]).sum())
        lost = float(np.square(difference).sum())
        worst = max(worst, lost / size if size else (float("inf") if lost else 0.0))
    return worst if np.isfinite(worst) else float("inf")
