"""Which outputs count as the one that a page shows."""

from __future__ import annotations

import pytest

from tests.cleanroom import matching
from tests.cleanroom.matching import agrees, difference

SAME = [
    ("Took 13.8 s", "Took 0.5 s"),
    ("Took 9.1 s (capture 2.9 s, export 2.2 s)", "Took 16 s (export 8.8 s, error per op 1.9 s)"),
    ("Measured on 2026-11-24", "Measured on 2027-01-02"),
    ("ampconvert 0.1.0", "ampconvert 0.2.0"),
    ("Wrote  72.2 kB  model.onnx", "Wrote   72.9 kB  model.onnx"),
    ("rel. L2  1.3e-3  58 dB", "rel. L2  1.2e-3  59 dB"),
    ("FP32's own 5.2e-7", "FP32's own 9.9e-7"),
    ("largest 0.0194 at gelu", "largest 9.9e-3 at gelu"),
    ("  5.6%  layer_norm", " 5.1%  layer_norm"),
    ("step 100: loss 1.120", "step 100: loss 1.134"),
]
OTHER = [
    ("Took 13.8 s", "Took 13.8 kB"),
    ("193 operators", "194 operators"),
    ("4.3e5 > 65504", "4.3e5 > 65505"),
    ("rel. L2 1.3e-3", "rel. L2 1.3e-2"),
    ("rel. L2 1.3e-3", "rel. L2 inf"),
    ("SQNR 58 dB", "SQNR 48 dB"),
    ("Wrote 72.2 kB", "Wrote 92.2 kB"),
    ("79% of 1000", "59% of 1000"),
    ("loss 1.120", "loss nan"),
    ("Parity held", "Parity FAILED"),
    ("a line", ""),
]


@pytest.mark.parametrize(("shown", "found"), SAME)
def test_what_differs_by_nature_agrees(shown: str, found: str) -> None:
    assert agrees([shown], [found])
    assert agrees([found], [shown])


@pytest.mark.parametrize(("shown", "found"), OTHER)
def test_what_does_not_differ_by_nature_must_not(shown: str, found: str) -> None:
    assert not agrees([shown], [found])


@pytest.mark.parametrize("rule", matching.RULES, ids=lambda rule: rule.name)
def test_every_rule_gives_its_reason(rule: matching.Rule) -> None:
    assert rule.why


def test_a_paragraph_may_break_elsewhere() -> None:
    assert agrees(["one two", "three 13.8 s four"], ["one two three", "9.1 s four"])
    assert not agrees(["one two", "three"], ["one three", "two"])


def test_a_line_of_dots_stands_for_one_line_or_more() -> None:
    assert agrees(["a", "...", "z"], ["a", "b", "z"])
    assert agrees(["a", "...", "z"], ["a", "b", "c", "d", "z"])
    assert agrees(["...", "z"], ["a", "z"])
    assert agrees(["a", "..."], ["a", "b"])
    assert agrees(["a", "...", "m", "...", "z"], ["a", "m", "b", "m", "y", "z"])
    assert not agrees(["a", "...", "z"], ["a", "z"])
    assert not agrees(["a", "...", "z"], ["a", "b", "y"])
    assert not agrees(["a", "...", "m", "...", "z"], ["a", "b", "c", "z"])
    assert not agrees(["a", "...", "a"], ["a"])
    assert not agrees(["..."], [])


def test_dots_at_the_end_of_a_line_stand_for_its_rest() -> None:
    assert agrees(["usage: tool ..."], ["usage: tool [-h] [--fix]"])
    assert not agrees(["usage: tool ..."], ["usage: tool"])
    assert not agrees(["usage: tool ..."], ["usage: other [-h]"])


def test_the_difference_names_lines_and_the_figure() -> None:
    lines = difference(["a", "loss 1.120", "gone"], ["a", "loss 2.5", "new"])
    assert lines[0] == "  a"
    assert "- loss 1.120" in lines
    assert any(line.startswith("+ loss 2.5") and "1.120 against 2.5" in line for line in lines)
    assert "- gone" in lines and "+ new" in lines


@pytest.mark.parametrize(
    ("shown", "found", "same"),
    [
        ("Took 0.8 s (calibrate 0.1 s, error per op 1.6 s)", "Took 0.3 s", True),
        ("Took 2 min 8 s (export 0.1 s)", "Took 0.3 s (parity 0.1 s)", True),
        ("Took 0.3 s; nothing was written.", "Took 1.3 s; nothing was written.", True),
        ("Took 0.3 s; nothing was written.", "Took 1.3 s.", False),
    ],
)
def test_which_stages_took_longest_is_the_machine_s(shown: str, found: str, same: bool) -> None:
    assert agrees([shown], [found]) is same
