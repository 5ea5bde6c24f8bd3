"""A real headless browser: the Chromium of the system, which playwright drives."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """A report in a tab, with everything that it complained of, asked for or popped up.

    Attributes:
        tab: Playwright's page.
        complaints: Console errors and warnings, and uncaught exceptions.
        requests: Addresses other than the file's and what is inlined in it.
        dialogs: Texts of ``alert`` and the like.
    """

    def __init__(self, browser: Any, report: Path, width: int = 1200, **options: Any) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self.tab = browser.new_page(viewport={"width": width, "height": 800}, **options)
        self.tab.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("request", self._note)
        self.tab.on("dialog", self._dismiss)
        self.tab.goto(report.as_uri())
        self.tab.wait_for_selector("html[data-drawn]", timeout=60_000)

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.requests.append(request.url)

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def evaluate(self, program: str) -> Any:
        return self.tab.evaluate(program)

    def wait_for(self, program: str, value: Any) -> None:
        """Until a program has a value; the page's own security policy forbids to wait inside it."""
        deadline = time.monotonic() + 20
        while (found := self.evaluate(program)) != value:
            assert time.monotonic() < deadline, f"{program}: expected {value!r}, still {found!r}"
            time.sleep(0.05)

    def count(self, selector: str) -> int:
        return int(self.tab.locator(selector).count())

    def close(self) -> None:
        self.tab.close()
