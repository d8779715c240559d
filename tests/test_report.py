import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings

from model.labels import Span
from tests.strategies import any_token, brief
from tests.test_evaluate import sentence, told
from training.report import report
from training.scores import Mistake, evaluate

HISTORY = [
    {"epoch": 1, "loss": 2.5, "grad_norm": 3.0, "dev_f1": 0.5, "dev_precision": 0.6, "dev_recall": 0.4,
     "learning_rate": 1e-3, "seconds": 4.0},
    {"epoch": 2, "loss": 1.5, "grad_norm": 2.0, "dev_f1": 0.625, "dev_precision": 0.7, "dev_recall": 0.55,
     "learning_rate": 5e-4, "seconds": 4.0},
]  # fmt: skip


class Page(HTMLParser):
    """Checks that elements nest; collects text, attributes and ids."""

    def __init__(self, page):
        super().__init__()
        self.text, self.marks, self.attributes, self.ids, self.tags = "", [], [], [], []
        self.open = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag == "mark":
            self.marks.append([dict(attributes)["class"], ""])
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] == "mark":
            self.marks[-1][1] += data


@pytest.fixture(scope="module")
def evaluation():
    """Two sets, two types, every kind of mistake."""
    one = [
        sentence("Ada King met Bob and Acme", (0, 2, "PER"), (3, 4, "PER"), (5, 6, "ORG")),
        sentence("so London won"),
    ]
    other = [sentence("Cy <b>left</b> & co", (0, 1, "PER"))]
    tagger = told(
        [*one, *other],
        [(0, 1, "PER", 0.9), (5, 6, "PER", 0.7)],
        [(1, 2, "PER", 0.6)],
        [(0, 1, "PER", 0.99)],
    )
    return evaluate(tagger, {"one": one, "other": other}, train_names=frozenset({("Bob",)}))


@pytest.fixture(scope="module")
def page(evaluation):
    return report(evaluation, {"history": HISTORY})


def test_the_page_asks_nobody_for_anything(page):
    parsed = Page(page)
    assert "script" not in parsed.tags
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert value.startswith("#"), (tag, name, value)
        assert "://" not in value
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?(.)", page))
    assert "@import" not in page
    policies = [
        value for _, name, value in parsed.attributes if name == "content" and "default-src" in value
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_everything_that_a_drawing_refers_to_is_there_once(page):
    parsed = Page(page)
    assert parsed.tags.count("svg") == 4
    referred = set(re.findall(r"url\(#([^)]+)\)", page)) | {
        value[1:] for _, name, value in parsed.attributes if name == "xlink:href"
    }
    assert referred
    assert referred <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_drawings_take_their_colours_from_the_page(page):
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--first)" in drawn
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) <= {"#000000"}
    for variable in set(re.findall(r"var\((--[\w-]+)\)", page)):
        assert f"{variable}:" in page


def test_the_page_shows_the_scores_that_were_computed(page, evaluation):
    text = Page(page).text
    for scores in (*evaluation.sets, evaluation.pooled):
        assert scores.name in text
        assert f"{100 * scores.spans.f1:.2f}" in text
    for found in evaluation.pooled.slices.values():
        for name in found:
            assert name in text
    for part in (
        "B-PER",
        "I-ORG",
        "Best: epoch 2, F1 62.50",
        "2 epochs, 8 s",
        "By type",
        "Names in training",
    ):
        assert part in text


def test_mistakes_are_marked_in_their_context(page):
    marks = [tuple(mark) for mark in Page(page).marks]
    assert marks.count(("wrong", "London")) == 1
    # In the list of missed names and beside the others of the same sentence.
    assert marks.count(("gold", "Bob")) == 3
    assert marks.count(("wrong gold", "Ada")) == marks.count(("gold", "King")) == 3
    assert marks.count(("wrong gold", "Acme")) == 3
    text = Page(page).text
    for title in ("Missed (1 of 1)", "Invented (1 of 1)", "Wrong boundary (1 of 1)", "Wrong type (1 of 1)"):
        assert title in text


@settings(brief, max_examples=20)  # each draws all figures
@given(any_token)
def test_no_text_of_the_data_becomes_markup(evaluation, token):
    nasty = f'<script>{token}</script>"><img src="http://{token}&lt;--><!--'
    texts = (token, nasty, "&lt;", "<b>", "\x00\x85\ud800")
    mistakes = tuple(
        Mistake("invented", 0.5, text, 0, Span(1, 2, text), ("so", text, "it"), (), (Span(1, 2, text),))
        for text in texts
    )
    scores = replace(
        evaluation.pooled,
        name=nasty,
        worst=mistakes,
        labels=("O", *(nasty for _ in evaluation.pooled.labels[1:])),
        by_type={nasty: evaluation.pooled.spans, "PER": evaluation.pooled.spans},
    )
    page = report(replace(evaluation, model=nasty, version=token, pooled=scores, sets=(scores,)), {})
    page.encode()  # no half surrogate
    parsed = Page(page)
    assert not {"script", "img", "b"} & set(parsed.tags)
    shown = [
        "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text) for text in texts
    ]
    assert parsed.marks[-len(texts) :] == [["wrong", text] for text in shown]


def test_a_long_sentence_is_shown_around_its_mistake(evaluation):
    tokens = tuple(f"w{i}" for i in range(100))
    mistake = Mistake("missed", 0.5, "a", 4, Span(50, 52, "PER"), tokens, (Span(50, 52, "PER"),), ())
    text = Page(report(replace(evaluation, pooled=replace(evaluation.pooled, worst=(mistake,))), {})).text
    assert "… w36 w37" in text
    assert "w64 w65 …" in text
    assert "w35 " not in text
    assert "w66" not in text
    assert "a, sentence 5; PER" in text


def test_two_names_side_by_side_are_marked_as_two(evaluation):
    spans = (Span(0, 1, "PER"), Span(1, 2, "PER"))
    mistake = Mistake("missed", 0.5, "a", 0, spans[0], ("Ada", "Bob"), spans, ())
    marks = Page(report(replace(evaluation, pooled=replace(evaluation.pooled, worst=(mistake,))), {})).marks
    assert ["gold", "Ada"] in marks
    assert ["gold", "Bob"] in marks


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"history": []},
        {"history": [{"epoch": 1}]},
        {"history": [{"epoch": 1, "loss": 2.0, "dev_f1": None}, {"epoch": 2, "loss": None, "dev_f1": 0.5}]},
    ],
)
def test_a_history_that_is_missing_or_has_gaps_leaves_out_only_itself(evaluation, training):
    page = report(evaluation, training)
    assert ("<h2>Training</h2>" in page) == bool(training.get("history"))
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL).lower().split()
    Page(page)


def test_a_value_that_is_missing_is_not_drawn_as_0(evaluation):
    pages = {
        report(evaluation, {"history": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": loss}]})
        for loss in (None, 0.0, 1.0)
    }
    assert len(pages) == 3


def test_a_model_that_answers_nothing_and_one_without_mistakes_have_a_page():
    nobody = [sentence("no one here")]
    Page(report(evaluate(told(nobody, []), {"a": nobody}), {}))
    somebody = [sentence("Ada", (0, 1, "PER"))]
    page = report(evaluate(told(somebody, [(0, 1, "PER", 1.0)]), {"a": somebody}), {})
    assert "<h2>Mistakes</h2>" in page
    Page(page)


def test_the_same_evaluation_gives_the_same_page(evaluation, page):
    assert report(evaluation, {"history": HISTORY}) == page
