"""The head against exhaustive enumeration of every label sequence that IOB2 allows."""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.head import ILLEGAL, Chain, decode, legality, messages
from model.labels import LabelScheme, Span, spans_of
from tests.strategies import brief

SCHEMES = [LabelScheme(("PER",)), LabelScheme(("PER", "ORG"))]
HEADS = ["crf", "softmax"]

SIX_PLACES = 5.1e-7


def chain_of(head, scheme, rng, spread=1.5):
    """A chain as an artefact makes it: what was learnt (softmax: nothing) plus what is illegal."""
    k = len(scheme.labels)
    legal = legality(scheme)
    if head == "softmax":
        return legal
    return Chain(
        legal.start + rng.normal(0, spread, k),
        legal.transitions + rng.normal(0, spread, (k, k)),
        legal.end + rng.normal(0, spread, k),
    )


def is_legal(labels):
    return all(
        not b.startswith("I-") or a in (f"B-{b[2:]}", f"I-{b[2:]}")
        for a, b in itertools.pairwise(("O", *labels))
    )


@dataclass(frozen=True)
class Enumerated:
    """Every legal sequence of one sentence, with its probability."""

    sequences: list[tuple[str, ...]]
    probabilities: np.ndarray

    @classmethod
    def of(cls, emissions, chain, scheme, temperature=1.0):
        names = scheme.labels
        n = len(emissions)
        paths = [
            path
            for path in itertools.product(range(len(names)), repeat=n)
            if is_legal([names[k] for k in path])
        ]
        scores = np.array(
            [
                chain.start[path[0]]
                + chain.end[path[-1]]
                + sum(emissions[t, k] for t, k in enumerate(path))
                + sum(chain.transitions[a, b] for a, b in itertools.pairwise(path))
                for path in paths
            ]
        )
        weights = np.exp((scores - scores.max()) / temperature)
        return cls([tuple(names[k] for k in path) for path in paths], weights / weights.sum())

    @property
    def best(self):
        return list(self.sequences[int(self.probabilities.argmax())])

    def probability(self, holds):
        """Of all sequences of which ``holds`` is true."""
        return sum(p for s, p in zip(self.sequences, self.probabilities, strict=True) if holds(s))

    def of_label(self, t, label):
        return self.probability(lambda labels: labels[t] == label)

    def of_span(self, span):
        return self.probability(lambda labels: span in spans_of(labels))


def a_batch(scheme, rng, lengths, spread=2.0):
    """Random emissions (B, T, K); what lies past a sentence's length is noise, and large."""
    emissions = rng.normal(0, spread, (len(lengths), max(lengths), len(scheme.labels)))
    for b, n in enumerate(lengths):
        emissions[b, n:] = rng.normal(0, 1000, emissions[b, n:].shape)
    return emissions


@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=["K3", "K5"])
@pytest.mark.parametrize("seed", range(3))
def test_labels_scores_and_spans_are_those_of_enumeration(seed, scheme, head, temperature):
    rng = np.random.default_rng(seed)
    chain = chain_of(head, scheme, rng)
    lengths = [3, 5, 1, 4, 2, 5, 1, 3]
    emissions = a_batch(scheme, rng, lengths)
    n_spans = 0
    tagged = decode(emissions, lengths, chain, scheme, temperature=temperature)
    for given_emissions, n, answer in zip(emissions, lengths, tagged, strict=True):
        truth = Enumerated.of(given_emissions[:n], chain, scheme, temperature)
        assert answer.labels == truth.best
        expected = [truth.of_label(t, label) for t, label in enumerate(answer.labels)]
        np.testing.assert_allclose(answer.scores, expected, atol=SIX_PLACES)
        assert [s.span for s in answer.spans] == spans_of(answer.labels)
        for scored in answer.spans:
            assert scored.score == pytest.approx(truth.of_span(scored.span), abs=1e-9)
        n_spans += len(answer.spans)
    assert n_spans > 0


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=["K3", "K5"])
def test_marginals_of_all_labels_are_those_of_enumeration(scheme, head):
    rng = np.random.default_rng(7)
    chain = chain_of(head, scheme, rng)
    lengths = [5, 2, 1, 4]
    emissions = a_batch(scheme, rng, lengths)
    marginals, _ = messages(emissions, np.array(lengths), chain)
    for b, n in enumerate(lengths):
        truth = Enumerated.of(emissions[b, :n], chain, scheme)
        expected = [[truth.of_label(t, label) for label in scheme.labels] for t in range(n)]
        np.testing.assert_allclose(marginals[b, :n], expected, atol=1e-9)


@pytest.mark.parametrize(
    "span", [Span(a, b, t) for a in range(4) for b in range(a + 1, 5) for t in ("PER", "ORG")]
)
def test_the_score_of_every_possible_span_is_exact(span):
    """Emissions that make this span the best path's, but not by much."""
    scheme = SCHEMES[1]
    rng = np.random.default_rng(3)
    chain = chain_of("crf", scheme, rng, spread=0.3)
    emissions = rng.normal(0, 0.3, (1, 4, 5))
    for t in range(4):
        inside = span.start <= t < span.end
        wanted = f"{'B' if t == span.start else 'I'}-{span.entity_type}" if inside else "O"
        emissions[0, t, scheme.labels.index(wanted)] += 3
    (answer,) = decode(emissions, [4], chain, scheme)
    truth = Enumerated.of(emissions[0], chain, scheme)
    assert [s.span for s in answer.spans] == [span]
    assert answer.spans[0].score == pytest.approx(truth.of_span(span), abs=1e-9)
    assert 0.05 < answer.spans[0].score < 0.999


@pytest.mark.parametrize("scheme", SCHEMES, ids=["K3", "K5"])
@pytest.mark.parametrize("head", HEADS)
def test_a_sentence_has_the_same_answer_alone_and_in_any_batch(head, scheme):
    rng = np.random.default_rng(11)
    chain = chain_of(head, scheme, rng)
    lengths = [1, 30, 2, 17, 30, 9]
    emissions = a_batch(scheme, rng, lengths)
    together = decode(emissions, lengths, chain, scheme)
    for b, n in enumerate(lengths):
        (alone,) = decode(emissions[b : b + 1, :n], [n], chain, scheme)
        assert alone.labels == together[b].labels
        np.testing.assert_allclose(alone.scores, together[b].scores, atol=1e-12)
        assert [s.span for s in alone.spans] == [s.span for s in together[b].spans]


def test_temperature_changes_scores_and_not_labels():
    scheme = SCHEMES[0]
    rng = np.random.default_rng(5)
    chain = chain_of("crf", scheme, rng)
    emissions = a_batch(scheme, rng, [20])
    (cold,), (hot,) = (decode(emissions, [20], chain, scheme, temperature=t) for t in (0.1, 10.0))
    assert cold.labels == hot.labels
    assert np.mean(cold.scores) > np.mean(hot.scores) + 0.2


# Thresholds


def two_spans():
    """Ada O Bob: a sure span, then one that is not; the exact scores, and those without a threshold."""
    scheme = SCHEMES[0]
    emissions = np.array([[[0, 6, 0], [6, 0, 0], [0, 0.5, 0], [6, 0, 0]]], dtype=np.float64)
    (answer,) = decode(emissions, [4], legality(scheme), scheme)
    assert answer.labels == ["B-PER", "O", "B-PER", "O"]
    return emissions, answer


def test_a_span_below_the_threshold_becomes_o_and_the_others_stay():
    emissions, full = two_spans()
    sure, unsure = full.spans
    threshold = (sure.score + unsure.score) / 2
    (answer,) = decode(emissions, [4], legality(SCHEMES[0]), SCHEMES[0], threshold=threshold)
    assert answer.labels == ["B-PER", "O", "O", "O"]
    assert answer.spans == [sure]
    truth = Enumerated.of(emissions[0], legality(SCHEMES[0]), SCHEMES[0])
    assert answer.scores[2] == pytest.approx(truth.of_label(2, "O"), abs=SIX_PLACES)
    assert answer.scores[:2] == full.scores[:2]
    assert answer.scores[3] == full.scores[3]


def test_every_token_of_a_span_below_the_threshold_carries_the_probability_of_o():
    scheme = SCHEMES[0]
    emissions = np.array([[[0, 2, 0], [0, 0, 2], [0, 0, 2], [2, 0, 0]]], dtype=np.float64)
    (full,) = decode(emissions, [4], legality(scheme), scheme)
    assert [s.span for s in full.spans] == [Span(0, 3, "PER")]
    (answer,) = decode(emissions, [4], legality(scheme), scheme, threshold=1.0)
    assert answer.labels == ["O"] * 4
    assert answer.spans == []
    truth = Enumerated.of(emissions[0], legality(scheme), scheme)
    np.testing.assert_allclose(answer.scores, [truth.of_label(t, "O") for t in range(4)], atol=SIX_PLACES)


def test_a_span_that_scores_the_threshold_is_kept():
    emissions, full = two_spans()
    (answer,) = decode(emissions, [4], legality(SCHEMES[0]), SCHEMES[0], threshold=full.spans[1].score)
    assert answer == full


@pytest.mark.parametrize("scheme", SCHEMES, ids=["K3", "K5"])
@pytest.mark.parametrize("threshold", [0.02, 0.1, 0.3, 0.6])
def test_above_0_the_threshold_finds_all_spans_that_likely_by_enumeration(scheme, threshold):
    rng = np.random.default_rng(5)
    for _ in range(6):
        chain = chain_of("crf", scheme, rng)
        emissions = rng.normal(0, 1.5, (1, 5, len(scheme.labels)))
        enumerated = Enumerated.of(emissions[0], chain, scheme)
        spans = {span for sequence in enumerated.sequences for span in spans_of(sequence)}
        scored = [(enumerated.probability(lambda s, x=x: x in spans_of(s)), x) for x in spans]
        taken, expected = set(), {}
        for score, x in sorted(scored, key=lambda one: (-one[0], one[1].start, one[1].end)):
            if score >= threshold and not taken & {*range(x.start, x.end)}:
                taken |= {*range(x.start, x.end)}
                expected[x] = score
        (answer,) = decode(emissions, [5], chain, scheme, threshold=threshold)
        assert {one.span for one in answer.spans} == set(expected)
        assert spans_of(answer.labels) == [one.span for one in answer.spans]
        for one in answer.spans:
            assert one.score == pytest.approx(expected[one.span])
        for t, label in enumerate(answer.labels):
            assert answer.scores[t] == pytest.approx(enumerated.of_label(t, label), abs=SIX_PLACES)


def test_a_higher_threshold_only_takes_away():
    rng = np.random.default_rng(2)
    lengths = [30, 12, 40]
    emissions = a_batch(SCHEMES[0], rng, lengths)
    chain = chain_of("crf", SCHEMES[0], rng)
    last = None
    for threshold in np.linspace(0.01, 1, 40):
        answers = decode(emissions, lengths, chain, SCHEMES[0], threshold=float(threshold))
        found = {(b, one.span) for b, answer in enumerate(answers) for one in answer.spans}
        assert last is None or found <= last
        last = found


def test_each_sentence_has_its_own_threshold():
    emissions, full = two_spans()
    three = np.repeat(emissions, 3, axis=0)
    least = [0.0, full.spans[1].score + 1e-6, 1]
    answers = decode(three, [4, 4, 4], legality(SCHEMES[0]), SCHEMES[0], threshold=least)
    assert [len(a.spans) for a in answers] == [2, 1, 0]


def test_as_many_thresholds_as_sentences_are_expected():
    emissions, _ = two_spans()
    with pytest.raises(ValueError, match="shorter"):
        decode(emissions, [4], legality(SCHEMES[0]), SCHEMES[0], threshold=[])


# Extremes

EXTREMES = [-1e6, -1e3, -30.0, 0.0, 0.5, 30.0, 1e3, 1e6]


@brief
@given(
    st.sampled_from(SCHEMES),
    st.sampled_from(HEADS),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([0.05, 1.0, 20.0]),
    st.integers(0, 2**32 - 1),
)
def test_extreme_emissions_give_legal_labels_and_scores_from_0_to_1(
    scheme, head, lengths, temperature, seed
):
    rng = np.random.default_rng(seed)
    chain = chain_of(head, scheme, rng)
    emissions = rng.choice(EXTREMES, (len(lengths), max(lengths), len(scheme.labels)))
    for answer in decode(emissions, lengths, chain, scheme, temperature=temperature):
        assert is_legal(answer.labels)
        scores = np.array(answer.scores + [s.score for s in answer.spans])
        assert np.isfinite(scores).all()
        assert ((scores >= 0) & (scores <= 1 + 1e-9)).all()


@pytest.mark.parametrize("scale", [1e3, 1e5, 1e6])
@pytest.mark.parametrize("scheme", SCHEMES, ids=["K3", "K5"])
def test_no_emission_makes_up_for_an_illegal_move(scheme, scale):
    """All emissions ask for I, where a sentence may not open with it, nor go from one type to another."""
    emissions = np.zeros((1, 6, len(scheme.labels)), dtype=np.float32)
    emissions[:, :, 2] = scale
    if len(scheme.labels) == 5:
        emissions[:, 3:, 2], emissions[:, 3:, 4] = 0, scale
    (answer,) = decode(emissions, [6], legality(scheme), scheme)
    assert is_legal(answer.labels)
    assert answer.labels[:2] == ["B-PER", "I-PER"]
    assert answer.scores[1] == pytest.approx(1.0)


def test_the_score_of_a_sure_answer_is_1_and_of_equal_labels_even():
    scheme = SCHEMES[0]
    sure = np.array([[[0, 1e4, 0], [0, 0, 1e4], [1e4, 0, 0]]])
    (answer,) = decode(sure, [3], legality(scheme), scheme)
    assert answer.labels == ["B-PER", "I-PER", "O"]
    np.testing.assert_allclose(answer.scores, 1.0)
    assert answer.spans[0].score == pytest.approx(1.0)
    (even,) = decode(np.zeros((1, 1, 3)), [1], legality(scheme), scheme)
    assert even.scores == [pytest.approx(0.5)]  # O or B: a sentence does not open with I


def test_ten_thousand_tokens_do_not_underflow():
    scheme = SCHEMES[1]
    rng = np.random.default_rng(0)
    emissions = rng.normal(0, 8, (1, 10_000, 5))
    (answer,) = decode(emissions, [10_000], chain_of("crf", scheme, rng), scheme)
    assert len(answer.labels) == len(answer.scores) == 10_000
    assert np.isfinite(answer.scores).all()
    assert is_legal(answer.labels)


def test_legality_is_what_the_scheme_says():
    chain = legality(SCHEMES[0])
    assert chain.start.tolist() == [0, 0, ILLEGAL]
    assert chain.transitions.tolist() == [[0, 0, ILLEGAL], [0, 0, 0], [0, 0, 0]]
    assert chain.end.tolist() == [0, 0, 0]
