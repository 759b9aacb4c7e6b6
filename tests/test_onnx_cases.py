"""Every hard case, in both low types, by three plans: what comes out is valid, loads and agrees."""

from __future__ import annotations

import onnx
import pytest

from ampconvert.dtypes import Low
from ampconvert.rules import LOWS
from tests.onnx_cases import load_all
from tests.onnx_judge import PLANS, complaints, convert, opened, params, reference

CASES = load_all()


@pytest.mark.parametrize("name", params(CASES))
def test_the_case_itself_is_valid_and_runs(name: str) -> None:
    found = CASES[name]
    if found.valid:
        with pytest.raises(onnx.checker.ValidationError):
            onnx.checker.check_model(found.model, full_check=True)
    else:
        onnx.checker.check_model(found.model, full_check=True)
    if found.runs:
        with pytest.raises(Exception, match=r"not a registered function|same node name"):
            opened(found.model)
    else:
        opened(found.model)
        assert len(reference(found)) == len(found.feeds)


@pytest.mark.parametrize(("name", "low", "kind"), params(CASES, LOWS, PLANS))
def test_conversion(name: str, low: Low, kind: str) -> None:
    found = complaints(convert(CASES[name], low, kind))
    assert not found, f"{name}, {low}, plan {kind!r}:\n" + "\n".join(found)
