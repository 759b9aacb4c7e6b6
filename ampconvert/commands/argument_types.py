"""What options hold: one function for each kind of word, as argparse's `type` takes it."""

from __future__ import annotations

import argparse

from ampconvert.dtypes import parse_low
from ampconvert.errors import UserError


def low_type(text: str) -> str:
    """fp16 or bf16, in any spelling."""
    try:
        return parse_low(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def repair_kinds(text: str) -> list[str]:
    """Kinds of repair, separated by commas."""
    from ampconvert.pipeline_repair import kinds_of

    kinds = [kind.strip() for kind in text.split(",")]
    try:
        kinds_of(kinds)
    except UserError as error:
        raise argparse.ArgumentTypeError(f"{error}; MODEL comes before --repair") from None
    return kinds


def target_name(text: str) -> str:
    """One of the targets that rules/targets describes."""
    from ampconvert.rules import data_directory

    known = sorted(path.stem for path in (data_directory() / "targets").glob("*.toml"))
    if text not in known:
        raise argparse.ArgumentTypeError(f"unknown target {text!r}: use one of {', '.join(known)}")
    return text


def named_type(text: str) -> tuple[str, str]:
    """NAME=TYPE: an input or output of the model, and the type it is to have."""
    # A name may hold "=" itself; a type does not.
    name, _, dtype = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=TYPE, such as images=fp16")
    if dtype.lower() in ("fp32", "f32", "float32", "float"):
        return name, "float32"
    try:
        return name, parse_low(dtype)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{dtype!r} is no type for {name}: use fp16, bf16 or fp32"
        ) from None


def tolerance(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def whole_number(text: str) -> int:
    """0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return int(text)
