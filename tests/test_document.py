"""What a document's names tell of its other sentences; sentences that are of none tell nothing."""

import json
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.document import SURE, SURE_ALONE, known_words, second_look
from model.head import ScoredSpan, Tagged
from model.labels import PERSON, Span, labels_of
from model.tagger import Tagger
from service.settings import ROOT
from tests.running import running

BUNDLED = ROOT / "artefacts" / "en-person"
DOCUMENT = "Maria Stern was born in Leeds. Nobody else was there. It reached Stern on Monday."


def tagged(sentence, *spans):
    found = [ScoredSpan(Span(start, end, kind), score) for start, end, score, kind in spans]
    return Tagged(labels_of([one.span for one in found], len(sentence)), [0.5] * len(sentence), found)


def known(*sentences):
    """Each a text, and its spans."""
    words = [text.split() for text, *_ in sentences]
    return known_words(words, [tagged(w, *s[1:]) for w, s in zip(words, sentences, strict=True)])


PLAYER = ("Ben Player won", (0, 2, SURE, PERSON))


def test_a_word_of_a_sure_name_is_known_in_every_other_sentence():
    assert known(PLAYER, ("Nobody came",), ("then Player left with Ben",)) == {2: (1, 4)}
    assert known(("then Player left",), PLAYER) == {0: (1,)}


def test_a_sentence_tells_itself_nothing():
    assert known(("Ben Player won and Player left", (0, 2, SURE, PERSON))) == {}
    twice = ("Ben Player met Player", (0, 2, SURE, PERSON))
    assert known(twice, twice) == {0: (3,), 1: (3,)}


def test_what_is_a_sure_name_s_already_is_left_as_it_is():
    assert known(PLAYER, ("Player left", (0, 1, SURE, PERSON))) == {}
    assert known(PLAYER, ("Player left", (0, 1, SURE - 0.01, PERSON))) == {1: (0,)}


@pytest.mark.parametrize(
    "tells",
    [
        ("Ben Player won", (0, 2, SURE - 0.01, PERSON)),
        ("the Player won", (1, 2, SURE_ALONE - 0.01, PERSON)),
        ("Ben Player won", (0, 2, 0.99, "ORG")),
    ],
)
def test_what_is_not_surely_a_person_tells_nothing(tells):
    assert known(tells, ("then Player left",)) == {}


def test_one_word_alone_tells_where_it_is_very_sure():
    assert known(("Player won", (0, 1, SURE_ALONE, PERSON)), ("then Player left",)) == {1: (1,)}


def test_particles_initials_and_titles_tell_nothing_nor_does_another_case():
    name = ("Lord J. van Dam of Dam spoke", (0, 6, 0.99, PERSON))
    assert known(name, ("Lord J. of van DAM dam",)) == {}


def test_above_sure_what_scores_less_is_tagged_again_too():
    words = [["Ben", "Player", "won"], ["Ann", "Lee"], ["no", "one"]]
    answers = [tagged(w, *s) for w, s in zip(words, [PLAYER[1:], [(0, 2, 0.99, PERSON)], []], strict=True)]
    assert second_look(words, answers, SURE) == {}
    assert second_look(words, answers, 0.95) == {0: ()}


# With the model that is bundled


@pytest.fixture(scope="module")
def tagger():
    return Tagger.load(BUNDLED, device="cpu")


@pytest.fixture(scope="module")
def service():
    with running(BUNDLED) as service:
        yield service


def persons(answer):
    return [person["text"] for sentence in answer["sentences"] for person in sentence["persons"]]


def post(service, **request):
    answer = service.client.post("/v1/tag", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.bundled
def test_a_surname_is_found_since_the_document_names_its_bearer(service):
    assert persons(post(service, text=DOCUMENT)) == ["Maria Stern", "Stern"]
    alone = DOCUMENT[DOCUMENT.index("It") :]
    assert persons(post(service, text=alone)) == []


@pytest.mark.bundled
def test_sentences_that_are_given_as_such_tell_each_other_nothing(service):
    parts = [sentence["text"] for sentence in post(service, text=DOCUMENT)["sentences"]]
    assert persons(post(service, sentences=parts)) == ["Maria Stern"]
    # Nor do documents.
    answer = service.client.post(
        "/compat/presidio/analyze", json={"text": [DOCUMENT, *parts], "language": "en"}
    )
    assert [len(found) for found in answer.json()] == [2, 1, 0, 0]


@pytest.mark.bundled
@pytest.mark.parametrize("threshold", [None, 0.01, 0.5, SURE, 0.95, 1.0])
def test_every_way_to_a_document_has_the_same_answer(service, tagger, threshold):
    given = {} if threshold is None else {"threshold": threshold}
    expected = post(service, text=DOCUMENT, **given)
    lines = "".join(
        json.dumps({"text": text, **given}) + "\n" for text in (DOCUMENT, "Ann left.", DOCUMENT)
    )
    streamed = service.client.post(
        "/v1/tag/stream", content=lines, headers={"content-type": "application/x-ndjson"}
    )
    first, _, last = map(json.loads, streamed.text.splitlines())
    assert first["sentences"] == last["sentences"] == expected["sentences"]
    (found,) = tagger.tag_texts([DOCUMENT], threshold)
    assert [a.labels for _, a in found] == [
        [t["label"] for t in s["tokens"]] for s in expected["sentences"]
    ]
    for (_, answer), sentence in zip(found, expected["sentences"], strict=True):
        assert answer.scores == pytest.approx([t["score"] for t in sentence["tokens"]], abs=1e-4)
        assert all(each["score"] >= (threshold or 0) for each in sentence["persons"])


WORDS = ["Ben", "Player", "Grace", "Hope", "met", "the", "player", "in", "London", ".", "Mr.", "said"]
sentence = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8)


@pytest.mark.bundled
@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(sentence, max_size=5), max_size=4), st.sampled_from([0.0, 0.05, 0.9]))
def test_a_document_s_answer_does_not_depend_on_the_others(tagger, documents, threshold):
    together = tagger.tag_documents(documents, threshold)
    for document, found in zip(documents, together, strict=True):
        (alone,) = tagger.tag_documents([document], threshold)
        assert [a.labels for a in found] == [a.labels for a in alone]
        for a, b in zip(found, alone, strict=True):
            assert a.scores == pytest.approx(b.scores, abs=1e-4)


@settings(deadline=None)
@given(st.lists(st.text(string.ascii_letters, min_size=1), min_size=1), st.data())
def test_known_tokens_are_tokens_of_their_sentence(words, data):
    sentences = [words, words[::-1]]
    n = len(words)
    spans = [data.draw(st.integers(0, n - 1)) for _ in sentences]
    answers = [tagged(s, (at, n, 0.99, PERSON)) for s, at in zip(sentences, spans, strict=True)]
    for number, tokens in known_words(sentences, answers).items():
        assert all(0 <= at < spans[number] for at in tokens)
