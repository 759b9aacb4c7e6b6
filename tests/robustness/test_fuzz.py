"""Damaged files and words: each is refused by one clear message, or taken; nothing else happens."""

from __future__ import annotations

import faulthandler
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.robustness.command import ended
from tests.robustness.mutations import HOSTILE_WORDS, TREES, changed, damaged
from tests.robustness.regressions import REGRESSIONS
from tests.robustness.targets import TARGETS, plan_data, refusal, report_data

HANG = 60  # seconds for one test, after which the process ends with all stacks
FEW = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("name", TARGETS)
def test_sound_files_are_taken(name: str) -> None:
    target = TARGETS[name]
    assert [target.survives(data) for data in target.seeds()] == [""] * len(target.seeds())


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_or_taken(name: str) -> None:
    target = TARGETS[name]

    @FEW
    @given(damaged(target.seeds()))
    def read(data: bytes) -> None:
        target.survives(data)

    read()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 10_000, b"\xef\xbb\xbf"]
)
def test_files_of_something_else(name: str, data: bytes) -> None:
    TARGETS[name].survives(data)


@pytest.mark.parametrize(("name", "data"), REGRESSIONS)
def test_what_broke_once(name: str, data: bytes) -> None:
    TARGETS[name].survives(data)


RULE = {
    "name": "n", "reason": "r", "onnx": ["Relu"], "class": "deny", "when": {"reduces_more_than": 3},
    "keep_inputs": ["X"], "work": "conv", "mask": "absorb:m", "exact_inputs": True, "node": "a.*",
}  # fmt: skip


@FEW
@given(changed({"op": [RULE]}))
def test_rules_of_any_structure(data: Any) -> None:
    text = _toml(data)
    TARGETS["rules"].survives(text.encode("utf-8", "surrogatepass"))


@FEW
@given(st.data())
def test_plans_of_any_structure(data: st.DataObject) -> None:
    plan = data.draw(changed(plan_data()))
    TARGETS["applied-plan"].survives(json.dumps(plan).encode())


@FEW
@given(st.data())
def test_reports_of_any_structure(data: st.DataObject) -> None:
    report = data.draw(changed(report_data()))
    TARGETS["report"].survives(json.dumps(report).encode())


@FEW
@given(TREES)
def test_plans_that_are_any_json(data: Any) -> None:
    TARGETS["plan"].survives(json.dumps(data).encode())


SPEC_PARTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["x", "ids", "float32", "int64", "bool", "complex64", "1x3", "?x2", "-1", "batch=4x2",
             "scalar", "0..1", "1e999..2", "-5..-1", "9" * 400, "9" * 5000, "0x0", "n=", "1,2,",
             "1" + "x1" * 70, "nan..1", "1e400..1e401"]
        ),
        HOSTILE_WORDS,
    ),
    max_size=5,
)  # fmt: skip


@settings(FEW, max_examples=150)
@given(SPEC_PARTS)
def test_any_input_spec(parts: list[str]) -> None:
    from ampconvert.frontends.input_spec import parse_spec

    text = ":".join(parts)

    def read() -> None:
        spec = parse_spec(text)
        assert parse_spec(str(spec)) == spec  # what is taken can be said again

    refusal(read)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "m.onnx"
    path.write_bytes(TARGETS["onnx"].seeds()[0])
    return path


OPTIONS = st.sampled_from(
    ["--deny", "--allow", "--io", "--assume", "--input", "--dtype", "--target", "--seed",
     "--repair", "--tolerance", "--rules", "--plan", "--inputs", "--data", "--name", "--point"]
)  # fmt: skip


@settings(FEW, max_examples=60)
@given(
    command=st.sampled_from(["analyze", "convert", "explain", "verify"]),
    words=st.lists(
        st.tuples(
            OPTIONS,
            st.one_of(
                HOSTILE_WORDS,
                st.sampled_from(
                    ["x=fp16", "y=bf16", "=fp16", "x=", "x<=1", "x<=nan", "*<=1e-300", "<=", "[<=3",
                     "x:2x4:0..1", "x:int8:2x4", "x:9999999999x4", "Relu", "n?", "[!a", "1e-3"]
                ),
            ),
        ),
        max_size=3,
    ),
)  # fmt: skip
def test_any_words_on_the_command_line(
    small: Path, command: str, words: list[tuple[str, str]]
) -> None:
    given_words = [word.replace("\0", "") for pair in words for word in pair]
    second = [str(small)] if command == "verify" else []
    out = ["--no-verify", "-o", str(small.parent / "out"), "--force"]
    ended([command, str(small), *second, *given_words, *(out if command == "convert" else [])])


def _toml(tree: Any) -> str:
    """JSON-like data as one TOML file: only what stands in inline tables and arrays."""
    return "".join(f"{_key(key)} = {_inline(value)}\n" for key, value in tree.items())


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value).lower() if isinstance(value, int | float) else json.dumps(value or "")


def _key(key: str) -> str:
    return json.dumps(key)
