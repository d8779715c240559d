"""python integration_checks.py MODEL URL: checks of service.integrations, in .venv-peers.

The libraries are not in the environment of the other tests. Writes JSON: for each check that fails
its traceback. ``MODEL`` is a folder, ``URL`` a service that has that model.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
import tempfile
import traceback
from pathlib import Path
from threading import Thread

sys.path[0] = str(Path(__file__).parent.parent)

from model.labels import PERSON  # noqa: E402
from model.tagger import Tagger  # noqa: E402

TEXTS = [
    "In London 👋, Harry Potter met  Hermione Granger.\n\nPotter left, and so did José Ángel Nuñez.",
    "Harry Potter and Hermione Granger invented a new spell. It's Ron's.",
    "",
    " \n ",
    "🎉",
    "J. R. R. Tolkien wrote. " * 50,
]


def pipeline(model, **config):
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("nametag", config={"model": model, **config})
    return nlp


def entities(doc):
    return [(e.start, e.end, e.label_, e._.nametag_score) for e in doc.ents]


def expected(tagger, doc, ranges, threshold=None):
    """The persons of a document whose sentences are these lists of token indices."""
    found = []
    for places in ranges:
        (tagged,) = tagger.tag([[doc[i].text for i in places]], threshold)
        found += [
            (places[s.span.start], places[s.span.end - 1] + 1, "PERSON", round(s.score, 6))
            for s in tagged.spans
            if s.span.entity_type == PERSON
        ]
    return found


def spacy_labels_the_tokens_of_each_sentence(model):
    import spacy

    tagger = Tagger.load(Path(model), device="cpu")
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("nametag", config={"model": model})
    n = 0
    for doc in map(nlp, TEXTS):
        ranges = [[t.i for t in sentence if not t.is_space] for sentence in doc.sents]
        # What a sentencizer calls a sentence of white space is none.
        same(entities(doc), expected(tagger, doc, [r for r in ranges if r]))
        assert all(doc.text[e.start_char : e.end_char] == e.text for e in doc.ents)
        n += len(doc.ents)
    assert n > 5


def same(found, wanted):
    assert [each[:3] for each in found] == [each[:3] for each in wanted], (found, wanted)
    assert all(abs(a[3] - b[3]) < 1e-4 for a, b in zip(found, wanted, strict=True))


def spacy_sentences_are_ours_where_nothing_has_set_them(model):
    from service.integrations.local import LocalTagger

    nlp = pipeline(model)
    doc = nlp("Harry Potter left. Hermione Granger did too.")
    tagger = LocalTagger(model)
    wanted = expected(Tagger.load(Path(model), device="cpu"), doc, [list(range(4)), list(range(4, 9))])
    same(entities(doc), wanted)
    # As words and white space are cut alike here, so are persons of the whole text.
    assert [(e.start_char, e.end_char) for e in doc.ents] == [
        (f.start, f.end) for f in tagger.persons(doc.text)
    ]


def spacy_pipe_answers_as_one_by_one(model):
    nlp = pipeline(model)
    alone = [entities(nlp(text)) for text in TEXTS]
    for batch_size in (1, 2, 128):
        for one, many in zip(alone, nlp.pipe(TEXTS, batch_size=batch_size), strict=True):
            same(entities(many), one)


def spacy_threshold_and_label(model):
    tagger = Tagger.load(Path(model), device="cpu")
    doc = pipeline(model, threshold=0.05, label="PER")(TEXTS[1])
    assert {e.label_ for e in doc.ents} == {"PER"}
    assert all(e._.nametag_score >= 0.05 for e in doc.ents)
    first = next(i for i, token in enumerate(doc) if token.text == ".") + 1
    wanted = expected(tagger, doc, [list(range(first)), list(range(first, len(doc)))], 0.05)
    assert [e[:2] for e in entities(doc)] == [e[:2] for e in wanted]


def spacy_replaces_persons_and_keeps_what_does_not_overlap(model):
    import spacy
    from spacy.tokens import Span

    ours = pipeline(model)(TEXTS[1])
    (person, *_) = ours.ents
    free = next(i for i in range(len(ours)) if not ours[i].ent_type_)

    nlp = spacy.blank("en")

    @spacy.Language.component("before")
    def before(doc):
        doc.ents = [
            Span(doc, person.start, person.start + 1, label="ORG"),
            Span(doc, free, free + 1, label="GPE"),
        ]
        return doc

    @spacy.Language.component("persons_before")
    def persons_before(doc):
        doc.ents = [Span(doc, free, free + 1, label="PERSON")]
        return doc

    nlp.add_pipe("before")
    nlp.add_pipe("nametag", config={"model": model})
    found = nlp(TEXTS[1])
    assert {e.label_ for e in found.ents} == {"PERSON", "GPE"}
    assert [e for e in entities(found) if e[2] == "PERSON"] == entities(ours)
    nlp.replace_pipe("before", "persons_before")
    assert entities(nlp(TEXTS[1])) == entities(ours)


def spacy_pipeline_is_saved_and_loaded_and_sent(model):
    import spacy

    nlp = pipeline(model)
    with tempfile.TemporaryDirectory() as folder:
        nlp.to_disk(folder)
        again = spacy.load(folder)
    assert entities(again(TEXTS[0])) == entities(nlp(TEXTS[0]))
    sent = pickle.loads(pickle.dumps(nlp.get_pipe("nametag")))
    assert entities(sent(nlp.make_doc(TEXTS[0]))) == entities(nlp(TEXTS[0]))


def analyzer_with(recognizer):
    from presidio_analyzer import AnalyzerEngine

    from service.integrations.presidio import PlainNlpEngine

    logging.disable()
    analyzer = AnalyzerEngine(nlp_engine=PlainNlpEngine())
    analyzer.registry.remove_recognizer("SpacyRecognizer")
    analyzer.registry.add_recognizer(recognizer)
    return analyzer


def persons(analyzer, text):
    found = analyzer.analyze(text, "en", entities=["PERSON"])
    return sorted((r.start, r.end, r.score) for r in found)


def presidio_finds_what_the_tagger_finds(model):
    from service.integrations.local import LocalTagger
    from service.integrations.presidio import NametagRecognizer

    analyzer = analyzer_with(NametagRecognizer(model))
    tagger = LocalTagger(model)
    for text in TEXTS:
        assert persons(analyzer, text) == [(f.start, f.end, f.score) for f in tagger.persons(text)]
    low = analyzer_with(NametagRecognizer(model, threshold=0.02))
    assert len(persons(low, TEXTS[0])) >= len(persons(analyzer, TEXTS[0]))


def presidio_s_other_recognisers_work_beside_it(model):
    from service.integrations.presidio import NametagRecognizer

    analyzer = analyzer_with(NametagRecognizer(model))
    text = "My credit card is 4012888888881881, write to ann@example.org"
    found = {r.entity_type: r.score for r in analyzer.analyze(text, "en")}
    assert {"CREDIT_CARD", "EMAIL_ADDRESS"} <= found.keys()
    # "card" beside a number makes a weak pattern surer: the words around it are there.
    assert (
        analyzer.analyze("My bank account is 945456787654", "en", entities=["US_BANK_NUMBER"])[0].score
        > 0.3
    )
    assert NametagRecognizer(model).analyze("Ann", ["CREDIT_CARD"]) == []


def presidio_asks_a_service(model, url):
    from service.integrations.presidio import NametagRecognizer

    here, there = analyzer_with(NametagRecognizer(model)), analyzer_with(NametagRecognizer(url=url))
    for text in TEXTS:
        found, wanted = persons(there, text), persons(here, text)
        assert [each[:2] for each in found] == [each[:2] for each in wanted]
        assert all(abs(a[2] - b[2]) < 1e-4 for a, b in zip(found, wanted, strict=True))


def one_tagger_serves_many_threads(model):
    from service.integrations.local import LocalTagger

    tagger = LocalTagger(model)
    alone = [tagger.persons(text) for text in TEXTS]
    wrong = []

    def ask():
        for _ in range(20):
            for text, wanted in zip(TEXTS, alone, strict=True):
                if [f.start for f in tagger.persons(text)] != [f.start for f in wanted]:
                    wrong.append(text)

    threads = [Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


CHECKS = {
    check.__name__: check
    for check in (
        spacy_labels_the_tokens_of_each_sentence,
        spacy_sentences_are_ours_where_nothing_has_set_them,
        spacy_pipe_answers_as_one_by_one,
        spacy_threshold_and_label,
        spacy_replaces_persons_and_keeps_what_does_not_overlap,
        spacy_pipeline_is_saved_and_loaded_and_sent,
        presidio_finds_what_the_tagger_finds,
        presidio_s_other_recognisers_work_beside_it,
        presidio_asks_a_service,
        one_tagger_serves_many_threads,
    )
}

if __name__ == "__main__":
    # Libraries print what they like; only the answer may reach the pipe.
    pipe, sys.stdout = sys.stdout, sys.stderr
    failures = {}
    for name, check in CHECKS.items():
        try:
            check(*(sys.argv[1:] if name == "presidio_asks_a_service" else sys.argv[1:2]))
        except Exception:
            failures[name] = traceback.format_exc()
    print(json.dumps(failures), file=pipe)
