"""python benchmarks/page.py: how soon after a keystroke the page shows the persons, in Chromium.

From the last input event until the frame after the one in which the result was changed: the pause
that the page waits for more, the request, the tagging, and the drawing. Prints, in milliseconds, the
median and the slowest of some rounds of the README's sentence, and then a pasted text of 200 kB.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a script's own folder is on the path, and not what is beside it

from playwright.sync_api import Page, sync_playwright  # noqa: E402

from benchmarks import servers  # noqa: E402
from benchmarks.figures import median  # noqa: E402

SENTENCE = "Harry Potter and Hermione Granger invented a new spell"
ROUNDS = 10
WATCH = """() => {
  const text = document.getElementById("text");
  let typed = 0;
  window.shown = [];
  text.addEventListener("input", () => (typed = performance.now()));
  const drawn = () => window.shown.push(performance.now() - typed);
  new MutationObserver(() => requestAnimationFrame(() => setTimeout(drawn)))
    .observe(document.getElementById("view"), {childList: true, subtree: true});
}"""


def typed_ms(page: Page) -> float:
    page.click("#clear")
    page.wait_for_timeout(300)
    page.keyboard.type(SENTENCE, delay=15)
    page.locator("#view mark").nth(1).wait_for()
    page.wait_for_timeout(300)
    found: float = page.evaluate("window.shown.at(-1)")
    return found


def pasted_ms(page: Page, text: str) -> float:
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.click("#clear")
    page.wait_for_timeout(300)
    page.evaluate("window.shown.length = 0")
    page.keyboard.press("Control+v")
    page.locator("#view mark").nth(1_000).wait_for()
    page.wait_for_timeout(500)
    found: float = page.evaluate("window.shown[0]")
    return found


def long_text() -> str:
    lines = (ROOT / "training" / "people" / "train.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    paragraphs: list[str] = []
    while sum(map(len, paragraphs)) < 200_000:
        at = len(paragraphs) * 7
        paragraphs.append(" ".join(texts[(at + i) % len(texts)] for i in range(4)) + "\n")
    return "".join(paragraphs)


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is not installed")
    how = servers.nametag(ROOT / "artefacts" / "en-person", 1)
    with servers.started(*how, ready=servers.NAMETAG_READY, n_ready=1) as server, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        home = f"http://127.0.0.1:{server.port}"
        page = browser.new_page()
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=home)
        page.goto(home)
        page.evaluate(WATCH)
        times = [typed_ms(page) for _ in range(ROUNDS)]
        print(
            f"a sentence, after its last keystroke: median {median(times):.0f} ms, most {max(times):.0f} ms"
        )
        text = long_text()
        times = [pasted_ms(page, text) for _ in range(3)]
        size = f"{len(text.encode()):,} bytes, pasted"
        print(f"{size}: median {median(times):,.0f} ms, most {max(times):,.0f} ms")
        browser.close()
        server.stop()


if __name__ == "__main__":
    main()
