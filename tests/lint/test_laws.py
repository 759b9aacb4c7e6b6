"""What holds of any text: skipping files loses nothing, fixes end, no bytes make it fail."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ampconvert.lint import engine
from ampconvert.lint.catalogue import all_rules
from ampconvert.lint.run import Options, run
from ampconvert.lint.source import Source
from ampconvert.lint.suppressions import kept
from tests.lint.linted import notebook


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


RULES = [rule for rule in all_rules() if rule.CODE != "AMP901"]
CASES = [case for rule in RULES for case in (*rule.INVALID, *rule.VALID)]
texts = st.lists(st.sampled_from(CASES), min_size=1, max_size=4)
quick = settings(max_examples=60, deadline=None)


@quick
@given(texts)
def test_skipping_files_by_their_words_loses_nothing(cases: list[Any]) -> None:
    text = "\n\n".join(case.text for case in cases)
    for given_settings in {case.settings for case in cases}:
        source = Source(text, settings=given_settings)
        found = [f for rule in RULES for f in engine.findings(rule, source)]
        wanted = engine.in_order(kept(text, found))
        assert engine.check(text, RULES, settings=given_settings) == wanted


@quick
@given(texts, st.booleans())
def test_fixes_parse_and_come_to_an_end(cases: list[Any], unsafe: bool) -> None:
    text = "\n\n".join(case.text for case in cases)
    given_settings = cases[0].settings
    fixed = engine.fix(text, RULES, settings=given_settings, unsafe=unsafe)
    assert engine.parses(fixed.text)
    assert not [f for f in fixed.left if f.fix and (unsafe or f.fix.safe)]
    again = engine.fix(fixed.text, RULES, settings=given_settings, unsafe=unsafe)
    assert again.text == fixed.text and again.made == ()


PIECES = [
    b"", b" ", b"\n", b"(", b")", b"#", b"'", b'"', b"\0", b"\xff", b"1", b"x", b":", b"  # noqa",
    b"  # noqa: AMP2", b"# ampconvert: ignore\n", b"\r", b"*", b"=", b"lambda: ", b".half()", b"\\",
]  # fmt: skip


def damaged(seed: int) -> bytes:
    """Two of the rules' examples with up to three pieces changed: mostly Python still."""
    chance = random.Random(seed)
    data = bytearray("\n".join(case.text for case in chance.choices(CASES, k=2)).encode())
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(data))
        data[at : at + chance.randrange(4)] = chance.choice(PIECES)
    text = data.decode("utf-8", "replace")
    as_book = chance.random() < 0.3
    return notebook(text, "%time x\n", text).encode() if as_book else bytes(data)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.integers(0, 10**9).map(damaged),
    ),
    st.sampled_from(["a.py", "a.ipynb"]),
    st.booleans(),
)
def test_no_bytes_make_it_fail(data: bytes, name: str, fix: bool) -> None:
    report = run(
        Options(
            stdin=data, stdin_filename=name, select=("ALL",), fix=fix, unsafe=True, assume="half"
        )
    )
    assert report.bugs == [] and report.checked == 1
    for file in report.files:
        assert all(text and found for _, text, found in file.parts())
