import json
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from model.artefact import ArtefactError, load, save
from model.config import TaggerConfig
from model.head import ScoredSpan, Tagged
from model.labels import Span, labels_of
from model.tagger import Tagger
from training.corpus import CorpusError, Sentence
from training.evaluate import run, set_names
from training.metrics import SpanScores, span_scores
from training.scores import CURVE_FROM, evaluate, table

PEOPLE = "Harry\tB-PER\nPotter\tI-PER\nmet\tO\nHermione\tB-PER\n.\tO\n\nLondon\tB-LOC\n\na\tO\nspell\tO\n"


@dataclass
class Answering:
    """Stands in for a Tagger: gives each sentence the spans it was told to, above the threshold."""

    told: dict[tuple[str, ...], list[ScoredSpan]]
    entity_types: tuple[str, ...] = ("PER",)

    def __post_init__(self):
        self.config = TaggerConfig("told", entity_types=self.entity_types, threshold=0.0)
        self.backend = SimpleNamespace(name="none", device="cpu")

    def tag_documents(self, documents, threshold):
        self.n_sentences = [len(each) for each in documents]
        return [self.tag_all(each, threshold) for each in documents]

    def tag_all(self, sentences, threshold):
        answers = []
        for tokens in sentences:
            kept = [one for one in self.told.get(tuple(tokens), []) if one.score >= threshold]
            labels = labels_of([one.span for one in kept], len(tokens))
            answers.append(Tagged(labels, [0.75] * len(tokens), kept))
        return answers


def sentence(text, *spans):
    tokens = tuple(text.split())
    return Sentence(tokens, tuple(labels_of([Span(*span) for span in spans], len(tokens))), 0)


def told(sentences, *answers):
    """An Answering tagger: ``answers`` are lists of (start, end, type, score), a list a sentence."""
    return Answering(
        {
            s.tokens: [ScoredSpan(Span(a, b, kind), score) for a, b, kind, score in spans]
            for s, spans in zip(sentences, answers, strict=True)
        },
        ("PER", "ORG"),
    )


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.conll"
    path.write_text(PEOPLE)
    return path


def test_what_is_scored_is_what_the_tagger_answers_sentence_by_sentence(tiny_artefact):
    tagger = Tagger.load(tiny_artefact, device="cpu")
    words = "Harry Potter and Hermione Granger invented a new spell met London . ,".split()
    sentences = [
        Sentence((*words[i:], *words[:j]), ("B-PER",) + ("O",) * (len(words) - i + j - 1), 0)
        for i in range(0, 12, 2)
        for j in range(0, 12, 3)
    ]
    alone = [tagger.tag([s.tokens])[0] for s in sentences]
    found = evaluate(tagger, {"words": sentences})
    expected = span_scores([s.labels for s in sentences], [a.labels for a in alone])
    assert 0 < expected.n_correct < expected.n_predicted
    assert found.sets[0].spans == expected
    n_right = sum(
        a == b
        for s, t in zip(sentences, alone, strict=True)
        for a, b in zip(s.labels, t.labels, strict=True)
    )
    assert found.sets[0].token_accuracy == n_right / sum(len(s.tokens) for s in sentences)
    assert found.tokens_per_s > 0


def test_a_threshold_changes_the_scores_but_neither_the_curve_nor_the_calibration():
    sentences = [sentence("Ada met Bob", (0, 1, "PER")), sentence("Cy left", (0, 1, "PER"))]
    tagger = told(sentences, [(0, 1, "PER", 0.9), (2, 3, "PER", 0.4)], [(0, 1, "PER", 0.3)])
    at_0, at_half = (evaluate(tagger, {"a": sentences}, threshold=t) for t in (None, 0.5))
    assert (at_0.threshold, at_half.threshold) == (0.0, 0.5)
    assert at_0.pooled.spans == SpanScores(2, 3, 2)
    assert at_half.pooled.spans == SpanScores(2, 1, 1)
    assert at_0.pooled.curve == at_half.pooled.curve
    assert [p.threshold for p in at_half.pooled.curve] == [0.9, 0.4, 0.3]
    assert at_0.pooled.calibration == at_half.pooled.calibration


def test_a_name_is_hidden_where_every_token_of_it_is_in_a_person_that_was_found():
    sentences = [
        sentence("Ada King met Bob Young", (0, 2, "PER"), (3, 5, "PER")),
        sentence("so Cy Twombly left", (1, 3, "PER")),
    ]
    tagger = told(
        sentences,
        [(0, 1, "PER", 0.9), (1, 2, "PER", 0.4), (2, 4, "PER", 0.8)],  # King less surely, of Bob a part
        [(0, 1, "PER", 0.2), (1, 4, "PER", 0.7)],
    )
    found = evaluate(tagger, {"a": sentences}).pooled
    third = pytest.approx(1 / 3)
    assert [(p.threshold, p.precision, p.recall) for p in found.hiding] == [
        (0.9, 1, 0), (0.8, 1, 0), (0.7, 1, third), (0.4, 1, pytest.approx(2 / 3)),
        (0.2, pytest.approx(4 / 5), pytest.approx(2 / 3)),
    ]  # fmt: skip
    assert found.precision_at_hidden is None
    assert "P at hidden≥98" in table(evaluate(tagger, {"a": sentences}))


def test_sentences_are_tagged_by_themselves_or_as_their_documents_are():
    sentences = [replace(sentence("Ada left"), document=number) for number in (0, 0, 1)]
    tagger = told(sentences, [], [], [])
    for documents, groups in ((False, [1, 1, 1]), (True, [2, 1])):
        evaluate(tagger, {"a": sentences}, documents=documents)
        assert tagger.n_sentences == groups
    evaluate(tagger, {"a": sentences[:2]}, documents=True)  # no documents are marked there
    assert tagger.n_sentences == [1, 1]


def test_sets_are_scored_apart_and_as_one():
    one = [sentence("Ada met Bob", (0, 1, "PER"), (2, 3, "PER"))]
    other = [sentence("Acme called Cy", (0, 1, "ORG")), sentence("no one")]
    tagger = told([*one, *other], [(0, 1, "PER", 0.9)], [(0, 1, "ORG", 0.8), (2, 3, "PER", 0.7)], [])
    found = evaluate(tagger, {"one": one, "other": other})
    assert [s.name for s in found.sets] == ["one", "other"]
    assert [s.spans for s in found.sets] == [SpanScores(2, 1, 1), SpanScores(1, 2, 1)]
    assert found.pooled.spans == SpanScores(3, 3, 2)
    assert found.pooled.by_type == {"ORG": SpanScores(1, 1, 1), "PER": SpanScores(2, 2, 1)}
    assert (found.pooled.n_sentences, found.pooled.n_tokens) == (3, 8)
    assert found.mean_f1 == pytest.approx(2 / 3)
    assert {m.corpus for m in found.pooled.worst} == {"one", "other"}


def test_every_mistake_has_its_kind_and_its_confidence():
    sentences = [
        sentence("Ada King met Bob and Acme", (0, 2, "PER"), (3, 4, "PER"), (5, 6, "ORG")),
        sentence("so London won", (1, 2, "PER")),
    ]
    tagger = told(
        sentences, [(0, 1, "PER", 0.9), (2, 3, "PER", 0.8), (5, 6, "PER", 0.7)], [(1, 2, "PER", 0.6)]
    )
    found = evaluate(tagger, {"a": sentences}).pooled
    assert [(m.kind, m.span, m.confidence, m.sentence) for m in found.worst] == [
        ("missed", Span(3, 4, "PER"), 0.75, 0),
        ("invented", Span(2, 3, "PER"), 0.8, 0),
        ("boundary", Span(0, 1, "PER"), 0.9, 0),
        ("type", Span(5, 6, "PER"), 0.7, 0),
    ]
    assert found.n_mistakes == {"missed": 1, "invented": 1, "boundary": 1, "type": 1}


def test_the_surest_mistakes_are_kept_and_all_are_counted():
    sentences = [sentence(f"so w{i}") for i in range(50)]
    found = evaluate(
        told(sentences, *([(1, 2, "PER", i / 50)] for i in range(50))), {"a": sentences}
    ).pooled
    assert found.n_mistakes["invented"] == 50
    assert [m.sentence for m in found.worst] == list(range(49, 29, -1))


def test_names_are_seen_or_unseen_only_where_training_names_are_given():
    sentences = [sentence("Ada met Bob", (0, 1, "PER"), (2, 3, "PER"))]
    tagger = told(sentences, [(0, 1, "PER", 0.9)])
    assert "in training" not in evaluate(tagger, {"a": sentences}).pooled.slices
    found = evaluate(tagger, {"a": sentences}, train_names=frozenset({("Bob",)}))
    assert found.pooled.slices["in training"] == {
        "seen": SpanScores(1, 0, 0),
        "unseen": SpanScores(1, 1, 1),
    }
    assert found.n_train_names == 1


def test_a_set_without_names_and_answers_has_scores():
    sentences = [sentence("no one here")]
    found = evaluate(told(sentences, []), {"a": sentences})
    assert found.pooled.spans == SpanScores(0, 0, 0)
    assert found.pooled.recall_at_precision is None
    assert "–" in table(found)
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_a_threshold_that_is_no_probability_is_an_error(threshold):
    with pytest.raises(ValueError, match="0 to 1 is expected"):
        evaluate(told([]), {"a": [sentence("a")]}, threshold=threshold)


def test_no_set_to_evaluate_on_is_an_error():
    with pytest.raises(ValueError, match="no labelled set"):
        evaluate(told([]), {})


def test_a_gold_label_that_the_model_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="'B-LOC' is not one of"):
        evaluate(told([]), {"a": [sentence("Rome", (0, 1, "LOC"))]})


def test_json_keeps_the_ends_of_a_long_curve():
    sentences = [sentence(f"so w{i}", (1, 2, "PER")) for i in range(1000)]
    found = evaluate(told(sentences, *([(1, 2, "PER", i / 1000)] for i in range(1000))), {"a": sentences})
    kept = found.as_json()["pooled"]["curve"]
    assert 150 <= len(kept) <= 201
    assert (kept[0]["threshold"], kept[-1]["threshold"]) == (0.999, CURVE_FROM)


# run


def test_run_prints_the_table_and_writes_figures_and_report(tiny_artefact, people, tmp_path, capsys):
    figures, page = tmp_path / "new" / "scores.json", tmp_path / "new" / "report.html"
    found = run(
        model=tiny_artefact,
        files=[people],
        train_files=[people],
        json_path=figures,
        report_path=page,
        device="cpu",
    )
    shown = capsys.readouterr()
    assert shown.out.strip() == table(found)
    assert "people  " in shown.out
    assert f"{people}: 3 sentences, 2 of PER" in shown.err
    assert json.loads(figures.read_text()) == json.loads(json.dumps(found.as_json()))
    assert "Potter" not in figures.read_text()  # figures can be shown where the data may not
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert sorted(p.name for p in figures.parent.iterdir()) == ["report.html", "scores.json"]
    assert found.pooled.spans.n_gold == 2  # LOC is a type that this model does not know: O
    assert set(found.pooled.slices["in training"]) >= {"seen"}


def test_figures_in_json_are_those_of_the_curve_and_the_counts(tiny_artefact, people):
    found = run(model=tiny_artefact, files=[people], device="cpu").as_json()
    scores = found["sets"][0]["spans"]
    assert scores["precision"] == scores["n_correct"] / max(1, scores["n_predicted"])
    assert found["pooled"] == found["sets"][0]
    total = sum(sum(row) for row in found["pooled"]["confusion"])
    assert total == found["pooled"]["n_tokens"] == 8


def test_what_json_lines_hold_is_cut_by_the_models_own_tokeniser(tiny_artefact, tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text(
        '{"text": "Harry Potter\'s spell.", "spans": [{"start": 0, "end": 12, "label": "PER"}]}'
    )
    assert run(model=tiny_artefact, files=[path], device="cpu").pooled.n_tokens == 5


def test_a_file_that_cannot_be_read_leaves_nothing_behind(tiny_artefact, people, tmp_path):
    bad = tmp_path / "bad.conll"
    bad.write_text("Ada B-PER\nmet\n")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CorpusError, match=r"bad\.conll:2: 1 column"):
        run(model=tiny_artefact, files=[people, bad], json_path=tmp_path / "s.json", device="cpu")
    with pytest.raises(ValueError, match="0 to 1 is expected"):
        run(model=tiny_artefact, files=[people], threshold=7, json_path=tmp_path / "s.json", device="cpu")
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_that_does_not_reproduce_its_expected_answers_is_not_evaluated(
    tiny_artefact, people, tmp_path
):
    artefact = load(tiny_artefact)
    wrong = [{**e, "scores": [0.5 for _ in e["scores"]]} for e in artefact.expected]
    save(replace(artefact, expected=wrong), tmp_path / "wrong")
    with pytest.raises(ArtefactError, match="expected\\.json, sentence 0"):
        run(model=tmp_path / "wrong", files=[people], device="cpu")


def test_a_set_is_called_by_as_much_of_its_path_as_tells_it_apart(tmp_path):
    a, b = tmp_path / "gmb" / "dev.iob.xz", tmp_path / "btc" / "dev.iob.xz"
    assert set_names([a]) == ["dev"]
    assert set_names([a, b]) == ["gmb/dev", "btc/dev"]
    assert set_names([a, tmp_path / "gmb" / "dev.jsonl"]) == [str(a), str(tmp_path / "gmb" / "dev.jsonl")]
    assert set_names([]) == []
    with pytest.raises(ValueError, match="is named more than once"):
        set_names([a, b, a])


def test_the_curve_of_a_model_goes_below_the_best_labelling(tiny_artefact, people):
    found = run(model=tiny_artefact, files=[people], threshold=1.0, device="cpu")
    assert found.pooled.spans.n_predicted == 0
    tagger = Tagger.load(tiny_artefact, device="cpu")
    answers = tagger.tag_all(
        [["Harry", "Potter", "met", "Hermione", "."], ["London"], ["a", "spell"]], CURVE_FROM
    )
    scores = sorted({s.score for a in answers for s in a.spans}, reverse=True)
    assert scores
    assert [p.threshold for p in found.pooled.curve] == pytest.approx(scores)
