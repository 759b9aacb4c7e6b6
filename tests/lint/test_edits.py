"""Arguments are added and removed without harm to what stands around them."""

from __future__ import annotations

import ast

import pytest

from ampconvert.lint.engine import apply
from ampconvert.lint.rule import Rule
from ampconvert.lint.source import Source


def changed(text: str, change: str, argument: str = "x") -> str:
    source = Source(text)
    call = source.nodes(ast.Call)[0]
    given = next((k for k in call.keywords if k.arg == argument), None)
    if change == "remove":
        edits = [source.edits.remove_argument(call, given or call.args[0])]
    elif change == "first":
        edits = [source.edits.add_first(call, '"cuda"')]
    else:
        edits = [*source.edits.unwrapped(call, call.args[0])]
    fix = Rule.fix("change it", edits, safe=True)
    assert fix is not None
    result, _ = apply(text, [fix])
    ast.parse(result)
    return result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("f(x=1)", "f()"),
        ("f(x=1,)", "f()"),
        ("f(x=(1), a=2)", "f(a=2)"),
        ("f(a, x=(1))", "f(a)"),
        ("f(a, x=1, )", "f(a, )"),
        ("f(((1)), a)", "f(a)"),
        ("f(a, x=1, # why\n  b=2)", "f(a, # why\n  b=2)"),
        ("f(a,  # why\n  x=1)", "f(a,  # why\n  )"),
        ("f(\n    # first\n    x=1,  # gone\n    b=2,\n)", "f(\n    # first\n    b=2,\n)"),
        ("f(\n    a, b,\n    x=1\n)", "f(\n    a, b,\n)"),
    ],
)
def test_removes_an_argument_with_its_comma(text: str, result: str) -> None:
    assert changed(text, "remove") == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("f()", 'f("cuda")'),
        ("f((a), b)", 'f("cuda", (a), b)'),
        ("f(**k)", 'f("cuda", **k)'),
        ("f(*a)", 'f("cuda", *a)'),
        ("(f)(a)", '(f)("cuda", a)'),
        ("f(  # why (not)\n    a,\n)", 'f(  # why (not)\n    "cuda", a,\n)'),
    ],
)
def test_adds_a_first_argument(text: str, result: str) -> None:
    assert changed(text, "first") == result


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("y = f(a + b)", "y = a + b"),
        ("y = f(a + b) * 2", "y = (a + b) * 2"),
        ("y = -f(a)", "y = -a"),
        ("g(f((a, b)))", "g((a, b))"),
        ("y = f(\n    a +\n    b\n)", "y = (a +\n    b)"),
    ],
)
def test_puts_an_argument_in_the_place_of_its_call(text: str, result: str) -> None:
    source = Source(text)
    call = next(c for c in source.nodes(ast.Call) if source.segment(c.func) == "f")
    fix = Rule.fix("unwrap", [*source.edits.unwrapped(call, call.args[0])], safe=True)
    assert fix is not None
    assert apply(text, [fix])[0] == result
