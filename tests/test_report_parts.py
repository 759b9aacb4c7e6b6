"""The small parts of reports: numbers as people read them, and the progress line."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import ampconvert.pipeline
from ampconvert.report.progress import STAGES, StageLine
from ampconvert.report.words import decibels, duration, figure, listed, percent, plural, size


def test_words() -> None:
    assert [size(n) for n in (0, 999, 1000, 86_700_000, 2.5e12)] == [
        "0 bytes", "999 bytes", "1 kB", "86.7 MB", "2.5 TB",
    ]  # fmt: skip
    assert [percent(s) for s in (0, 1e-5, 0.5, 0.9999, 1, math.nan)] == [
        "0%", "<0.1%", "50%", ">99.9%", "100%", "-",
    ]  # fmt: skip
    assert [figure(n) for n in (None, 0, math.nan, -math.inf, 1.5e-7, 0.0123, 60000.0)] == [
        "-", "0", "NaN", "-inf", "1.5e-7", "0.0123", "60000",
    ]  # fmt: skip
    assert [duration(s) for s in (0.01, 1.26, 200)] == ["10 ms", "1.3 s", "3 min 20 s"]
    assert plural(1, "cast") == "1 cast" and plural(2000, "batch", "batches") == "2,000 batches"
    assert listed("abcdefg", 3) == "a, b, c and 4 more"


@given(st.floats(min_value=0, max_value=1))
def test_percent_never_rounds_to_all_or_nothing(share: float) -> None:
    assert (percent(share) == "100%") == (share == 1)
    assert (percent(share) == "0%") == (share == 0)


def test_progress_is_silent_without_a_terminal_or_when_quiet() -> None:
    for quiet, terminal in ((False, False), (True, True)):
        out = io.StringIO()
        with StageLine(quiet=quiet, console=Console(file=out, force_terminal=terminal)) as line:
            line("capture", 0, 0)
            line("calibrate", 1, 4)
        assert out.getvalue() == ""


def test_progress_names_stage_steps_and_attempt() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with StageLine(console=console) as line:
        for stage, done, total in (("plan", 0, 0), ("export", 0, 0), ("plan", 1, 1)):
            line(stage, done, total)
        line._progress.refresh()
        line("calibrate", 2, 4)
        line._progress.refresh()
    assert f"{STAGES['plan']} (attempt 2)" in out.getvalue()
    assert STAGES["calibrate"] in out.getvalue() and "2/4" in out.getvalue()


def test_every_stage_of_the_pipeline_has_words() -> None:
    folder = Path(ampconvert.pipeline.__file__).parent
    source = "".join(p.read_text(encoding="utf-8") for p in folder.glob("pipeline*.py"))
    stages = set(re.findall(r'\.stage\("([^"]+)"\)', source))
    assert stages and stages <= set(STAGES)


def test_decibels_tell_nothing_off_from_everything_off() -> None:
    shown = [decibels(n) for n in (58.4, float("inf"), float("-inf"), float("nan"), None)]
    assert shown == ["58 dB", "inf", "-inf", "-", "-"]
