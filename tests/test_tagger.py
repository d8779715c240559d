import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import type_cache
from model.backend import OnnxBackend, TorchBackend
from model.labels import spans_of
from model.tagger import SelfTestError, Tagger
from tests.conftest import WORDS, random_artefact
from tests.strategies import any_text, any_token, brief

ARTEFACT = random_artefact()
sentence_lists = st.lists(st.lists(any_token | st.sampled_from(WORDS), max_size=7), max_size=6)


def a_tagger(artefact=ARTEFACT, make=OnnxBackend):
    return Tagger(artefact, make(artefact))


TAGGER = a_tagger()
INT8_TAGGER = a_tagger(random_artefact(int8_recurrence=True, hidden_dim=16))


def assert_same(these, those):
    assert [t.labels for t in these] == [t.labels for t in those]
    for a, b in zip(these, those, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
        assert [s.span for s in a.spans] == [s.span for s in b.spans]
        np.testing.assert_allclose([s.score for s in a.spans], [s.score for s in b.spans], atol=1e-4)


def some_sentences(n=40, seed=0):
    rng = np.random.default_rng(seed)
    tokens = [*WORDS * 4, "", "Zoë", *(f"w{i}" for i in range(60))]
    return [[str(t) for t in rng.choice(tokens, rng.integers(0, 12))] for _ in range(n)]


@brief
@given(sentence_lists)
def test_there_is_one_label_and_one_score_for_each_token_given(sentences):
    for tokens, tagged in zip(sentences, TAGGER.tag(sentences), strict=True):
        assert len(tagged.labels) == len(tagged.scores) == len(tokens)
        assert set(tagged.labels) <= {"O", "B-PER", "I-PER"}
        assert all(0 <= s <= 1 + 1e-9 for s in tagged.scores)
        assert [s.span for s in tagged.spans] == spans_of(tagged.labels)
        assert all(0 <= s.score <= 1 + 1e-9 for s in tagged.spans)


@brief
@given(sentence_lists)
def test_a_sentence_gets_the_same_answer_alone_and_in_any_batch(sentences):
    for tagger in (TAGGER, INT8_TAGGER):
        assert_same(tagger.tag(sentences), [tagger.tag([s])[0] for s in sentences])


@brief
@given(any_text)
def test_any_text_is_tagged(text):
    tokens = TAGGER.tokenise(text)
    for first, last in TAGGER.sentences(text, tokens):
        (tagged,) = TAGGER.tag([tokens.slice(first, last).texts])
        assert len(tagged.labels) == last - first


def test_random_weights_tag_something_or_these_tests_show_nothing():
    answers = TAGGER.tag(some_sentences())
    assert {label for a in answers for label in a.labels} == {"O", "B-PER", "I-PER"}


def test_no_sentences_and_empty_sentences_have_empty_answers():
    assert TAGGER.tag([]) == []
    assert TAGGER.tag_all([]) == []
    answers = TAGGER.tag([[], ["Harry"], []])
    assert [len(a.labels) for a in answers] == [0, 1, 0]
    assert answers[0] == TAGGER.tag([[]])[0]
    assert (answers[2].scores, answers[2].spans) == ([], [])


@pytest.mark.parametrize("max_batch_tokens", [1, 20, 10_000])
def test_tag_all_answers_as_tag_does_and_in_the_given_order(max_batch_tokens):
    sentences = some_sentences()
    assert_same(TAGGER.tag_all(sentences, max_batch_tokens=max_batch_tokens), TAGGER.tag(sentences))


def test_tag_all_keeps_to_its_budget_of_padded_tokens():
    shapes = []

    class Spy(OnnxBackend):
        def emissions(self, features, rows, lengths, layout=None):
            shapes.append(rows.shape)
            return super().emissions(features, rows, lengths, layout)

    sentences = [["Harry"] * n for n in (3, 30, 1, 0, 8, 8, 2, 12)]
    a_tagger(make=Spy).tag_all(sentences, max_batch_tokens=12)
    assert sum(b for b, _ in shapes) == 7
    assert all(b * t <= 12 or b == 1 for b, t in shapes)
    assert len(shapes) < 7


def test_a_cache_of_word_types_that_overflows_changes_no_answer(monkeypatch):
    sentences = some_sentences(200)
    expected = a_tagger().tag(sentences)
    monkeypatch.setattr(type_cache, "_CACHED_TYPES", 15)
    small = a_tagger()
    assert_same([small.tag([s])[0] for s in sentences], expected)
    assert len(small._types) <= 15
    assert_same(small.tag(sentences), expected)  # more word types at once than are kept
    assert_same([small.tag([s])[0] for s in sentences], expected)


def test_what_is_kept_of_word_types_is_bounded_in_bytes_too(monkeypatch):
    monkeypatch.setattr(
        type_cache,
        "_CACHED_BYTES",
        15 * INT8_TAGGER.backend.n_features * np.dtype(INT8_TAGGER.backend.dtype).itemsize,
    )
    small = a_tagger(INT8_TAGGER.artefact)
    assert_same([small.tag([s])[0] for s in some_sentences(50)], INT8_TAGGER.tag(some_sentences(50)))
    assert len(small._types) <= 15


def test_long_word_types_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(type_cache, "_CACHED_CHARS", 1_000)
    tagger = a_tagger()
    for i in range(50):
        tagger.tag([[f"{i}" + "x" * 100, "met"]])
        assert sum(map(len, tagger._types._rows)) < 1_200


def test_a_cache_that_grows_past_its_first_rows_changes_no_answer():
    sentences = [[f"w{i}", "met", f"x{i}"] for i in range(3000)]
    tagger = a_tagger()
    one_by_one = [tagger.tag([s])[0] for s in sentences[:700]]
    together = tagger.tag(sentences)
    assert len(tagger._types) > 6000
    assert_same(together[:700], one_by_one)


def test_the_word_types_that_were_looked_up_longest_ago_make_room(monkeypatch):
    monkeypatch.setattr(type_cache, "_CACHED_TYPES", 32)
    tagger = a_tagger()
    types = tagger._types
    table = types._features
    held = types.look_up(["Harry", "met"])  # by a thread that still computes
    as_it_was = held.features.copy()
    for i in range(200):
        tagger.tag([["met", f"w{i}", f"w{i // 2}"]])
        assert len(types) <= 32
        assert {"met", f"w{i}", f"w{i // 2}"} <= types._rows.keys()
    assert {f"w{i}" for i in range(190, 200)} <= types._rows.keys()
    tagger.tag([[f"x{n}" for n in range(300)]])  # more at once than are kept
    assert len(types) == 32
    assert_same(tagger.tag([["Harry", "left"]]), TAGGER.tag([["Harry", "left"]]))
    assert {"Harry", "left"} <= types._rows.keys()
    assert sorted([*types._free, *types._rows.values()]) == list(range(32))
    assert types._features is table  # neither copied whole nor begun anew
    np.testing.assert_array_equal(held.features, as_it_was)


@pytest.mark.parametrize("n_kept", [15, 40, 10_000])
def test_several_threads_get_the_answers_of_one(monkeypatch, n_kept):
    sentences = some_sentences(300)
    expected = a_tagger().tag(sentences)
    monkeypatch.setattr(type_cache, "_CACHED_TYPES", n_kept)
    tagger = a_tagger()

    def answers(seed):
        order = random.Random(seed).sample(range(len(sentences)), len(sentences))
        return {i: tagger.tag([sentences[i]])[0] for i in order}

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(answers, range(4)):
            assert_same([found[i] for i in range(len(sentences))], expected)


def test_a_backend_that_fails_once_leaves_the_tagger_usable():
    class Failing(OnnxBackend):
        fails = True

        def features(self, types):
            if self.fails:
                raise RuntimeError("out of memory")
            return super().features(types)

    tagger = a_tagger(make=Failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        tagger.tag([["Harry", "met"]])
    tagger.backend.fails = False
    assert_same(tagger.tag([["Harry", "met"]]), TAGGER.tag([["Harry", "met"]]))


# Thresholds


def test_each_sentence_has_its_own_threshold_the_empty_ones_too():
    spans = [(s, a) for s, a in zip(some_sentences(), TAGGER.tag(some_sentences()), strict=True) if a.spans]
    sentence, full = spans[0]
    best = max(s.score for s in full.spans)
    answers = TAGGER.tag([[], sentence, sentence, [], sentence], [0.0, 1.0, 0.0, 1.0, best - 1e-6])
    assert answers[1].spans == []
    assert set(answers[1].labels) == {"O"}
    assert_same([answers[2]], [full])
    assert 1 <= len(answers[4].spans) <= len(full.spans)
    assert all(s.score >= best - 1e-6 for s in answers[4].spans)


def test_the_threshold_of_the_artefact_holds_unless_another_is_given():
    strict = replace(ARTEFACT, config=replace(ARTEFACT.config, threshold=1.0))
    tagger, sentences = a_tagger(strict), some_sentences()
    assert not [s for a in tagger.tag(sentences) for s in a.spans]
    assert not [s for a in tagger.tag_all(sentences) for s in a.spans]
    assert_same(tagger.tag(sentences, 0.0), TAGGER.tag(sentences))
    assert_same(tagger.tag_all(sentences, 0), TAGGER.tag(sentences))


def test_as_many_thresholds_as_sentences_are_expected():
    with pytest.raises(IndexError):
        TAGGER.tag([["Harry"], ["met"]], [0.5])


# Self-test


@pytest.mark.parametrize("make", [OnnxBackend, TorchBackend])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_an_intact_artefact_passes_its_self_test_on_either_backend(make, cell):
    a_tagger(random_artefact(cell=cell), make).self_test()


@pytest.mark.parametrize("name", ["output.bias", "layers.0.1.weight_hh_l0", "words.filters.weight"])
def test_a_changed_weight_fails_the_self_test_which_names_the_sentence(name):
    weights = {k: v.copy() for k, v in ARTEFACT.weights.items()}
    weights[name].flat[0] += 3
    changed = replace(ARTEFACT, weights=weights)
    with pytest.raises(SelfTestError, match=r"expected\.json, sentence 0, in one batch: "):
        a_tagger(changed, TorchBackend).self_test()


def test_a_changed_transition_fails_the_self_test():
    weights = ARTEFACT.weights | {
        "transitions": ARTEFACT.weights["transitions"] + np.eye(3, dtype=np.float32)
    }
    with pytest.raises(SelfTestError, match=r"expected\.json, sentence 0"):
        a_tagger(replace(ARTEFACT, weights=weights)).self_test()


def expecting(change):
    expected = [dict(e) for e in ARTEFACT.expected]
    change(expected)
    return a_tagger(replace(ARTEFACT, expected=expected))


def test_a_score_that_is_off_or_not_a_number_fails_the_self_test():
    def off(expected):
        expected[2]["scores"] = [s + (i == 1) * 0.002 for i, s in enumerate(expected[2]["scores"])]

    def nan(expected):
        expected[3]["scores"] = [float("nan"), *expected[3]["scores"][1:]]

    with pytest.raises(
        SelfTestError, match=r"sentence 2, in one batch: a score is off by 0\.002, at most 0\.001"
    ):
        expecting(off).self_test()
    with pytest.raises(SelfTestError, match="sentence 3, in one batch: a score is off by nan"):
        expecting(nan).self_test()


def test_another_label_fails_the_self_test_which_shows_both():
    def flip(expected):
        labels = expected[5]["labels"]
        expected[5]["labels"] = ["O" if label != "O" else "B-PER" for label in labels]

    with pytest.raises(SelfTestError, match=r"sentence 5, in one batch: labels are .* expected"):
        expecting(flip).self_test()


def test_a_backend_whose_answers_depend_on_the_batch_fails_the_self_test():
    class Leaky(OnnxBackend):
        def emissions(self, features, rows, lengths, layout=None):
            off = np.float32(len(lengths) == 1)[..., None] * [0, 2, 0]
            return super().emissions(features, rows, lengths, layout) + off

    with pytest.raises(SelfTestError, match="sentence 0, alone"):
        a_tagger(make=Leaky).self_test()


def test_an_artefact_that_expects_nothing_fails_the_self_test():
    with pytest.raises(SelfTestError, match=r"expected\.json holds no sentences"):
        expecting(lambda expected: expected.clear()).self_test()


def test_a_tagger_loads_from_disk_and_passes_its_self_test(tiny_artefact):
    tagger = Tagger.load(tiny_artefact, device="cpu")
    tagger.self_test()
    assert_same(tagger.tag(some_sentences()), TAGGER.tag(some_sentences()))
