"""Damage to bytes and to structured data, drawn by hypothesis: what the fuzz tests feed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# Numbers, words and marks at which readers stumble.
TOKENS: tuple[bytes, ...] = (
    b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"-1", b"0", b"1e999", b"NaN", b"9" * 40,
    b"9" * 5000, b"\\ud800", b"[" * 50, b"{" * 50, b'"', b"'", b"\\", b"\n", b"\r", b"\t", b"..",
    b":", b"=", b"*", b"[!", b"../", b"C:\\", b"\x1b[31m", "\u202e".encode(), b"null", b"true",
)  # fmt: skip
HOSTILE_WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", " ", "\0", "../x", "C:\\x", "[red]", "\x1b[31m", "\udcff", "x" * 300, "*", "[", "-1",
         "nan", "<script>", "\u202e", "aten::add", "onnx::Relu", "float16", "float32", "output"]
    ),
)  # fmt: skip
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    HOSTILE_WORDS,
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(HOSTILE_WORDS, inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with a few places changed, cut, doubled, or with a token put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        how = draw(st.sampled_from(("flip", "token", "cut", "drop", "double", "bytes", "over")))
        if how == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "token":
            data[at:at] = draw(st.sampled_from(TOKENS))
        elif how == "over":
            token = draw(st.sampled_from(TOKENS))
            data[at : at + len(token)] = token
        elif how == "cut":
            del data[at:]
        elif how == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        elif how == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 200))]
        else:
            data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn, tree: Any) -> Any:
    """A copy of JSON-like data in which some inner values are removed, swapped or replaced."""
    made = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(_places(made)))
        how = draw(st.sampled_from(("replace", "replace", "remove", "borrow")))
        if how == "remove":
            del holder[key]
        elif how == "borrow":
            other, place = draw(st.sampled_from(_places(made)))
            holder[key] = copy.deepcopy(other[place])
        else:
            holder[key] = draw(TREES)
        if not _places(made):
            break
    return made


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in the tree."""
    found: list[tuple[Any, Any]] = []
    pending = [tree]
    while pending:
        one = pending.pop()
        keys = list(one) if isinstance(one, dict) else range(len(one))
        for key in keys:
            found.append((one, key))
            if isinstance(one[key], dict | list):
                pending.append(one[key])
    return found
