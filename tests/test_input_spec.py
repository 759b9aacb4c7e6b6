"""The grammar of `--input`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ampconvert.frontends.input_spec import DTYPES, Dim
from ampconvert.frontends.inputs import InputSpec, parse_spec
from tests.model_files import message

names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}", fullmatch=True)
sizes = st.integers(1, 5000)
dims = st.one_of(
    st.builds(Dim, sizes),
    st.builds(Dim, st.none() | sizes, st.just("") | names),
)
ranges = st.one_of(
    st.just((None, None)),
    st.tuples(st.integers(0, 60), st.integers(60, 127)),
    st.tuples(st.floats(-1e30, 0), st.floats(0, 1e30)),
)


@given(names, st.lists(dims, max_size=5), st.sampled_from([None, *set(DTYPES.values())]), ranges)
def test_a_spec_reads_back_as_it_is_written(
    name: str, shape: list[Dim], dtype: str | None, ends: tuple[Any, Any]
) -> None:
    if dtype not in (None, "float32", "float64", "float16", "bfloat16", "complex64"):
        ends = ends if isinstance(ends[0], int) and dtype != "bool" else (None, None)
    spec = InputSpec(name, tuple(shape), dtype, *ends)
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("x:1x3", InputSpec("x", (Dim(1), Dim(3)))),
        ("x:fp32:1x3", InputSpec("x", (Dim(1), Dim(3)), "float32")),
        ("x:?x3", InputSpec("x", (Dim(None, ""), Dim(3)))),
        ("x:-1x3", InputSpec("x", (Dim(None, ""), Dim(3)))),
        ("ids:int64:batchxseq", InputSpec("ids", (Dim(None, "batch"), Dim(None, "seq")), "int64")),
        ("x:n=4x3", InputSpec("x", (Dim(4, "n"), Dim(3)))),
        ("x:1,max_len", InputSpec("x", (Dim(1), Dim(None, "max_len")))),
        ("boxes:5,", InputSpec("boxes", (Dim(5),))),
        ("s:scalar", InputSpec("s", ())),
        ("ids:int64:1x128:0..30521", InputSpec("ids", (Dim(1), Dim(128)), "int64", 0, 30521)),
        ("x:2:-1.5..1e3", InputSpec("x", (Dim(2),), None, -1.5, 1000.0)),
    ],
)
def test_specs(text: str, spec: InputSpec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x", "no SHAPE"),
        ("x:int64", "no SHAPE"),
        ("x:int7:1x2", "'int7' is no type"),
        ("1x3x224", "no name"),
        ("x:max", "commas"),
        ("x:0x3", "size 0"),
        ("x:3x-2", "'-2' is no dimension"),
        ("x:2:3..1", "empty"),
        ("x:int8:2:0..300", "-128..127"),
        ("x:int64:2:0.5..3", "whole numbers"),
        ("x:2:a..b", "no range"),
        ("x:2:0..1e999", "not finite"),
        ("x:float32:2:0..1:9", "left over"),
    ],
)
def test_wrong_specs(text: str, words: str) -> None:
    said = message(parse_spec, text)
    assert words in said
    assert repr(text) in said
    assert "NAME[:DTYPE]:SHAPE" in said
