"""The bundled models: small enough, intact, and the same over HTTP as where it was scored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.artefact import load
from model.labels import spans_of
from model.tagger import Tagger
from service.settings import ROOT
from tests.running import running
from training.corpus import Sentence, read_corpus
from training.scores import evaluate

BUNDLED = ROOT / "artefacts" / "en-person"
DATA = Path(os.environ.get("NAMETAG_DATA", ROOT.parent / "shared" / "data")) / "ner"
pytestmark = pytest.mark.bundled


ACCURATE = ROOT / "artefacts" / "en-person-accurate"


@pytest.fixture(scope="module", params=[BUNDLED, ACCURATE], ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture(scope="module")
def tagger(folder: Path) -> Tagger:
    return Tagger.load(folder, device="cpu")


def people(tagger: Tagger) -> list[Sentence]:
    return read_corpus(ROOT / "training" / "people" / "test.jsonl", tokenise=tagger.tokenise)


def test_it_reproduces_its_expected_answers(tagger: Tagger) -> None:
    tagger.self_test()


@pytest.mark.parametrize(
    ("folder", "megabytes"), [(BUNDLED, 25), (ACCURATE, 60)], ids=["default", "accurate"]
)
def test_it_is_no_larger_than_promised(folder: Path, megabytes: int) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) <= megabytes * 1_000_000


def test_its_card_says_how_it_was_made_and_what_it_scores(folder: Path) -> None:
    artefact = load(folder)
    assert f"python -m training train --recipe training/recipes/{folder.name}.toml" in artefact.card
    assert {one["name"] for one in artefact.training["scores"]["sets"]} >= {
        "wikigold/test",
        "conll2003/dev",
    }
    assert "CC BY 4.0" in artefact.card


@pytest.mark.parametrize(
    ("text", "persons"),
    [
        ("Harry Potter and Hermione Granger invented a new spell.", ["Harry Potter", "Hermione Granger"]),
        ("Marie Curie was born in Warsaw.", ["Marie Curie"]),
        ("The spell was invented in London.", []),
        ("MARIE CURIE MET PIERRE CURIE.", ["MARIE CURIE", "PIERRE CURIE"]),
        ("Angela Merkel's speech lasted an hour.", ["Angela Merkel"]),
        ("👩‍👩‍👧 Emma Clarke🎉 met José Ángel Nuñez.", ["Emma Clarke", "José Ángel Nuñez"]),
    ],
)
def test_it_finds_the_persons(tagger: Tagger, text: str, persons: list[str]) -> None:
    tokens = tagger.tokenise(text)
    (tagged,) = tagger.tag([tokens.texts])
    assert [
        text[tokens.starts[s.span.start] : tokens.ends[s.span.end - 1]] for s in tagged.spans
    ] == persons


def test_it_does_well_on_the_corpus_written_for_this_project(tagger: Tagger) -> None:
    evaluation = evaluate(tagger, {"people": people(tagger)})
    assert evaluation.mean_f1 >= 0.75


def test_labels_over_http_are_the_labels_that_were_scored(folder: Path, tagger: Tagger) -> None:
    sentences = people(tagger)
    scored = tagger.tag_all([s.tokens for s in sentences])
    with running(folder) as service:
        served = service.tag([list(s.tokens) for s in sentences])
    assert [[t["label"] for t in s["tokens"]] for s in served] == [answer.labels for answer in scored]
    for over_http, answer in zip(served, scored, strict=True):
        assert [t["score"] for t in over_http["tokens"]] == pytest.approx(answer.scores, abs=1e-4)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"the labelled sets are not at {DATA}")
@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("wikigold/test", 0.85),
        ("uner_en_ewt/dev", 0.75),
        ("wnut17_nohandle/dev", 0.60),
        ("conll2003/dev", 0.85),
    ],
)
def test_it_reaches_its_bar_on_sets_it_was_not_trained_on(tagger: Tagger, name: str, floor: float) -> None:
    sentences = read_corpus(DATA / f"{name}.iob.xz", entity_types=("PER",), tokenise=tagger.tokenise)
    answers = tagger.tag_all([s.tokens for s in sentences])
    gold = {(i, span) for i, s in enumerate(sentences) for span in spans_of(s.labels)}
    found = {(i, span) for i, a in enumerate(answers) for span in spans_of(a.labels)}
    assert 2 * len(gold & found) / (len(gold) + len(found)) >= floor
