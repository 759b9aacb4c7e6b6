"""The Markdown page: what it tells, that nothing in it is acted on by mistake, and its size."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ampconvert.report.markdown import page
from ampconvert.report.markdown_text import bullets, code, one_line, prose, table
from tests.report.reports import REPORTS

GFM = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
JOINER = "\u2060"
NASTY = (
    "a|b", "`x`", "a\\|b", "<script>alert(1)</script>", "</details>", "**bold** _em_ ~~gone~~",
    "[text](http://example.org)", "![i](x)", "line\nbreak", "# title", "- item", "1. item",
    "@someone", "#12", ":tada:", "$x$", "&amp; &#35;", "\\", "|", "``", "a\u202eb", "\x1b[31m", "",
)  # fmt: skip


def text_of(tokens: list[Token]) -> str:
    """What a reader sees of parsed Markdown; inline HTML is markup, so it is left out."""
    shown = ("text", "code_inline", "text_special")
    parts = [c.content for t in tokens for c in t.children or () if c.type in shown]
    return "".join(parts).replace(JOINER, "")


def types(tokens: list[Token]) -> set[str]:
    return {t.type for t in tokens} | {c.type for t in tokens for c in t.children or ()}


@pytest.mark.parametrize("text", NASTY)
def test_prose_reads_as_it_was(text: str) -> None:
    hold_prose(text)


@settings(deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from(NASTY), max_size=6).map(" ".join))
def test_any_prose_reads_as_it_was(text: str) -> None:
    hold_prose(text)


@settings(deadline=None)
@given(st.text(max_size=80) | st.lists(st.sampled_from(NASTY), max_size=4).map("".join))
def test_any_name_stays_in_its_cell(text: str) -> None:
    made, count = table(("name", "more"), [[code(text, 500), prose(text, 500)], ["`end`", "-"]])
    tokens = GFM.parse(made)
    assert count == 2 and types(tokens) <= {
        "table_open", "thead_open", "tr_open", "th_open", "inline", "th_close", "tr_close",
        "thead_close", "tbody_open", "td_open", "td_close", "tbody_close", "table_close", "text",
        "code_inline", "html_inline", "text_special",
    }  # fmt: skip
    cells = [t for t in tokens if t.type == "inline"]
    assert len(cells) == 6
    name = text_of([cells[2]])
    assert name == (one_line(text) or "-")
    assert text_of([cells[3]]) == one_line(text)
    html = {c.content for c in cells[2].children or () if c.type == "html_inline"}
    assert html <= {"<code>", "</code>"}


def test_mentions_references_and_emoji_are_broken() -> None:
    shown = prose("ask @someone about #12 :tada:")
    assert f"@{JOINER}someone" in shown and f"#{JOINER}12" in shown and f":{JOINER}tada:" in shown
    assert prose("a_b snake_case 3 > 2") == "a_b snake_case 3 > 2"


def test_long_texts_are_cut() -> None:
    assert prose("word " * 1000).endswith("…") and len(prose("word " * 1000)) <= 700
    assert code("first." * 1000 + "last").endswith("first.last`")
    shown, count = bullets(["x" * 100] * 1000)
    assert 0 < count < 1000 and len(shown) < 10_000


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [
        ("torch", "**Parity held**: relative L2 error", ["Key figures", "Casts", "No GPU ran"]),
        ("onnx failed", "**Parity FAILED** at 1 of 1 output", ["Next steps"]),
        ("verify failed", "**Parity FAILED** at 1 of 1 output", ["`big`", "not finite"]),
        ("verify", "**Parity held**", ["Reference", "Candidate"]),
        ("onnx unverified", "**Parity NOT MEASURED**", ["nothing was run to compare"]),
        ("torch analyze", "**Analyzed, nothing converted**: ", ["measured alone", "PROVED"]),
        ("onnx pareto", "**Plans compared, nothing converted**: ", ["Time against error"]),
        ("onnx repaired", "**Parity", ["Repairs", "scale-squares"]),
        ("onnx explain", "**Analyzed, nothing converted**: ", ["Worst operators"]),
        ("old plan", "**Parity not recorded**", ["plan without its report"]),
    ],
)
def test_the_verdict_comes_first(name: str, first: str, others: list[str]) -> None:
    shown = page(REPORTS[name]())
    assert shown.startswith("## ampconvert: ")
    assert shown.split("\n\n")[1].startswith(first)
    for text in others:
        assert text in shown, text
    assert "None" not in shown and "nan" not in shown


def test_a_conversion_s_page_has_its_figures() -> None:
    data = REPORTS["torch"]()
    shown = page(data)
    assert f"| `{data['parity']['outputs'][0]['output']}` | float32 |" in shown
    for node in data["nodes"]:
        if node["class"] == "deny":
            assert prose(node["reason"]) in shown and f"`{node['rule']}`" in shown
    for cast in data["casts"]:
        assert f"`{cast['label'] or cast['value']}`" in shown
    assert prose(data["next_steps"][0]["text"]) in shown
    assert data["plan_fingerprint"] in shown


@pytest.mark.parametrize("name", ["torch", "torch analyze", "onnx pareto", "verify failed"])
def test_missing_parts_are_left_out(name: str) -> None:
    data = REPORTS[name]()
    for key in data:
        for changed in ({k: v for k, v in data.items() if k != key}, {**data, key: None}):
            assert page(changed).startswith("## ampconvert: "), key
    assert page({}).startswith("## ampconvert: parity not recorded")
    assert page({"command": "convert"}).startswith("## ampconvert: parity not recorded")


def test_operators_of_an_old_plan_are_told() -> None:
    data = {
        "nodes": [
            {"node": f"n{i}", "verdict": "FP32-required", "runs_in": "float32", "class": "deny",
             "rule": "range", "reason": "Seen at 1e6.", "source": "", "evidence": "seen",
             "figure": 1e6}
            for i in range(3)
        ]
    }  # fmt: skip
    assert "| 3 | - | FP32-required | `range` | Seen at 1e6. | `n0` |" in page(data)


@pytest.mark.parametrize("letter", ["n", "|", "é", "`", "<", "\U0001f600"])
def test_the_page_stays_small_whatever_the_model(letter: str) -> None:
    shown = page(huge(letter))
    assert len(shown.encode()) < 64_000
    assert "more operators" in shown or "more kind" in shown
    assert "### Next steps" in shown and shown.startswith("## ampconvert: parity FAILED")
    assert GFM.render(shown).count("<details>") == GFM.render(shown).count("</details>") > 0


def test_names_of_a_hostile_model_do_nothing() -> None:
    for text in NASTY:
        shown = page(renamed(REPORTS["torch"](), lambda name, text=text: f"{name}{text}"))
        tokens = GFM.parse(shown)
        assert not types(tokens) & {
            "link_open",
            "image",
            "em_open",
        }
        html = [t.content for t in tokens if t.type == "html_block"]
        inner = [c.content for t in tokens for c in t.children or () if c.type == "html_inline"]
        assert all("<details>" in one or "</details>" in one for one in html), text
        assert set(inner) <= {"<code>", "</code>"}, text


def renamed(data: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The report with other names, places and reasons of operators and values."""
    made = copy.deepcopy(data)
    for node in made["nodes"]:
        node |= {key: change(node[key]) for key in ("node", "op", "scope", "where", "reason")}
    for op in made["summary"]["worst"]:
        op |= {key: change(op[key]) for key in ("node", "op", "scope", "where", "reason")}
    for cast in made["casts"]:
        cast |= {key: change(cast[key] or "") for key in ("value", "label", "maker")}
        cast["readers"] = [change(name) for name in cast["readers"]]
    for output in made["parity"]["outputs"]:
        output |= {key: change(output[key]) for key in ("output", "note")}
    made["notes"] = [change("a note")]
    made["model"] |= {key: change(made["model"][key]) for key in ("target", "name", "how")}
    return made


def huge(letter: str) -> dict[str, Any]:
    """A report of a model with very many operators, outputs, casts and hazards, all long-named."""
    name = letter * 400
    data = renamed(REPORTS["torch"](), lambda old: old + name)
    first = data["nodes"][0] | {"runs_in": "float32", "class": "deny"}
    data["nodes"] = [
        first | {"node": f"{i}{name}", "rule": f"{i}{name}", "scope": name} for i in range(3000)
    ]
    data["casts"] = [data["casts"][0] | {"readers": [name] * 50} for _ in range(2000)]
    bad = data["parity"]["outputs"][0] | {"ok": False, "note": name, "rel_l2": "NaN"}
    data["parity"] |= {"ok": False, "outputs": [bad] * 500}
    place = {"text": name}
    data["hazards"] = [
        {"code": f"AMP{i}", "severity": "warning", "message": name, "advice": name, "handled": "",
         "name": name, "where": place}
        for i in range(500)
    ]  # fmt: skip
    data["notes"] = [name] * 500
    data["next_steps"] = [{"text": name, "command": name}] * 100
    return data


def hold_prose(text: str) -> None:
    """`prose` of it is one paragraph, or nothing, that a reader sees as the text in one line."""
    tokens = GFM.parse(f"- {prose(text)}")
    assert text_of(tokens) == one_line(text)
    assert types(tokens) <= {
        "bullet_list_open", "list_item_open", "paragraph_open", "inline", "text", "text_special",
        "paragraph_close", "list_item_close", "bullet_list_close",
    }  # fmt: skip
