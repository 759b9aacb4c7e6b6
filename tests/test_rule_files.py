"""The loader, precedence, command line rules and the rules' pages in the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ampconvert.dtypes import Low
from ampconvert.errors import UserError
from ampconvert.graph import Graph, Node, Value
from ampconvert.report import rules as pages
from ampconvert.rules import LOWS, RuleBook, command_line_rule, first_match, load, placed
from tests.graphs import graph
from tests.rule_examples import graph_of, model_of

GOOD = '[[op]]\nname = "mine"\nclass = "deny"\nreason = "because"\nonnx = ["Relu"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "colour = 3", "unknown key 'colour'"),
        (GOOD + "when = { moon = true }", "unknown condition 'moon'"),
        (GOOD + "when = { reduces_more_than = -1 }", "positive whole number"),
        (GOOD.replace('"deny"', '"never"'), "class is 'never'"),
        (GOOD.replace('"deny"', '{ float16 = "deny" }'), "exactly float16 and bfloat16"),
        (GOOD.replace('reason = "because"\n', ""), "reason is missing"),
        (GOOD.replace('onnx = ["Relu"]\n', ""), "names nothing"),
        (GOOD + 'work = "hard"', "work is 'hard'"),
        (GOOD + 'mask = "wear"', "mask is 'wear'"),
        (GOOD.replace("[[op]]", "[op]"), "double brackets"),
        ("x = 1", "unknown key 'x'"),
        ("[[op", "not valid TOML"),
    ],
)
def test_a_bad_file_is_one_clear_message(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load([path])
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.toml"):
        load([tmp_path / "absent.toml"])


def test_user_rules_come_first_and_unused_ones_are_known(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD + GOOD.replace("mine", "typo").replace("Relu", "Rleu"))
    book = RuleBook(load([path]))
    graph = graph_of(model_of("g (float[4] x) => (float[4] y) { y = Relu(x) }"))
    rule = book.match(graph.nodes[0], graph, "float16")
    assert rule is not None and rule.name == "mine" and rule.user
    assert [r.name for r in book.unused] == ["typo"]
    assert first_match(load(), graph.nodes[0], graph, "float16") != rule


@pytest.mark.parametrize(
    ("pattern", "op", "scope", "expected"),
    [
        ("Softmax", "onnx::Softmax", "", True),
        ("softmax", "onnx::Softmax", "", True),
        ("Softmax", "aten::_softmax", "", True),
        ("layer_norm", "aten::layer_norm", "", True),
        ("Softmax", "onnx::LogSoftmax", "", False),
        ("encoder.layer.0.*", "aten::mm", "encoder.layer.0.attention", True),
        ("encoder.layer.0.*", "aten::mm", "encoder.layer.0", True),
        ("encoder.layer.0", "aten::mm", "encoder.layer.0.attention", True),
        ("encoder.layer.0.*", "aten::mm", "encoder.layer.10.attention", False),
        ("/block*", "aten::mm", "", False),
        ("no*de", "aten::mm", "", True),
    ],
)
def test_command_line_rules(pattern: str, op: str, scope: str, expected: bool) -> None:
    rule = command_line_rule(pattern, "deny")
    node = Node("node", op, (), (), scope=scope)
    graph = Graph((node,), {}, (), ())
    assert rule.matches(node, graph, "float16") is expected
    assert (RuleBook([rule]).match(node, graph, "float16") is rule) is expected
    assert rule.reason == "command line" and rule.class_for("bfloat16") == "deny"


def test_command_line_rule_refuses_nonsense() -> None:
    with pytest.raises(UserError, match="empty"):
        command_line_rule(" ", "deny")
    with pytest.raises(UserError, match="unknown class"):
        command_line_rule("Softmax", "maybe")


def test_overloads_are_told_apart() -> None:
    data = {"x": Value("x", "float32", (4,)), "y": Value("y", "float32", (4,))}
    node = Node("n", "aten::max", ("x",), ("y",), ("self",), overload="dim")
    graph = Graph((node,), data, ("x",), ("y",))
    rule = RuleBook(load()).match(node, graph, "float16")
    assert rule is not None and rule.name == "select-with-index"


@pytest.mark.parametrize("low", LOWS)
def test_the_table_shows_every_rule_and_its_class(low: Low) -> None:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(pages.table(load(), low))
    text = captured.get()
    for rule in load():
        row = next(line for line in text.splitlines() if line.startswith(f"{rule.name} "))
        assert row.split()[1] == rule.class_for(low)


def test_a_page_shows_what_is_known(tmp_path: Path) -> None:
    rule = next(r for r in load() if r.name == "long-sum")
    console = Console(width=500)
    with console.capture() as captured:
        console.print(pages.page(rule))
    text = captured.get()
    known = (rule.reason, rule.source, rule.example, rule.witness, "reduces_more_than = 1024")
    assert all(part in text for part in known)
    assert "ReduceSum, ReduceMean" in text and "unknown counts as more" in text


def test_brackets_in_a_rule_are_no_markup() -> None:
    """A user's glob may hold [0-9], which rich would take for a style."""
    console = Console(width=100)
    with console.capture() as captured:
        console.print(pages.page(command_line_rule("layer.[0-9].mlp", "deny")))
    assert "layer.[0-9].mlp" in captured.get()


def test_a_word_of_the_command_line_is_an_operator_or_else_a_place() -> None:
    built = graph(
        "a = matmul(x, w)", "b = relu(a)", inputs="x", outputs="b", weights={"w": [[1.0]]}
    )
    nodes = tuple(replace(n, scope="head.relu" if n.name == "b" else "body") for n in built.nodes)
    placed_in = replace(built, nodes=nodes)
    for word, fitting in {
        "relu": ["b"],
        "head": ["b"],
        "body": ["a"],
        "a": ["a"],
        "tail": [],
    }.items():
        rule = placed(command_line_rule(word, "deny"), placed_in)
        assert [n.name for n in nodes if rule.matches(n, placed_in, "float16")] == fitting
