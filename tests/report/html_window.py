"""A report's page in a browser window, and all that goes wrong in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Window:
    """A page in a window of its own, and all that went wrong in it."""

    def __init__(self, started: Browser, path: Path, **options: Any) -> None:
        options = {"viewport": {"width": 1440, "height": 900}, **options}
        self.wrong: list[str] = []
        self.page: Page = started.new_page(**options)
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url, path.as_uri()))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def _asked(self, url: str, own: str) -> None:
        if url.partition("#")[0] != own:
            self.wrong.append(f"asked for {url}")

    def see_everything(self) -> None:
        """Scroll through the page, so that each plot is drawn."""
        for place in self.page.query_selector_all(".canvas"):
            place.scroll_into_view_if_needed()
            place.wait_for_selector("svg")

    def active(self) -> str:
        """The row that the keyboard is at, as a screen reader finds it."""
        return str(self.page.evaluate(
            "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
            "?.querySelector('.label').textContent ?? ''"
        ))  # fmt: skip

    def told(self, selector: str, text: str) -> None:
        """Wait until the text is there: the page's policy forbids the driver's own waiting."""
        from playwright.sync_api import expect

        expect(self.page.locator(selector)).to_contain_text(text)

    def rows(self) -> int:
        return int(self.page.get_attribute("#tree", "aria-rowcount") or 0) - 1

    def count(self, selector: str) -> int:
        return self.page.locator(selector).count()
