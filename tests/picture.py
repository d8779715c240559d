"""Draws docs/page.png, the README's picture of the page: python -m tests.picture (make picture)."""

from __future__ import annotations

from playwright.sync_api import expect

from service.settings import ROOT
from tests.browsing import chromium
from tests.running import running

PICTURE = ROOT / "docs" / "page.png"
VIEWPORT = {"width": 1280, "height": 700}


def draw() -> None:
    with running(ROOT / "artefacts" / "en-person") as service, chromium() as browser:
        page = browser.new_page(viewport=VIEWPORT)
        page.goto(f"http://127.0.0.1:{service.port}")
        page.reload()  # the first visit loads more than a text
        expect(page.locator("#view mark")).to_have_count(8)
        page.evaluate("document.fonts.ready")
        PICTURE.parent.mkdir(exist_ok=True)
        page.screenshot(path=PICTURE)


if __name__ == "__main__":
    draw()
