"""The report's page in a real browser, opened from its file, as a reader would use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ampconvert.report import words
from ampconvert.report.html import page
from benchmarks.report.browser import browser, missing
from benchmarks.report.made import report
from tests.report.html_window import Window

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is at hand")

OPERATORS = 210
HOSTILE = "</script><img src=x onerror=document.title='hit'>"


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("report") / "report.html"
    made.write_text(page(_with_front(report(OPERATORS))), encoding="utf-8")
    return made


@pytest.fixture
def window(started: Browser, path: Path) -> Iterator[Window]:
    opened = Window(started, path)
    yield opened
    opened.page.close()
    assert opened.wrong == []


def test_opens_without_an_error_or_a_request(window: Window) -> None:
    window.see_everything()
    assert window.count("svg.plot") == 5  # depth, ranges, subnormal, front, histogram
    assert window.page.locator("#tree .rows .row").first.is_visible()
    assert window.page.title().startswith("Parity held")


def test_every_plot_has_words_and_a_table(window: Window) -> None:
    window.see_everything()
    for plot in window.page.query_selector_all("svg.plot"):
        assert plot.get_attribute("role") == "img" and plot.get_attribute("aria-label")
    window.page.locator("#depth summary").click()
    window.page.wait_for_selector("#depth tbody tr")
    assert window.count("#depth tbody tr") == 100
    window.page.locator("#depth button", has_text="Next").click()
    assert "Rows 101 to 200 of 210" in window.page.inner_text("#depth")
    window.page.locator("#ranges summary", has_text="As a table").click()
    window.page.wait_for_selector("#ranges tbody tr")
    assert window.count("#ranges tbody tr") == 100


def test_modules_open_and_close(window: Window) -> None:
    before = window.rows()
    window.page.locator("#tree .row.module[aria-expanded=false] .label").first.click()
    opened = window.rows()
    assert opened > before
    window.page.locator(".controls button", has_text="Open or close all").click()
    assert window.rows() > opened
    window.page.locator(".controls button", has_text="Open or close all").click()
    assert window.rows() == 1  # the one module that all stand in


def test_keys_move_open_and_choose(window: Window) -> None:
    window.page.focus("#tree")
    press = window.page.keyboard.press
    assert window.active() == "encoder.layer"
    press("ArrowDown")
    assert window.active() == "0"
    press("ArrowRight")
    assert window.page.get_attribute("#tree .row.active", "aria-expanded") == "true"
    press("ArrowRight")
    assert window.active() == "attention"
    press("ArrowLeft")
    press("ArrowLeft")
    assert window.active() == "0"  # closed, or at its parent: both lead here
    press("ArrowLeft")
    assert window.active() == "encoder.layer"
    press("End")
    assert window.page.locator("#tree .row.active").is_visible()
    press("Home")
    assert window.active() == "encoder.layer"
    press("PageDown")
    assert window.active() not in ("", "encoder.layer")


def test_search_counts_and_shows(window: Window) -> None:
    window.page.keyboard.press("/")
    assert window.page.evaluate("document.activeElement.id") == "search"
    window.page.keyboard.type("LAYER.3 layer_norm")
    window.told(".total", "match")
    assert window.page.inner_text(".total") == "2 of 210 operators match"
    assert window.count("#tree .row.operator") == 2
    window.told("#status", "2 of")
    window.page.keyboard.press("ArrowDown")  # into the tree
    assert window.active() == "encoder.layer"
    window.page.fill("#search", "no such operator")
    window.told(".total", "0 of 210")
    assert window.rows() == 0


def test_filters_and_sorts(window: Window) -> None:
    data = report(OPERATORS)
    denied = sum(n["runs_in"] == "float32" for n in data["nodes"])
    window.page.select_option("#filter-type", "float32")
    assert f"{denied} of 210" in window.page.inner_text(".total")
    window.page.select_option("#filter-type", "")
    window.page.select_option("#view", "error")
    worst = max(data["nodes"], key=lambda n: n["output_error"])
    first = window.page.locator("#tree .rows .row").first
    assert worst["scope"] in first.inner_text()
    assert window.page.locator("#tree [aria-sort=descending]").inner_text().startswith("Predicted")
    window.page.locator("#tree .head button", has_text="Measured").click()
    assert window.page.input_value("#view") == "measured"


def test_details_say_why(window: Window) -> None:
    data = report(OPERATORS)
    denied = next(n for n in data["nodes"] if n["class"] == "deny")
    window.page.fill("#search", f"{denied['node']} {denied['scope']}")
    window.told(".total", "1 of 210")
    window.page.focus("#tree")
    window.page.keyboard.press("End")
    window.page.keyboard.press("Enter")
    told = window.page.inner_text("#details")
    for said in (denied["reason"], "FP32", denied["where"], denied["rule"], "AMP603", "AT RISK",
                 words.figure(denied["seen"][denied["node"]]["maximum"])):  # fmt: skip
        assert said in told
    link = window.page.locator("#details a").first
    assert link.get_attribute("href") == denied["source"]
    assert "noreferrer" in str(link.get_attribute("rel"))


def test_a_name_elsewhere_leads_to_the_tree(window: Window) -> None:
    name = window.page.locator("#model button[data-node]").first
    node = name.get_attribute("data-node")
    name.click()
    assert window.page.inner_text("#details h3") == node
    assert window.page.evaluate("document.activeElement.id") == "tree"
    window.page.locator("#casts button.link").first.click()
    assert window.page.inner_text("#details h3") != node


def test_a_click_into_a_plot_leads_to_the_tree(window: Window) -> None:
    window.see_everything()
    plot = window.page.locator("#ranges svg.plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box is not None
    window.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    window.page.wait_for_selector("#ranges [aria-label=tip] tspan")
    window.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert window.page.inner_text("#details h3") in {n["node"] for n in report(OPERATORS)["nodes"]}


def test_themes_change_the_colours(window: Window) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = window.page.evaluate(colour)
    window.page.emulate_media(color_scheme="dark")
    dark = window.page.evaluate(colour)
    assert dark != light
    window.page.click("#theme")
    assert window.page.inner_text("#theme") == "Theme: light"
    assert window.page.evaluate(colour) == light
    window.page.click("#theme")
    window.page.emulate_media(color_scheme="light")
    assert window.page.evaluate(colour) == dark


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_does_not_scroll_sideways(started: Browser, path: Path, width: int) -> None:
    window = Window(started, path, viewport={"width": width, "height": 800})
    window.see_everything()
    assert window.page.evaluate("document.documentElement.scrollWidth") <= width
    window.page.close()


def test_paper_shows_modules_and_plots(window: Window) -> None:
    assert len(window.page.pdf()) > 20_000
    window.page.emulate_media(media="print")
    window.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert window.count(".on-paper tbody tr") >= 10
    assert window.page.locator(".on-paper").is_visible()
    assert not window.page.locator(".controls").is_visible()
    assert window.count("svg.plot") == 5
    window.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert window.count(".on-paper") == 0


def test_without_scripts_the_verdict_is_there(started: Browser, path: Path) -> None:
    opened = started.new_page(java_script_enabled=False)
    opened.goto(path.as_uri())
    assert opened.locator("#verdict h2").inner_text() == "Parity held"
    assert "Scripts are off" in opened.inner_text("body")
    assert not opened.locator("#theme").is_visible()
    opened.close()


def test_hostile_names_stay_text(started: Browser, tmp_path: Path) -> None:
    data = report(60)
    for node in data["nodes"]:
        for key in ("node", "scope", "where", "rule", "reason", "source", "op"):
            node[key] += HOSTILE
        node["seen"] = {HOSTILE: next(iter(node["seen"].values()))}
    made = tmp_path / "hostile.html"
    made.write_text(page(data), encoding="utf-8")
    window = Window(started, made)
    window.see_everything()
    window.page.locator("#tree .row.operator, #tree .row.module").first.click()
    window.page.select_option("#view", "error")
    window.page.locator("#tree .row.operator").first.click()
    assert HOSTILE in window.page.inner_text("#details")
    assert window.count("img") == 0 and window.page.title() != "hit"
    assert window.wrong == []
    window.page.close()


@pytest.mark.parametrize("kind", ["old plan", "verify", "empty", "analyze", "not finite"])
def test_other_reports_open_without_an_error(started: Browser, tmp_path: Path, kind: str) -> None:
    full = report(60)
    old = {"dtype": "float16", "nodes": [
        {k: n[k] for k in ("node", "verdict", "runs_in", "class", "rule", "reason", "source",
                           "evidence", "figure")} for n in full["nodes"]
    ]}  # fmt: skip
    data = {
        "old plan": old,
        "verify": {"command": "verify", "low": "float16", "parity": full["parity"]},
        "empty": {},
        "not finite": _not_finite(report(60)),
        "analyze": {**full, "command": "analyze", "parity": None, "differences": None},
    }[kind]
    made = tmp_path / "report.html"
    made.write_text(page(data), encoding="utf-8")
    window = Window(started, made)
    window.see_everything()
    assert (window.count("#tree") == 1) == (kind in ("old plan", "analyze", "not finite"))
    if kind == "not finite":
        assert "no element is finite on both sides" in window.page.inner_text("#parity")
        assert "60 results are not finite" in window.page.inner_text("#depth")
    assert window.wrong == []
    window.page.close()


def test_figures_read_as_in_the_terminal(window: Window) -> None:
    """The words of the page's script are those of the terminal; they are read out of its rows."""
    data = report(OPERATORS)
    window.page.select_option("#view", "error")
    shown = [
        row.split("\n") for row in window.page.locator("#tree .row.operator").all_inner_texts()
    ]
    worst = sorted(data["nodes"], key=lambda n: -n["output_error"])
    for cells, node in zip(shown[:20], worst[:20], strict=True):
        assert words.figure(node["output_error"]) in cells
        assert words.percent(node["flops"] / data["summary"]["flops"]) in cells
        memory = node["result_bytes"][1] + node["weight_bytes"][1]
        assert words.size(memory) in cells


def test_axe_finds_nothing_serious(window: Window) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text("utf-8")
    window.see_everything()
    window.page.locator("#depth summary").click()
    for theme in ("light", "dark"):
        window.page.emulate_media(color_scheme=theme)
        # Evaluated by the driver: the page's own policy would not let it in.
        window.page.evaluate(source)
        found = window.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        bad = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
        assert not bad, json.dumps(
            [(theme, v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in bad], indent=1
        )


def _not_finite(data: dict[str, Any]) -> dict[str, Any]:
    data["parity"]["outputs"][0] |= {
        "rel_l2": "Infinity", "finite": False, "ok": False,
        "histogram": {"errors": [], "values": [], "exact": 0},
    }  # fmt: skip
    for value in data["differences"]["values"]:
        value["rel_l2"] = "Infinity"
    return data


def _with_front(data: dict[str, Any]) -> dict[str, Any]:
    points = [
        {"seconds": 2e-4 + 1e-5 * i, "error": 1e-3 / (i + 1), "measured": 1.2e-3 if not i else None,
         "full": i, "casts": i, "chosen": not i, "default": not i}
        for i in range(6)
    ]  # fmt: skip
    return {**data, "front": {"seconds_full": 4e-4, "points": points}}
