"""Transfer functions of recurrent layers and losses."""

from __future__ import annotations

import math

import numpy as np

from ampconvert.functions import Call
from ampconvert.ranges.domain import Abstract, build, count, matrix_of, size_of
from ampconvert.ranges.rounding import CURVE, FUSED, PRODUCT, gamma
from ampconvert.ranges.transfer import Results, State, result_dims, transfer


@transfer("lstm", "gru", "rnn")
def _recurrent(state: State, call: Call) -> Results:
    """Gates are sigmoids and tanh, so outputs stay within 1, or what the state began with.

    An LSTM's cell grows by 1 in a step at most. The sums under the gates are checked as well,
    because kernels may store them.
    """
    layer = (
        _onnx_layer(state, call) if call.node.op.startswith("onnx::") else _aten_layer(state, call)
    )
    if layer is None:
        return None
    x, hidden, cell, weights = layer
    steps = _steps(x)
    largest = max(1.0, hidden)  # what a step may read, and what an empty sequence leaves
    state.inner[call.node.name] = _largest_sum(x, largest, weights, state)
    if call.function == "rnn" and call.attr("nonlinearity", default="tanh") != "tanh":
        return None
    bound = largest * (1 + CURVE)
    found: list[Abstract | None] = []
    for number in range(len(call.node.outputs)):
        limit = cell + steps if number == 2 else bound
        limit *= 1 + CURVE + (steps * state.low.unit if number == 2 else 0.0)
        found.append(build(result_dims(call, number), -limit, limit))
    return found


# The sequence, the sizes of the states, and the weights, each with whether it is a bias.
_Layer = tuple[Abstract, float, float, list[tuple[Abstract, bool]]]


def _onnx_layer(state: State, call: Call) -> _Layer | None:
    """X, W, R, B, lengths, initial_h, initial_c, P; None where activations are not the usual."""
    usual = {"lstm": ["Sigmoid", "Tanh", "Tanh"], "gru": ["Sigmoid", "Tanh"], "rnn": ["Tanh"]}
    given = call.attr("activations")
    names = usual[call.function]
    if given is not None and given not in (names, names * 2):
        return None
    x = state.plain(call, 0)
    if x is None or (len(call.operands) > 7 and call.operands[7] is not None):
        return None
    given_weights = ((state.plain(call, i), i == 3) for i in (1, 2, 3))
    weights = [(w, is_bias) for w, is_bias in given_weights if w is not None]
    hidden, cell = (_start(state.plain(call, place)) for place in (5, 6))
    return x, hidden, cell, weights


def _aten_layer(state: State, call: Call) -> _Layer | None:
    """input, hx (a list for an LSTM), params (a list)."""
    node = call.node
    places = {name: node.operand(name) for name in ("input", "hx", "params")}
    if any(not found for found in places.values()) or call.attr("train", default=False):
        return None
    if call.attr("batch_sizes") is not None or node.operand("data"):
        return None
    x = state.of(node.inputs[places["input"][0]]).shown()
    starts = [state.of(node.inputs[p]).shown() for p in places["hx"]]
    params = [state.of(node.inputs[p]).shown() for p in places["params"]]
    weights = [(w, len(w.dims or ()) == 1) for w in params]
    layers = int(call.attr("num_layers", default=1)) * (1 + bool(call.attr("bidirectional")))
    if len(weights) != layers * (4 if call.attr("has_biases", default=True) else 2):
        return None  # a projection, which no tanh bounds
    cell = _start(starts[1]) if len(starts) > 1 else 0.0
    return x, _start(starts[0]), cell, weights


def _start(x: Abstract | None) -> float:
    """The largest magnitude of an initial state; zero where none is given."""
    return 0.0 if x is None else x.largest


def _steps(x: Abstract) -> float:
    """The length of the sequence: the longer one of the two axes that may hold it."""
    if x.dims is None or len(x.dims) < 2:
        return math.inf
    return max(count(x.dims, [a]) for a in range(min(2, len(x.dims))))


def _largest_sum(
    x: Abstract, before: float, weights: list[tuple[Abstract, bool]], state: State
) -> float:
    """The largest |W x + R h + b|, whatever gate a row belongs to; inf when unknown."""
    largest = max(x.largest, before)
    total, terms = 0.0, 0.0
    for weight, is_bias in weights:
        if weight.dims is None:
            return math.inf
        center, doubt = matrix_of(weight, state.low)
        magnitude = np.abs(center) + doubt
        if is_bias:  # that of the input and that of the state
            total += 2 * float(magnitude.max(initial=0.0))
            continue
        alike = size_of(weight.dims[-1]) if magnitude.shape[-1] == 1 else 1
        rows = magnitude.sum(axis=-1) * alike
        total += float(rows.max(initial=0.0)) * largest
        terms += size_of(weight.dims[-1])
    found = total * (1 + state.low.unit + FUSED + PRODUCT + gamma(terms))
    return found if math.isfinite(found) else math.inf


@transfer("cross_entropy", "nll_loss")
def _loss(state: State, call: Call) -> Results:
    """Without class weights: a mean, or single losses."""
    x = state.plain(call, 0)
    weighted = len(call.node.inputs) > 2 and any(name is not None for name in call.node.inputs[2:])
    reduction = call.attr("reduction", default="mean")
    if x is None or weighted or reduction in ("sum", 2) or x.dims is None or len(x.dims) < 2:
        return None
    if call.attr("label_smoothing", default=0.0) != 0.0:
        return None
    lo, hi = x.worst
    if call.function == "nll_loss":
        made = build(result_dims(call), min(-hi, 0.0), max(-lo, 0.0))
    else:
        width = (hi - lo + math.log(max(count(x.dims, [1]), 1.0))) * (1 + FUSED)
        made = build(result_dims(call), 0.0, width)
    return [made, *(None for _ in call.node.outputs[1:])]
