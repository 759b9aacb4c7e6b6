"""Statistics of values: what numpy says, whatever way the data is split, seen and merged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ampconvert.classify import weight_range
from ampconvert.dtypes import FLOAT_TYPES, Low
from ampconvert.frontends import fx_run, onnx_run
from ampconvert.graph import Value
from ampconvert.ranges import calibrate as statistics
from ampconvert.ranges.calibrate import MASK_BELOW, Range, array_range, merge_all
from ampconvert.report.explanation import explanation_page
from ampconvert.report.jsonable import plain
from tests.test_report import SUBJECT, analysis, text

Array = np.ndarray[Any, Any]
LOWS: tuple[Low, ...] = ("float16", "bfloat16")


def plain_range(array: Array, low: Low = "float16") -> Range:
    """The definition, step by step."""
    numbers = array[np.isfinite(array)].astype(np.float64)
    unmasked = np.abs(numbers[numbers > MASK_BELOW])
    nonzero = np.abs(numbers[numbers != 0])
    kind = FLOAT_TYPES[low]
    return Range(
        numbers.min(initial=math.inf),
        numbers.max(initial=-math.inf),
        unmasked.max(initial=0.0),
        nonzero.min(initial=math.inf),
        bool(np.isnan(array).any()),
        bool(np.isinf(array).any()),
        array.size,
        int((nonzero < kind.tiny).sum()),
        int((nonzero < kind.smallest).sum()),
    )


BOUNDS = [x for low in LOWS for x in (FLOAT_TYPES[low].tiny, FLOAT_TYPES[low].smallest)]
BELOW = [float(np.nextafter(np.float32(x), np.float32(0))) for x in BOUNDS]
EDGES = [0.0, -0.0, 1e-45, 65504.0, -1e9, -16376.0, 3.4e38, *BOUNDS, *BELOW]
finite = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([float(np.float32(x)) * sign for x in EDGES for sign in (1, -1)]),
)
any_float = st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf]))
low_types = st.sampled_from(LOWS)


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, min_side=0), elements=any_float), low_types
)
def test_a_range_is_what_numpy_says(array: Array, low: Low) -> None:
    assert array_range(array, low) == plain_range(array, low)
    assert array_range(array.T, low) == plain_range(array, low)


@pytest.mark.parametrize("low", LOWS)
@pytest.mark.parametrize("where", [0, statistics._CHUNK - 1, statistics._CHUNK, -1])
def test_a_large_array_is_taken_whole(where: int, low: Low) -> None:
    array = np.ones(3 * statistics._CHUNK + 5, np.float32)
    array[where] = -1e-40
    found = array_range(array, low)
    assert found == plain_range(array, low)
    assert (found.subnormal, found.lost) == (1, low == "float16")
    assert array_range(array * 0, low) == Range(0, 0, 0, math.inf, elements=array.size)


@given(st.lists(any_float, max_size=24), low_types, st.data())
def test_any_split_and_any_order_of_merging_gives_the_range_of_all(
    numbers: list[float], low: Low, data: st.DataObject
) -> None:
    array = np.array(numbers, np.float32)
    owner = data.draw(hnp.arrays(np.int8, array.shape, elements=st.integers(0, 4)))
    parts = [array_range(array[owner == part], low) for part in range(5)]
    while len(parts) > 1:  # merged two by two, in whatever order
        one = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        other = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(one.merge(other))
    assert repr(parts[0]) == repr(array_range(array, low))  # not even a zero has another sign
    assert merge_all(reversed(parts)) == parts[0].merge(Range())


class Negated(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -x


# Both take the number of rows as it comes.
PROGRAM = torch.export.export(
    Negated(), (torch.ones(4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
)
NEGATED = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { y = Neg(x) }'


def by_torch(batches: Sequence[Array], low: Low) -> list[Range]:
    """The ranges of x and y, of a program that negates."""
    calls = [((torch.from_numpy(batch),), {}) for batch in batches]
    return list(fx_run.calibrate(PROGRAM, calls, low=low).values())


def by_onnx(batches: Sequence[Array], low: Low) -> list[Range]:
    """The same of an ONNX model."""
    model = ir.from_proto(onnx.parser.parse_model(NEGATED))
    feeds = [{"x": batch} for batch in batches]
    ranges, _ = onnx_run.calibrate(model, feeds, lambda done: None, low=low)
    return [ranges["x"], ranges["y"]]


@settings(max_examples=30, deadline=None)
@given(st.lists(finite, min_size=2, max_size=12), low_types, st.data())
def test_both_front_ends_see_what_numpy_sees_however_the_data_is_cut(
    numbers: list[float], low: Low, data: st.DataObject
) -> None:
    array = np.array(numbers, np.float32)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(numbers) - 1), max_size=3)))
    batches = np.split(array, cuts)
    want = [plain_range(array, low), plain_range(-array, low)]
    assert by_torch(batches, low) == want
    assert by_onnx(batches, low) == want


@given(hnp.arrays(np.float32, hnp.array_shapes(min_side=0), elements=any_float), low_types)
def test_a_weights_range_is_what_numpy_says(array: Array, low: Low) -> None:
    weight = Value("w", "float32", array.shape, "weight", lambda: array)
    assert weight_range(weight, low) == plain_range(array, low)


def test_shares() -> None:
    found = array_range(np.array([0, 2e-5, -1e-8, 1, -3, 2, 7, 5], np.float32), "float16")
    assert (found.subnormal_share, found.lost_share) == (2 / 8, 1 / 8)
    assert Range().subnormal_share == Range().lost_share == 0


def test_explain_tells_what_share_is_lost_where_it_runs_low() -> None:
    found = analysis()  # linear and relu run in float16, mul does not
    held = replace(found.ranges["h"], elements=1000, subnormal=31, lost=2)
    names = {name: next(n for n in found.graph.nodes if n.name == name) for name in ("relu", "mul")}
    ranges = {names[name].outputs[0]: held for name in names}
    nodes = found.graph.nodes
    page = text(explanation_page(SUBJECT, replace(found, ranges=ranges), nodes), 160)
    said = "3.1% of its elements are below FP16's smallest normal number, 0.2% below its smallest"
    assert page.count(said) == page.count("of its elements") == 1 and f"relu: {said}" in page
    kept = {value: replace(held, lost=0) for value in ranges}
    page = text(explanation_page(SUBJECT, replace(found, ranges=kept), nodes), 160)
    assert "of its elements" not in page


def test_json_has_the_counts() -> None:
    held = Range(-1.0, 1.0, 1.0, 0.5, elements=9, subnormal=3, lost=2)
    assert {"elements": 9, "subnormal": 3, "lost": 2}.items() <= plain(held).items()
