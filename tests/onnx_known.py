"""Defects that are known, as expected failures: one that is mended makes its test fail here, so
that its line goes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import pytest

UNTYPED = "the type of a sequence or optional that the file does not give is taken for a tensor's"
MISMATCH = "a function whose body imports another opset than the model is not inlined"
DEFAULT = "a feed for an input with a default value is refused"
NO_KERNEL = "EyeLike runs in float16, and ONNX Runtime's CPU provider has no kernel for it"

# The test and its parameters, as patterns -> what is wrong.
KNOWN = {
    "itself/function_of_older_opset": MISMATCH,
    "itself/optional_inside": UNTYPED,
    "conversion/bit_cast/*/forced": "BitCast may be pinned to float16, which changes its meaning",
    "conversion/eye_like/float16/*": NO_KERNEL,
    "conversion/function_of_older_opset/*": MISMATCH,
    "conversion/input_with_default/*": DEFAULT,
    "conversion/optional_inside/*": UNTYPED,
    "conversion/sequence_construct/*": UNTYPED,
    "conversion/sequence_empty/*": UNTYPED,
    "conversion/sequence_in_*": UNTYPED,
    "conversion/sequence_split/*": UNTYPED,
    "denied/function_of_older_opset": MISMATCH,
    "denied/input_with_default": DEFAULT,
    "default/*": DEFAULT,
    "outside/eye_like/float16": NO_KERNEL,
    "outside/function_of_older_opset/*": MISMATCH,
    "outside/optional_inside/*": UNTYPED,
    "outside/sequence_construct/*": UNTYPED,
    "outside/sequence_empty/*": UNTYPED,
    "outside/sequence_in_*": UNTYPED,
    "outside/sequence_split/*": UNTYPED,
    "notes/initializer": "a weight that is rounded loses its doc_string and metadata_props",
    "nan/data": "NaN in the data is noted beside parity, and is no error",
    "refused/proto/*": "what onnx_ir cannot hold ends in its exception, not in a message",
}


def params(test: str, *choices: Iterable[str]) -> list[Any]:
    """Every combination of a test's parameters, those of known defects as expected failures."""
    made = []
    for chosen in itertools.product(*choices):
        name = "/".join((test, *chosen))
        reason = next((why for pattern, why in KNOWN.items() if fnmatch(name, pattern)), "")
        marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
        made.append(pytest.param(*chosen, marks=marks, id="-".join(chosen)))
    return made
