"""The page for people in Chromium, with the bundled model behind it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.artefact import load, save
from model.labels import spans_of
from model.tagger import Tagger
from model.tokeniser import tokeniser
from service.keys import new_key
from service.settings import ROOT
from tests.running import Running, running
from tests.strategies import any_text, brief
from training.corpus import read_corpus

browsing = pytest.importorskip("tests.browsing", reason="playwright is not installed")

from axe_playwright_python.base import AXE_SCRIPT  # noqa: E402
from playwright.sync_api import Browser, Page, Route, expect  # noqa: E402

BUNDLED = ROOT / "artefacts" / "en-person"
SEED = "Harry Potter and Hermione Granger invented a new spell"
EMOJI = "👩‍👩‍👧 Emma Clarke🎉 met José Ángel Nuñez. 🇫🇷 We saw teapots leave."

PATIENCE_MS = 20_000  # machines may be busy; what passes waits for nothing
expect.set_options(timeout=PATIENCE_MS)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.bundled,
    pytest.mark.skipif(browsing.CHROMIUM is None, reason="Chromium is not installed"),
]


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running(BUNDLED) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture
def opened(browser: Browser, service: Running) -> Iterator[Callable[..., Page]]:
    """Opens the page in a browser of its own. Nothing may go wrong there, or be asked of others."""
    contexts = []
    wrong: list[str] = []
    asked: list[str] = []
    home = f"http://127.0.0.1:{service.port}"

    def opened(url: str = home, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        if url.startswith("http://127.0.0.1"):
            context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith((home, "blob:" + home))] == []


@pytest.fixture
def page(opened: Callable[..., Page]) -> Page:
    page = opened()
    expect(page.locator("#view mark").first).to_be_visible()
    return page


def enter(page: Page, text: str) -> None:
    """Pastes a text over what is there, and waits for its answer."""
    page.evaluate("text => navigator.clipboard.writeText(text)", text)
    page.locator("#text").press("Control+a")
    page.locator("#text").press("Control+v")
    if len(text) < 100_000:
        expect(page.locator("#view")).to_have_text(text, use_inner_text=False)


def type_slowly(page: Page, keys: str) -> None:
    """Types where the cursor is; after every letter the answer comes and is shown."""
    for key in keys:
        page.keyboard.type(key)
        expect(page.locator("#view")).to_have_text(page.input_value("#text"), use_inner_text=False)


def marked(page: Page, kind: str = "") -> list[str]:
    """The persons that are shown, without those that were removed."""
    return page.locator(f"#view mark{kind}:not(.removed)").all_text_contents()


def select(page: Page, words: str) -> None:
    """Selects the first mention of the words in the result, with the mouse."""
    box = page.evaluate(
        """words => {
          const view = document.getElementById("view");
          view.scrollIntoView({block: "center"}); // dragging at the window's edge would scroll it
          const first = view.textContent.indexOf(words);
          const range = document.createRange();
          const walk = document.createTreeWalker(view, NodeFilter.SHOW_TEXT);
          let at = 0;
          for (let node; (node = walk.nextNode()); at += node.length) {
            const [start, end] = [first - at, first + words.length - at];
            if (start >= 0 && start < node.length) range.setStart(node, start);
            if (end > 0 && end <= node.length) range.setEnd(node, end);
          }
          const boxes = [...range.getClientRects()];
          const [from, to] = [boxes[0], boxes.at(-1)];
          return {
            left: from.left, top: from.top + from.height / 2,
            right: to.right, bottom: to.top + to.height / 2,
          };
        }""",
        words,
    )
    page.mouse.move(box["left"] + 0.5, box["top"])
    page.mouse.down()
    page.mouse.move(box["right"] - 0.5, box["bottom"], steps=4)
    page.mouse.up()


def collected(page: Page, folder: Path) -> Path:
    """The corrections, downloaded."""
    with page.expect_download() as download:
        page.click("#download")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def copied(page: Page, name: str) -> str:
    page.click(f'[data-copy="{name}"]')
    expect(page.locator(f'[data-copy="{name}"]')).to_have_text("Copied")
    found: str = page.evaluate("navigator.clipboard.readText()")
    return found


def set_threshold(page: Page, percent: int) -> None:
    page.evaluate(
        """percent => {
          const slider = document.getElementById("threshold");
          slider.value = percent;
          slider.dispatchEvent(new Event("input", {bubbles: true}));
        }""",
        percent,
    )
    expect(page.locator("#threshold-shown")).to_have_text(f"at least {percent} %")


def persons_of(service: Running, text: str, **options: Any) -> list[dict[str, Any]]:
    answer = service.client.post("/v1/tag", json={"text": text, **options})
    assert answer.status_code == 200, answer.text
    return [person for sentence in answer.json()["sentences"] for person in sentence["persons"]]


# What is shown


def test_the_seed_sentence_is_highlighted_as_it_is_typed(page: Page) -> None:
    page.click("#clear")
    page.type("#text", SEED)
    expect(page.locator("#view mark")).to_have_text(["Harry Potter", "Hermione Granger"])
    page.type("#text", ".\nRon Weasley did not.")
    expect(page.locator("#view mark")).to_have_text(["Harry Potter", "Hermione Granger", "Ron Weasley"])
    expect(page.locator("#view")).to_have_text(f"{SEED}.\nRon Weasley did not.", use_inner_text=False)


def test_typing_over_the_example_replaces_it(page: Page) -> None:
    page.focus("#text")
    page.keyboard.type("Ada")
    expect(page.locator("#view")).to_have_text("Ada")


def test_a_person_tells_its_confidence_to_eyes_and_ears(page: Page, service: Running) -> None:
    enter(page, SEED)
    (harry, _) = persons_of(service, SEED)
    percent = f"{round(harry['score'] * 100)} %"
    page.hover("#view mark >> nth=0")
    expect(page.locator("#tip")).to_contain_text(percent)
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()
    expect(page.locator("#view mark").first).to_have_attribute(
        "aria-label", f"Harry Potter, person, {percent}"
    )
    expect(page.locator("#status")).to_contain_text("2 persons")


def test_the_slider_shows_what_the_service_finds_at_that_threshold_and_asks_once(
    page: Page, service: Running
) -> None:
    text = "Caloi won. May left, Player and Harry Potter stayed; Ford of Ford Motors met Paris Hilton."
    enter(page, text)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for percent in (1, 5, 30, 60, 90, 99):
        set_threshold(page, percent)
        expected = [person["text"] for person in persons_of(service, text, threshold=percent / 100)]
        expect(page.locator("#view mark")).to_have_text(expected)
    assert [url.rpartition("/")[2] for url in asked] == ["tag"]
    page.click("#threshold-reset")
    expect(page.locator("#view mark")).to_have_text([one["text"] for one in persons_of(service, text)])


def test_a_text_of_200_kb_is_shown_with_all_its_persons_and_can_be_typed_in(
    page: Page, service: Running
) -> None:
    corpus = (ROOT / "training/people/train.jsonl").read_text("utf-8")
    lines = [json.loads(line)["text"] for line in corpus.splitlines()]
    text = ""
    while len(text) < 200_000:
        text += " ".join(lines[(len(text) + i) % len(lines)] for i in range(5)) + "\n"
    enter(page, text)
    expected = [person["text"] for person in persons_of(service, text)]
    assert len(expected) > 1_000
    expect(page.locator("#view mark")).to_have_count(len(expected))
    assert marked(page) == expected
    page.locator("#text").press("Control+Home")
    page.keyboard.type("Ada Lovelace wrote this. ")
    expect(page.locator("#view mark")).to_have_count(len(expected) + 1)
    assert marked(page) == ["Ada Lovelace", *expected]


def test_right_to_left_lines_stand_at_the_right(page: Page) -> None:
    text = "قال Harry Potter إن السحر حقيقي.\nHermione Granger met שלום in London."
    enter(page, text)
    edges = page.evaluate(
        """() => {
          const view = document.getElementById("view").getBoundingClientRect();
          const lines = document.createRange();
          lines.selectNodeContents(document.querySelector(".chunk"));
          const boxes = [...lines.getClientRects()].filter((box) => box.width > 1);
          const first = boxes.filter((box) => box.top < boxes[0].bottom);
          const last = boxes.filter((box) => box.bottom > boxes.at(-1).top);
          return {
            right: view.right - Math.max(...first.map((box) => box.right)),
            left: Math.min(...last.map((box) => box.left)) - view.left,
          };
        }"""
    )
    assert edges["right"] < 40
    assert edges["left"] < 40


def test_half_a_surrogate_pair_is_no_problem(page: Page) -> None:
    page.evaluate(
        r"""() => {
          const area = document.getElementById("text");
          area.value = "\ud83d Ada Lovelace wrote. \udc00";
          area.dispatchEvent(new Event("input"));
        }"""
    )
    expect(page.locator("#view mark")).to_have_text(["Ada Lovelace"])
    expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("Zoë met Ada Lovelace 🎉.".encode(), "Zoë met Ada Lovelace 🎉."),
        ("\ufeffZoë met Ada Lovelace.".encode(), "Zoë met Ada Lovelace."),
        ("Zoë met Ada Lovelace.".encode("utf-16"), "Zoë met Ada Lovelace."),
        ("Zoë met\r\nAda Lovelace.".encode("cp1252"), "Zoë met\nAda Lovelace."),
    ],
    ids=["utf-8", "utf-8-bom", "utf-16", "cp1252"],
)
def test_a_text_file_can_be_opened_and_dropped(page: Page, content: bytes, shown: str) -> None:
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": content})
    expect(page.locator("#text")).to_have_value(shown)
    expect(page.locator("#view mark").last).to_have_text("Ada Lovelace")
    page.click("#clear")
    page.evaluate(
        """bytes => {
          const files = new DataTransfer();
          files.items.add(new File([new Uint8Array(bytes)], "a.txt", {type: "text/plain"}));
          document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
        }""",
        list(content),
    )
    expect(page.locator("#text")).to_have_value(shown)


def test_what_is_no_text_file_is_refused_in_words(page: Page) -> None:
    page.set_input_files(
        "#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x00\x00"}
    )
    expect(page.locator("#problem")).to_contain_text("not a text file")


# People


@pytest.mark.parametrize(
    ("names", "people"),
    [
        (["Ada Byron", "Byron", "ADA", "A. Byron"], {"Ada Byron": ["A. Byron", "Byron", "ADA"]}),
        (["Ada Roe", "Lily Roe", "Roe", "Lily"], {"Ada Roe": [], "Lily Roe": ["Lily"], "Roe": []}),
        (["J. R. R. Tolkien", "J. Tolkien", "J."], {"J. R. R. Tolkien": ["J. Tolkien"], "J.": []}),
        (["Ada  Lovelace", "Ada\nLovelace"], {"Ada Lovelace": []}),
        (["Mary", "Marie"], {"Mary": [], "Marie": []}),
        (["Zoë Kravitz", "Zoe\u0308"], {"Zoë Kravitz": ["Zoe\u0308"]}),
        ([], {}),
    ],
)  # fmt: skip
def test_ways_to_write_a_name_are_one_person_where_no_other_could_be_meant(
    page: Page, names: list[str], people: dict[str, list[str]]
) -> None:
    found = page.evaluate(
        """async names => {
          const {peopleOf} = await import("/web/people.js");
          return peopleOf(names.map((text, start) => ({text, start})));
        }""",
        names,
    )
    assert {one["name"]: one["variants"] for one in found} == people
    assert sum(len(one["mentions"]) for one in found) == len(names)


def test_the_people_are_counted_and_a_row_walks_through_its_mentions(page: Page) -> None:
    enter(
        page,
        "Harry Potter met Ron Weasley." + "\n" * 60 + "Then Potter left. Ron Weasley and Potter talked.",
    )
    rows = page.locator("#people tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("Harry Potter")
    expect(rows.nth(0).locator("td").first).to_have_text("3")
    for n in (1, 2, 3, 1):
        rows.nth(0).locator("button").click()
        expect(rows.nth(0)).to_contain_text(f"{n} of 3")
        expect(page.locator("mark.found")).to_be_in_viewport()


# Corrections


def test_a_click_removes_a_person_and_another_brings_it_back(page: Page) -> None:
    enter(page, SEED)
    page.click("#view mark >> nth=0")
    assert marked(page) == ["Hermione Granger"]
    expect(page.locator("#corrections-count")).to_have_text("1 text, 1 correction")
    page.click("#view mark.removed")
    assert marked(page) == ["Harry Potter", "Hermione Granger"]
    expect(page.locator("#corrections li")).to_have_count(0)


def test_the_keyboard_alone_removes_and_adds_persons(page: Page) -> None:
    enter(page, "We met Harry Potter and Hermione Granger.")
    expect(page.locator("#view mark").last).to_have_text("Hermione Granger")
    page.locator('#view mark[tabindex="0"]').focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    assert "Hermione Granger" not in marked(page)
    expect(page.locator("#view mark.removed")).to_be_focused()
    page.keyboard.press("Enter")
    assert "Hermione Granger" in marked(page)
    page.focus("#text")
    page.keyboard.press("Control+End")
    for _ in range(len("Granger.")):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+End")
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator("#add")).to_be_enabled()
    page.focus("#add")
    page.keyboard.press("Enter")
    assert marked(page, ".added") == ["Granger"]
    assert "Hermione Granger" not in marked(page)


def test_selected_words_become_a_person_and_a_click_takes_it_back(page: Page) -> None:
    enter(page, EMOJI)
    before = marked(page)
    select(page, "teapots ")
    page.click("#bubble")
    assert marked(page, ".added") == ["teapots"]
    assert set(marked(page)) == {*before, "teapots"}
    expect(page.locator("#bubble")).to_be_hidden()
    page.click("#view mark.added")
    assert "teapots" not in marked(page, ".added")


def test_a_part_of_a_person_can_be_selected_to_mend_its_ends(page: Page) -> None:
    enter(page, SEED)
    select(page, "Potter")
    expect(page.locator("#view mark.removed")).to_have_count(0)
    page.click("#bubble")
    expect(page.locator("#view mark")).to_have_text(["Potter", "Hermione Granger"])
    select(page, "Potter and Hermione Granger")
    page.click("#bubble")
    expect(page.locator("#view mark")).to_have_text(["Potter and Hermione Granger"])


def test_downloaded_corrections_are_what_training_reads(page: Page, tmp_path: Path) -> None:
    enter(page, EMOJI)
    select(page, "teapots")
    page.click("#bubble")
    page.click("#view mark:has-text('Emma Clarke')")
    enter(page, SEED)
    page.click("#keep")
    path = collected(page, tmp_path)
    first, _ = map(json.loads, path.read_text("utf-8").splitlines())
    assert first["text"] == EMOJI
    assert {first["text"][s["start"] : s["end"]] for s in first["spans"]} == {"José Ángel Nuñez", "teapots"}
    assert {s["label"] for s in first["spans"]} == {"PER"}
    sentences = read_corpus(path, tokenise=tokeniser("treebank-1"))
    found = [" ".join(s.tokens[p.start : p.end]) for s in sentences for p in spans_of(s.labels)]
    assert found == ["José Ángel Nuñez", "teapots", "Harry Potter", "Hermione Granger"]


def test_corrections_outlive_the_page_until_they_are_cleared(page: Page) -> None:
    enter(page, SEED)
    page.click("#view mark >> nth=0")
    page.reload()
    expect(page.locator("#text")).to_have_value(SEED)
    expect(page.locator("#view mark.removed")).to_have_text("Harry Potter")
    enter(page, "Another text.")
    page.click("#corrections .name")
    expect(page.locator("#view mark.removed")).to_have_text("Harry Potter")
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("#forget")
    expect(page.locator("#corrections li")).to_have_count(0)
    assert marked(page) == ["Harry Potter", "Hermione Granger"]
    assert page.evaluate("JSON.stringify({...localStorage})") == "{}"


def test_a_text_pasted_over_another_leaves_that_ones_corrections_collected(
    page: Page, tmp_path: Path
) -> None:
    enter(page, "Harry Potter laughed.")
    page.click("#view mark")
    enter(page, "Harry Potter wept.")
    assert marked(page) == ["Harry Potter"]
    (record,) = map(json.loads, collected(page, tmp_path).read_text("utf-8").splitlines())
    assert record == {"text": "Harry Potter laughed.", "spans": []}


def test_an_edit_moves_corrections_along_and_drops_those_it_touches(page: Page, tmp_path: Path) -> None:
    enter(page, SEED)
    page.click("#view mark >> nth=0")
    page.click("#view mark >> nth=1")
    page.locator("#text").press("Control+Home")
    type_slowly(page, "🎉 Once ")
    expect(page.locator("#view mark.removed")).to_have_text(["Harry Potter", "Hermione Granger"])
    for _ in range(len("Harry")):
        page.keyboard.press("ArrowRight")
    page.keyboard.type("ied")
    expect(page.locator("#view")).to_contain_text("Harryied")
    expect(page.locator("#view mark.removed")).to_have_text(["Hermione Granger"])
    expect(page.locator("#note")).to_be_attached()
    (record,) = map(json.loads, collected(page, tmp_path).read_text("utf-8").splitlines())
    assert record["text"].startswith("🎉 Once Harryied Potter")
    assert "Hermione Granger" not in [record["text"][s["start"] : s["end"]] for s in record["spans"]]


@pytest.mark.parametrize(
    ("corrected", "typed", "taken_back"),
    [("Harry Potter", "Once", " "), ("Harry Potter", "Old", "\b\b\b"), ("spell", "s", "\b")],
)
def test_a_correction_that_a_letter_touches_returns_once_the_word_is_whole_again(
    page: Page, tmp_path: Path, corrected: str, typed: str, taken_back: str
) -> None:
    enter(page, SEED)
    if corrected in marked(page):
        page.click(f"#view mark:has-text('{corrected}')")
    else:
        select(page, corrected)
        page.click("#bubble")
    corrections = page.locator("#view mark.removed, #view mark.added")
    expect(corrections).to_have_text(corrected)
    page.locator("#text").press("Control+End" if SEED.endswith(corrected) else "Control+Home")
    type_slowly(page, typed)
    expect(corrections).to_have_count(0)
    expect(page.locator("#corrections li")).to_have_count(1)
    for key in taken_back:
        if key == "\b":
            page.keyboard.press("Backspace")
        else:
            page.keyboard.type(key)
    expect(corrections).to_have_text(corrected)
    (record,) = map(json.loads, collected(page, tmp_path).read_text("utf-8").splitlines())
    assert record["text"] == page.input_value("#text")


def test_two_tabs_that_began_with_one_text_do_not_write_over_each_other(page: Page) -> None:
    enter(page, SEED)
    page.click("#view mark:has-text('Harry')")
    other = page.context.new_page()
    other.goto(page.url)
    other.bring_to_front()
    enter(other, SEED)
    expect(other.locator("#view mark.removed")).to_have_text("Harry Potter")
    page.bring_to_front()
    page.locator("#text").press("Control+End")
    page.keyboard.type(" today")
    expect(page.locator("#corrections")).to_contain_text("spell today")
    expect(other.locator("#corrections")).to_contain_text("spell today")
    other.bring_to_front()
    other.click("#view mark:has-text('Hermione')")
    for tab in (page, other):
        expect(tab.locator("#corrections li")).to_have_count(2)
        expect(tab.locator("#corrections-count")).to_have_text("2 texts, 3 corrections")


words = st.text("ab 🎉\u0301é\n", max_size=8)


@brief
@given(words, words, words, words, words)
def test_whatever_the_edit_a_correction_that_stays_is_of_the_same_characters(
    moving: Page, head: str, name: str, tail: str, cut: str, put: str
) -> None:
    before = head + name + tail
    start, end = len(head.encode("utf-16-le")) // 2, len((head + name).encode("utf-16-le")) // 2
    edited = [before.replace(cut, put, 1), put + before, before + put, head + put + tail, before]
    left = moving.evaluate(
        """async ([span, before, edited]) => {
          const {moved} = await import("/web/corrections.js");
          return edited.map((after) => {
            const {added} = moved({added: [span], removed: []}, before, after);
            return added.map((one) => after.slice(one.start, one.end));
          });
        }""",
        [{"start": start, "end": end}, before, edited],
    )
    assert all(one in ([], [name]) for one in left)
    assert left[-1] == [name]


@pytest.fixture(scope="module")
def moving(browser: Browser, service: Running) -> Page:
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{service.port}")
    return page


@brief
@given(any_text)
def test_code_points_are_counted_as_python_counts_them(moving: Page, text: str) -> None:
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    units = [len(text[:i].encode("utf-16-le")) // 2 for i in range(len(text) + 1)]
    found = moving.evaluate(
        """async ([text, units]) => units.map((await import("/web/offsets.js")).toCodePoints(text))""",
        [text, units],
    )
    assert found == list(range(len(text) + 1))


def test_ten_corrected_sentences_are_learnt(page: Page, tmp_path: Path) -> None:
    sentences = {
        "The fee was paid by quillow.": {"quillow"},
        "According to quillow the door was open.": {"quillow"},
        "Then quillow and mirabeth left early.": {"quillow", "mirabeth"},
        "It was brindlewick who painted the fence.": {"brindlewick"},
        "Nobody but grumbold paid the fee.": {"grumbold"},
        "The note was signed by tarquil.": {"tarquil"},
        "I met fennimop at the station.": {"fennimop"},
        "He came with mirabeth.": {"mirabeth"},
        "She married ollivand in June.": {"ollivand"},
        "Paris Hilton is a hotel in Paris.": set(),
    }
    n_right = 0
    for text, names in sentences.items():
        enter(page, text)
        n_right += set(marked(page)) == names
        for wrong in set(marked(page)) - names:
            page.click(f"#view mark:has-text('{wrong}')")
        for missed in names - set(marked(page)):
            select(page, missed)
            page.click("#bubble")
        if page.is_enabled("#keep"):
            page.click("#keep")
    assert n_right < 6
    page.click("summary")
    command = page.locator("#command").text_content().replace("\\\n", " ").split()
    path = collected(page, tmp_path)
    assert command.pop(0) == "python"
    places = {path.name: str(path), "runs/mine/model": str(tmp_path / "model")}
    arguments = [places.get(word, word) for word in command]
    subprocess.run(
        [sys.executable, *arguments, "--run", str(tmp_path / "run")], cwd=ROOT, timeout=300, check=True
    )
    tagger = Tagger.load(tmp_path / "model", device="cpu")
    for text, names in sentences.items():
        tokens = tagger.tokenise(text)
        (answer,) = tagger.tag([tokens.texts])
        found = {text[tokens.starts[s.span.start] : tokens.ends[s.span.end - 1]] for s in answer.spans}
        assert found == names


# Redaction and copies


def test_the_redacted_text_is_without_the_persons_that_are_shown(page: Page) -> None:
    enter(page, f"{EMOJI} {SEED}.")
    page.click("#view mark:has-text('Harry Potter')")  # no person, says the reader
    names = marked(page)
    instead = (
        ("Redacted", "label", r"^\[PERSON"),
        ("Redacted", "mask", "^█+$"),
        ("Pseudonyms", None, "^[A-Z][a-z]"),
    )
    for choice, mode, pattern in instead:
        page.click(f".segments label:has-text('{choice}')")
        if mode:
            page.select_option("#mode", mode)
        expect(page.locator("#changed mark")).to_have_text([re.compile(pattern)] * len(names))
        text = page.locator("#changed").text_content()
        assert "Harry Potter and" in text
        for name in names:
            assert name not in text
        assert copied(page, "text") == text


def test_pseudonyms_stay_while_the_text_grows(page: Page) -> None:
    enter(page, SEED)
    page.click(".segments label:has-text('Pseudonyms')")
    expect(page.locator("#changed mark")).to_have_count(2)
    before = page.locator("#changed mark").all_text_contents()
    page.locator("#text").press("Control+End")
    page.keyboard.type(" and then")
    expect(page.locator("#changed")).to_contain_text("and then")
    assert page.locator("#changed mark").all_text_contents() == before


def test_the_json_that_is_copied_holds_the_persons_with_exact_offsets(page: Page) -> None:
    enter(page, EMOJI)
    select(page, "teapots")
    page.click("#bubble")
    found = json.loads(copied(page, "json"))
    assert [found["text"][p["start"] : p["end"]] for p in found["persons"]] == marked(page)
    assert [p["text"] for p in found["persons"]] == marked(page)
    assert found["model"]["name"] == "en-person"


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("times", [1, 600], ids=["short", "long"])
def test_the_curl_command_that_is_copied_gives_the_answer_shown(page: Page, times: int) -> None:
    enter(page, "“It's Ada's”, said Charles Babbage. $HOME `x` \\ 🎉\n" * times)
    set_threshold(page, 30)
    expect(page.locator("#view mark").first).to_be_visible()
    done = subprocess.run(["bash", "-c", copied(page, "curl")], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert [p["text"] for s in answer["sentences"] for p in s["persons"]] == marked(page)


def test_the_columns_that_are_copied_are_what_training_reads(page: Page, tmp_path: Path) -> None:
    enter(page, f"{EMOJI} {SEED}. They came potterishly.")
    select(page, "teapots")
    page.click("#bubble")
    select(page, "potteri")  # part of a token
    page.click("#bubble")
    select(page, "spell. They")  # across the sentences' end
    page.click("#bubble")
    shown = marked(page)
    path = tmp_path / "copied.conll"
    path.write_text(copied(page, "conll"), "utf-8")
    sentences = read_corpus(path, tokenise=tokeniser("treebank-1"))
    found = ["".join(s.tokens[p.start : p.end]) for s in sentences for p in spans_of(s.labels)]
    assert found == ["".join(name.split()) for name in shown]
    whole = "".join("".join(s.tokens) for s in sentences)
    assert whole == "".join(page.locator("#text").input_value().split())


# Model, keys, problems


def test_the_model_card_is_one_click_away(page: Page) -> None:
    page.click("#card-open")
    artefact = load(BUNDLED)
    (score,) = (one for one in artefact.training["scores"]["sets"] if one["name"] == "wikigold/test")
    expect(page.locator("#card-title")).to_have_text(f"Model card: en-person {artefact.config.version}")
    content = page.locator("#card-content")
    for heading in ("Scores", "Known failures", "Data"):
        expect(content.get_by_role("heading", name=heading, exact=True)).to_have_count(1)
    expect(content.get_by_role("row", name="wikigold/test").first).to_contain_text(
        f"{100 * score['spans']['f1']:.1f}"
    )
    page.keyboard.press("Escape")
    expect(page.locator("#card")).to_be_hidden()
    expect(page.locator("#card-open")).to_be_focused()


@pytest.mark.parametrize("name", ["en-person", "en-person-accurate"])
def test_no_markup_of_a_card_is_left_over(page: Page, name: str) -> None:
    card = load(ROOT / "artefacts" / name).card
    shown = page.evaluate(
        """async card => {
          const {element, rendered} = await import("/web/markdown.js");
          const shown = element("div", ...rendered(card));
          const whole = shown.textContent;
          shown.querySelectorAll("pre").forEach((one) => one.remove());
          return {whole, prose: shown.innerText};
        }""",
        card,
    )
    assert not re.search(r"\*\*|`|^#+ |^\||--:", shown["prose"], re.MULTILINE)
    words = re.findall(r"\w[\w.,-]*", re.sub(r"^```.*", "", card, flags=re.MULTILINE))
    assert [word for word in words if word not in shown["whole"]] == []


def test_what_looks_like_html_in_a_card_is_shown_as_it_is(page: Page) -> None:
    found = page.evaluate(
        """async card => {
          const {element, rendered} = await import("/web/markdown.js");
          return element("div", ...rendered(card, 1)).innerHTML;
        }""",
        "# A <b>\n\n**x** `y*` [z](https://a.example/) [w](javascript:1)\n- one\n  more\n- two\n",
    )
    assert found == (
        '<h2>A &lt;b&gt;</h2><p><strong>x</strong> <code>y*</code> <a href="https://a.example/">z</a> '
        "[w](javascript:1)</p><ul><li>one more</li><li>two</li></ul>"
    )


def test_another_model_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    artefact = load(BUNDLED)
    save(replace(artefact, config=replace(artefact.config, name="second")), tmp_path / "second")
    with running(BUNDLED, tmp_path / "second") as service:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{service.port}")
        with page.expect_request("**/v1/tag") as asked:
            page.select_option("#model", "second")
        assert asked.value.post_data_json["model"] == "second"
        page.click("#card-open")
        expect(page.locator("#card-title")).to_have_text(f"Model card: second {artefact.config.version}")
        page.close()


def test_where_a_key_is_needed_the_page_asks_for_one_and_keeps_it_for_the_tab_only(
    browser: Browser, tmp_path: Path
) -> None:
    key, remembered = new_key("ada")
    (tmp_path / "keys.txt").write_text(remembered.line + "\n", "utf-8")
    with running(BUNDLED, keys_file=tmp_path / "keys.txt") as service:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{service.port}")
        # The right key comes before the answers to the wrong one.
        late: list[Route] = []
        page.route(
            "**/v1/*",
            lambda route: (
                late.append(route) if "wrong" in route.request.headers.get("authorization", "")
                else route.continue_()
            ),
        )  # fmt: skip
        for each in ("wrong", key):
            expect(page.locator("#key-form")).to_be_visible()
            expect(page.locator("#problem")).to_be_visible()
            page.fill("#key", each)
            page.keyboard.press("Enter")
        expect(page.locator("#view mark").first).to_be_visible()
        assert late
        for route in late:
            route.fulfill(status=401, json={"title": "Late"})
        expect(page.locator("#problem")).to_be_hidden()
        expect(page.locator("#key-form")).to_be_hidden()
        expect(page.locator("#problem")).to_be_hidden()
        page.reload()
        expect(page.locator("#view mark").first).to_be_visible()
        assert key not in page.evaluate("JSON.stringify({...localStorage}) + document.cookie")
        page.close()


def test_a_text_over_a_limit_is_refused_in_words(browser: Browser) -> None:
    with running(BUNDLED, max_document_chars=50) as service:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{service.port}")
        expect(page.locator("#problem")).to_contain_text("allows 50")
        page.focus("#text")
        page.keyboard.type("Ada Lovelace wrote.")
        expect(page.locator("#view mark")).to_have_text("Ada Lovelace")
        expect(page.locator("#problem")).to_be_hidden()
        page.close()


# For everybody

LOOKS = {
    "desktop": {"viewport": {"width": 1280, "height": 860}},
    "dark": {"viewport": {"width": 1280, "height": 860}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_to_object_to(opened: Callable[..., Page], look: str) -> None:
    page = opened(bypass_csp=True, **LOOKS[look])  # axe is no part of the page
    enter(page, f"{EMOJI} {SEED}. Caloi won.")
    set_threshold(page, 2)
    select(page, "teapots")
    if page.locator("#bubble").is_visible():
        page.click("#bubble")
    page.click("#view mark >> nth=0")
    page.evaluate(AXE_SCRIPT)
    for step in (None, ".segments label:has-text('Redacted')", "summary", "#card-open"):
        if step:
            page.click(step)
        if step == "#card-open":
            expect(page.locator("#card-content h3").first).to_be_visible()
        found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        assert [(v["id"], v["impact"], [n["html"] for n in v["nodes"]]) for v in found] == []
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
