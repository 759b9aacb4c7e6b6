"""What ONNX's operator schemas say of types: which operand may be held in `low`, and with which
others it has to agree. Read from the schemas of the opset at hand; no operator is named here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ampconvert.dtypes import Low
from ampconvert.element_types import RESULT_ATTRIBUTES, schema


@dataclass(frozen=True)
class Signature:
    """One operator at one opset, for a call with so many operands and results.

    `operands` are the formal names. `input_types` and `output_types` name the type variable of each
    place; places with one variable have one type, "" has no partner. `fixed_inputs` and
    `fixed_outputs` are the positions that can't be `low`. `typed_by` are the attributes that give
    the first result its type where no operand does, "" when there is none.
    """

    operands: tuple[str, ...]
    input_types: tuple[str, ...]
    output_types: tuple[str, ...]
    fixed_inputs: tuple[int, ...]
    fixed_outputs: tuple[int, ...]
    typed_by: tuple[str, ...] = ()

    @property
    def movable(self) -> bool:
        """Whether any place at all may be `low`."""
        places = len(self.input_types) + len(self.output_types)
        return len(self.fixed_inputs) + len(self.fixed_outputs) < places


@functools.cache
def signature(
    domain: str, op: str, version: int, inputs: int, outputs: int, low: Low
) -> Signature | None:
    """The signature of an operator called with `inputs` operands; None where no schema is known."""
    known = schema(domain, op, version)
    if known is None:
        return None
    given = _formals(known.inputs, inputs)
    made = _formals(known.outputs, outputs)
    input_types = tuple(_variable(formal) for formal in given)
    typed_by = _typing(known)
    free = not any(_is_left_open(formal, known.inputs, input_types) for formal in made)
    return Signature(
        tuple(formal.name for formal in given),
        input_types,
        tuple(_variable(formal) for formal in made),
        tuple(i for i, formal in enumerate(given) if not (free and _takes(formal, low))),
        tuple(
            i
            for i, formal in enumerate(made)
            if not (free and _takes(formal, low))
            or not (_follows(formal, known.inputs, input_types) or (i == 0 and typed_by))
        ),
        typed_by,
    )


@functools.cache
def hands_on(domain: str, op: str, version: int, low: Low) -> bool:
    """Whether what goes through an If, Loop or Scan may be `low`: its last result takes anything
    that its states may be.
    """
    known = schema(domain, op, version)
    return known is not None and _takes(known.outputs[-1], low)


def _typing(known: Any) -> tuple[str, ...]:
    """The attributes that fix the type of a result which no operand fixes: one that names a type,
    or a tensor that the result is filled with.
    """
    names = [name for name in RESULT_ATTRIBUTES if name in known.attributes]
    filler = known.attributes.get("value")
    if filler is not None and str(filler.type).rpartition(".")[2] == "TENSOR":
        names.append("value")
    return tuple(names)


def _is_left_open(formal: Any, inputs: Sequence[Any], given: tuple[str, ...]) -> bool:
    """Whether a result would have the type of an operand that is left out: then inference picks
    one, and no schema says which.
    """
    variable = _variable(formal)
    if not variable or variable in given or not _takes(formal, "float"):
        return False
    return any(_variable(other) == variable for other in inputs)


def _formals(parameters: Sequence[Any], count: int) -> list[Any]:
    """A schema's parameters for `count` arguments; the last one repeats where it is variadic."""
    formals = list(parameters)[:count]
    while formals and len(formals) < count:
        formals.append(formals[-1])
    return formals


def _variable(formal: Any) -> str:
    """The type variable of a parameter; "" for a fixed type, or where each argument has its own."""
    # ONNX Runtime's schemas spell the same attributes in another case.
    name = str(formal.type_str if hasattr(formal, "type_str") else formal.typeStr)
    one = formal.is_homogeneous if hasattr(formal, "is_homogeneous") else formal.isHomogeneous
    return name if "(" not in name and one else ""


def _takes(formal: Any, element: str) -> bool:
    """Whether a tensor of this element type, or a sequence of such, may stand here."""
    return any(f"tensor({element})" in str(one) for one in formal.types)


def _follows(formal: Any, inputs: Sequence[Any], given: tuple[str, ...]) -> bool:
    """Whether a result has the type of an operand, or is a sequence of it or its element."""
    variable = _variable(formal)
    if variable in given and variable:
        return True
    wrapped = all(not str(one).startswith("tensor(") for one in formal.types)
    holders = [f for f in inputs if wrapped or _is_holder(f)]
    return bool(holders) and any(_variable(f) in given for f in holders)


def _is_holder(formal: Any) -> bool:
    return any(str(one).startswith(("seq(", "optional(")) for one in formal.types)
