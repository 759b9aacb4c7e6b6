"""Places, tallies and observations as values: numbered, counted and merged exactly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ampconvert.graph import Graph, Node
from ampconvert.ranges.loss_scale import ExponentHistogram
from ampconvert.training.observation import (
    Arrival,
    Gradient,
    Observation,
    Overflow,
    places,
    scope_of,
)
from ampconvert.training.tally import _BINS, FLUSHED, OVERFLOWED, fields, histogram, spread, tally

FLOATS = arrays.arrays(np.float32, st.integers(1, 80), elements=st.floats(width=32))


def test_places_are_numbered_per_module_and_operator() -> None:
    def node(name: str, op: str, scope: str) -> Node:
        return Node(name, op, (), (), scope=scope, where="m.py:1")

    graph = Graph(
        (
            node("a", "aten::add", "x"),
            node("b", "aten::mul", "x"),
            node("c", "aten::add_", "x"),
            node("d", "aten::add", ""),
            node("e", "torchvision::nms", "y"),
            node("f", "aten::__and__", "y"),
        ),
        {}, (), (),
    )  # fmt: skip
    names = {node: place.name for node, place in places(graph).items()}
    assert list(names.values()) == [
        "x/add#0", "x/mul#0", "x/add#1", "add#0", "y/torchvision.nms#0", "y/__and__#0",
    ]  # fmt: skip
    assert (scope_of("x.3/add#0"), scope_of("add#0")) == ("x.3", "")


@given(FLOATS, st.integers(-20, 20))
def test_a_tally_is_the_exponent_histogram(array: np.ndarray[Any, Any], power: int) -> None:
    array[np.abs(array) < 2.0**-126] = 0.0
    want = ExponentHistogram.of(array)
    row = tally(torch.from_numpy(array), 2.0**power).numpy()
    unscaled = histogram(row, scaled=False)
    assert unscaled == want
    true = histogram(row, scaled=True)
    assert true.counts == {e - power: n for e, n in want.counts.items()}
    assert true.largest == want.largest / 2.0**power


@given(FLOATS, st.integers(-10, 30))
def test_what_a_scale_flushes_is_what_rounding_flushes(
    array: np.ndarray[Any, Any], power: int
) -> None:
    array[np.abs(array) < 2.0**-126] = 0.0
    x = torch.from_numpy(array)
    row = tally(x, torch.tensor([2.0**power]), torch.float16).numpy()
    scaled = (x * 2.0**power).half()
    assert row[FLUSHED] == ((scaled == 0) & (x != 0)).sum()
    assert row[OVERFLOWED] == (~scaled.isfinite()).sum()
    found = histogram(row, scaled=False)
    # The histogram calls lost what is below 2^-24, of which rounding saves down to 2^-25.
    lost = round(found.lost(power, "float16") * found.nonzero)
    exact = np.abs(array[np.isfinite(array) & (array != 0)].astype(np.float64)) * 2.0**power
    assert lost == np.count_nonzero(exact < 2.0**-24)
    assert 0 <= lost - row[FLUSHED] <= np.count_nonzero((exact > 2.0**-25) & (exact < 2.0**-24))


@settings(max_examples=20)
@given(st.integers(0, 3000), st.sampled_from([1, 3, 64]))
def test_counting_side_by_side_is_counting(size: int, lanes: int) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(size))
    field = (x.view(torch.int32) >> 23).to(torch.uint8)
    assert torch.equal(spread(field, lanes), torch.bincount(field, minlength=_BINS))
    assert torch.equal(spread(field, lanes), fields(x))


def test_float32s_own_subnormal_numbers_are_nonzero() -> None:
    found = histogram(tally(torch.tensor([2.0**-140, 0.0]), 1.0).numpy(), scaled=False)
    assert (found.nonzero, found.zeros) == (1, 1)
    assert found.lost(60, "float16") == 1.0


NAMES = st.sampled_from(["a/mul#0", "b/mul#0", "b/mul#0:weight"])
HISTOGRAMS = st.builds(
    ExponentHistogram,
    st.dictionaries(st.integers(-40, 20), st.integers(1, 9), max_size=4),
    st.integers(0, 9),
    st.integers(0, 9),
    st.floats(0, 1e6, allow_nan=False),
)
PLACES = st.lists(NAMES, min_size=1, max_size=2, unique=True).map(lambda p: tuple(sorted(p)))
GRADIENTS = st.builds(
    Gradient, HISTOGRAMS, PLACES, st.sampled_from([1.0, 8.0]), st.integers(0, 9),
    st.integers(0, 9), st.booleans(),
)  # fmt: skip
OBSERVATIONS = st.builds(
    Observation,
    st.dictionaries(NAMES, st.builds(Overflow, st.floats(1, 1e9), PLACES), max_size=2),
    st.dictionaries(NAMES, GRADIENTS, max_size=3),
    st.none() | st.builds(Arrival, st.integers(0, 9), NAMES, st.booleans()),
    st.dictionaries(NAMES, st.sampled_from(["m.py:1", "m.py:2"]), max_size=2),
)


@settings(max_examples=50)
@given(OBSERVATIONS, OBSERVATIONS, OBSERVATIONS)
def test_ranks_merge_in_any_order(a: Observation, b: Observation, c: Observation) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(Observation()) == a


@settings(max_examples=50)
@given(OBSERVATIONS)
def test_observations_are_json(seen: Observation) -> None:
    assert Observation.from_json(json.loads(json.dumps(seen.to_json()))) == seen
