"""Small parts of a libcst tree: made, split, and added in the manner of their neighbours."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, TypeVar

import libcst as cst

_HOLE = "ampconvert_hole"
Item = TypeVar("Item", cst.Arg, cst.BaseDictElement, cst.Param)


def expression(text: str) -> cst.BaseExpression:
    """An expression of this text."""
    return cst.parse_expression(text)


def lines(text: str) -> list[cst.BaseStatement | cst.SimpleStatementLine]:
    """The statements of this text."""
    module = cst.parse_module(text + "\n")
    first, *rest = module.body
    if module.header:
        first = first.with_changes(leading_lines=[*module.header, *first.leading_lines])
    return [first, *rest]


def within(text: str, inner: cst.BaseExpression) -> cst.BaseExpression:
    """The expression `text` with `inner` for its `{}`."""
    if "{}" not in text:
        return expression(text)
    outer = expression(text.replace("{}", _HOLE))
    direct = "(())" in text.replace("{}", "()")  # in a call's own parentheses
    filled = outer.deep_replace(_hole(outer), without_parentheses(inner) if direct else inner)
    assert isinstance(filled, cst.BaseExpression)
    return filled


def _hole(node: cst.CSTNode) -> cst.Name:
    """The name in `node` that stands for what is to be filled in."""
    if isinstance(node, cst.Name) and node.value == _HOLE:
        return node
    for child in node.children:
        with contextlib.suppress(LookupError):
            return _hole(child)
    raise LookupError(_HOLE)


def without_parentheses(node: cst.BaseExpression) -> cst.BaseExpression:
    """`(a + b)` as `a + b`, where that stands on one line and is not a tuple or generator."""
    if len(node.lpar) != 1 or isinstance(node, cst.Tuple | cst.GeneratorExp | cst.NamedExpr):
        return node
    bare = node.with_changes(lpar=[], rpar=[])
    return node if "\n" in cst.Module([]).code_for_node(bare) else bare


def appended(
    items: Sequence[Item], new: Item, opening: cst.BaseParenthesizableWhitespace | None = None
) -> list[Item]:
    """`items` with `new` at the end, with commas and line breaks as between the others.

    `opening` is what stands before the first: where that is all there is, a line break in it is one
    between them too.
    """
    if not items:
        return [new]
    *head, last = items
    between = head[-1].comma if head else cst.MaybeSentinel.DEFAULT
    if not head and isinstance(opening, cst.ParenthesizedWhitespace):
        between = cst.Comma(whitespace_after=opening)
    if isinstance(between, cst.MaybeSentinel):
        between = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    if not isinstance(last.comma, cst.MaybeSentinel):
        new = new.with_changes(comma=last.comma)
    if isinstance(last, cst.Arg) and isinstance(new, cst.Arg):
        new = new.with_changes(whitespace_after_arg=last.whitespace_after_arg)
        last = last.with_changes(whitespace_after_arg=cst.SimpleWhitespace(""))
    return [*head, last.with_changes(comma=between), new]


def parameter(given: cst.Parameters, name: str, annotation: str) -> cst.Parameters:
    """`given` with one more parameter that calls name: `f(model, scaler)`, `f(a=1, *, scaler)`."""
    made = cst.Param(cst.Name(name))
    if annotation and any(p.annotation is not None for p in given.params):
        made = made.with_changes(annotation=cst.Annotation(expression(annotation)))
    plain = not any(p.default is not None for p in given.params)
    if plain and isinstance(given.star_arg, cst.MaybeSentinel) and given.star_kwarg is None:
        return given.with_changes(params=appended(given.params, made))
    kept: dict[str, Any] = {"kwonly_params": appended(given.kwonly_params, made)}
    if isinstance(given.star_arg, cst.MaybeSentinel):
        kept["star_arg"] = cst.ParamStar()
        if given.params and not isinstance(given.params[-1].comma, cst.MaybeSentinel):
            comma = given.params[-1].comma
            between = given.params[-2].comma if len(given.params) > 1 else comma
            kept["params"] = [*given.params[:-1], given.params[-1].with_changes(comma=between)]
            kept["kwonly_params"] = [made.with_changes(comma=comma)]
    return given.with_changes(**kept)


def split(line: cst.SimpleStatementLine) -> list[cst.SimpleStatementLine]:
    """`a; b` as two lines: comments before it stay with the first, one behind it with the last."""
    bare = [small.with_changes(semicolon=cst.MaybeSentinel.DEFAULT) for small in line.body]
    made = [cst.SimpleStatementLine([small]) for small in bare]
    made[0] = made[0].with_changes(leading_lines=line.leading_lines)
    made[-1] = made[-1].with_changes(trailing_whitespace=line.trailing_whitespace)
    return made


def as_block(suite: cst.SimpleStatementSuite) -> cst.IndentedBlock:
    """`: a; b` as a block of lines."""
    line = cst.SimpleStatementLine(suite.body, trailing_whitespace=suite.trailing_whitespace)
    return cst.IndentedBlock(split(line))
