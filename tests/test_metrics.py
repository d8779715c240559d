"""Scores against conlleval: frozen results, worked by hand, and a port of its own line-by-line walk."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.labels import Span
from tests.strategies import thorough
from training.metrics import (
    SLICES,
    CurvePoint,
    Judged,
    SpanScores,
    best_precision,
    best_recall,
    by_case,
    by_familiarity,
    by_sentence_length,
    by_span_length,
    calibration,
    confusion,
    hiding_curve,
    names_of,
    precision_recall_curve,
    scores_by_slice,
    span_scores,
    span_scores_by_type,
    token_accuracy,
)

# conlleval


def starts(before_tag, tag, before_type, kind):
    """conlleval's startOfChunk."""
    return (
        (before_tag in "BIO" and tag == "B")
        or (before_tag == "O" and tag == "I")
        or (tag != "O" and before_type != kind)
    )


def ends(before_tag, tag, before_type, kind):
    """conlleval's endOfChunk."""
    return (
        (before_tag in "BI" and tag in "BO")
        or (before_tag != "O" and before_type != kind)
    )  # fmt: skip


def conlleval(gold, predicted):
    """Its main loop: one walk over the lines with a flag for "in a correct chunk". No spans are made.

    Counts by type: [gold, predicted, correct]; and the share of right tags.
    """
    counts = {}
    n_tokens = n_right = 0
    last_gold = last_found = ("O", "")
    in_correct = ""
    lines = [
        line
        for g, p in zip(gold, predicted, strict=True)
        for line in (*zip(g, p, strict=True), ("O", "O"))  # a boundary counts as O in both
    ]
    n_boundaries = len(gold)
    for g, p in lines:
        gold_tag, _, gold_type = g.partition("-")
        tag, _, kind = p.partition("-")
        if in_correct:
            gold_ends = ends(last_gold[0], gold_tag, last_gold[1], gold_type)
            found_ends = ends(last_found[0], tag, last_found[1], kind)
            if gold_ends and found_ends and last_gold[1] == last_found[1]:
                counts[in_correct][2] += 1
                in_correct = ""
            elif gold_ends != found_ends or gold_type != kind:
                in_correct = ""
        gold_starts = starts(last_gold[0], gold_tag, last_gold[1], gold_type)
        found_starts = starts(last_found[0], tag, last_found[1], kind)
        if gold_starts and found_starts and gold_type == kind:
            in_correct = gold_type
        if gold_starts:
            counts.setdefault(gold_type, [0, 0, 0])[0] += 1
        if found_starts:
            counts.setdefault(kind, [0, 0, 0])[1] += 1
        n_right += g == p
        n_tokens += 1
        last_gold, last_found = (gold_tag, gold_type), (tag, kind)
    n_tokens -= n_boundaries
    return counts, (n_right - n_boundaries) / n_tokens if n_tokens else 0.0


FROZEN = [
    # gold, predicted, then (names in gold, found, correct) as conlleval prints them
    ("B-PER I-PER O B-PER", "B-PER I-PER O B-PER", (2, 2, 2)),
    ("B-PER I-PER O B-PER", "B-PER O O B-PER", (2, 2, 1)),  # half a name is a wrong name
    ("B-PER I-PER", "O O", (1, 0, 0)),
    ("O O", "B-PER I-PER", (0, 1, 0)),
    ("O O", "O O", (0, 0, 0)),
    # Ill-formed: an I- with nothing open opens a name.
    ("B-PER I-PER", "I-PER I-PER", (1, 1, 1)),
    ("O B-PER", "O I-PER", (1, 1, 1)),
    ("I-PER O I-PER", "B-PER O B-PER", (2, 2, 2)),
    # A change of type ends one name and opens another.
    ("B-PER I-ORG", "B-PER B-ORG", (2, 2, 2)),
    ("B-PER I-PER", "B-PER I-ORG", (1, 2, 0)),
    ("I-PER I-ORG I-ORG", "B-PER B-ORG I-ORG", (2, 2, 2)),
    # Side by side.
    ("B-PER B-PER", "B-PER I-PER", (2, 1, 0)),
    ("B-PER I-PER B-PER", "B-PER I-PER I-PER", (2, 1, 0)),
    # The right tokens of another type.
    ("B-PER I-PER O", "B-ORG I-ORG O", (1, 1, 0)),
    # The same end with another start, and the same start with another end.
    ("O B-PER I-PER", "B-PER I-PER I-PER", (1, 1, 0)),
    ("B-PER I-PER I-PER", "B-PER I-PER O", (1, 1, 0)),
]


@pytest.mark.parametrize(("gold", "predicted", "counts"), FROZEN)
def test_scores_are_those_that_conlleval_gives(gold, predicted, counts):
    g, p = [gold.split()], [predicted.split()]
    assert span_scores(g, p) == SpanScores(*counts)
    by_type, accuracy = conlleval(g, p)  # the port below is itself checked by hand
    assert tuple(map(sum, zip(*by_type.values(), strict=True))) == (counts if by_type else ())
    assert token_accuracy(g, p) == accuracy


def test_a_whole_report_is_what_conlleval_prints():
    """processed 12 tokens with 5 phrases; found: 6 phrases; correct: 3.

    accuracy: 58.33%; precision: 50.00%; recall: 60.00%; FB1: 54.55
    LOC: precision 50.00%, recall 100.00%, FB1 66.67, 2; ORG: 0, 0, 0, 1; PER: 66.67, 66.67, 66.67, 3
    """
    gold = ["B-PER I-PER O B-LOC", "O B-PER O O B-ORG", "I-PER I-PER O"]
    predicted = ["B-PER I-PER O B-LOC", "O I-PER O B-LOC O", "B-PER B-ORG O"]
    g, p = [x.split() for x in gold], [x.split() for x in predicted]
    total = span_scores(g, p)
    assert total == SpanScores(5, 6, 3)
    assert [round(100 * x, 2) for x in (total.precision, total.recall, total.f1)] == [50.0, 60.0, 54.55]
    by_type = span_scores_by_type(g, p)
    assert by_type == {"LOC": SpanScores(1, 2, 1), "ORG": SpanScores(1, 1, 0), "PER": SpanScores(3, 3, 2)}
    assert round(100 * by_type["LOC"].f1, 2) == 66.67
    assert round(100 * token_accuracy(g, p), 2) == 58.33


LABELS = "O B-PER I-PER B-ORG I-ORG".split()
# Random pairs of labels agree on hardly any name: start from gold and change a few.
labelled = st.lists(
    st.tuples(st.sampled_from(LABELS), st.one_of(st.none(), st.none(), st.sampled_from(LABELS))), max_size=9
)
corpora = st.lists(labelled, max_size=4)


@thorough
@given(corpora)
def test_any_labels_score_as_a_port_of_conlleval_scores_them(sentences):
    gold = [[g for g, _ in sentence] for sentence in sentences]
    predicted = [[p or g for g, p in sentence] for sentence in sentences]
    by_type, accuracy = conlleval(gold, predicted)
    assert span_scores_by_type(gold, predicted) == {k: SpanScores(*v) for k, v in sorted(by_type.items())}
    total = [sum(column) for column in zip(*by_type.values(), strict=True)] or [0, 0, 0]
    assert span_scores(gold, predicted) == SpanScores(*total)
    assert token_accuracy(gold, predicted) == accuracy


def test_a_share_of_nothing_is_0_as_conlleval_has_it():
    nothing = span_scores([], [])
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)
    assert span_scores([["O"]], [["B-PER"]]).f1 == 0
    assert token_accuracy([], []) == 0


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    scores = SpanScores(7, 5, 3)
    assert scores.f1 == pytest.approx(2 / (1 / scores.precision + 1 / scores.recall))


def test_labels_that_do_not_belong_together_are_an_error():
    for score in (span_scores, span_scores_by_type, token_accuracy):
        with pytest.raises(ValueError, match="1 predicted sentences for 2 gold ones"):
            score([["O"], ["O"]], [["O"]])
        with pytest.raises(ValueError, match="sentence 1: 2 predicted labels for 1 gold ones"):
            score([["O"], ["O"]], [["O"], ["O", "O"]])


def test_the_confusion_counts_tokens_by_gold_and_given_label():
    gold, predicted = [["O", "B-PER", "I-PER"], ["O"]], [["O", "O", "B-PER"], ["O"]]
    assert confusion(gold, predicted, ("O", "B-PER", "I-PER")) == ((2, 0, 0), (1, 0, 0), (0, 1, 0))
    with pytest.raises(ValueError, match="label 'B-PER' is not one of"):
        confusion(gold, predicted, ("O",))


# Slices


@pytest.mark.parametrize(
    ("name", "case"),
    [
        ("Ada Lovelace", "Title"),
        ("J. R. R. Tolkien", "Title"),
        ("J.", "Title"),
        ("Conan O'Brien", "Title"),
        ("ADA", "UPPER"),
        ("J. LO", "UPPER"),
        ("ada lovelace", "lower"),
        ("ada2 !", "lower"),
        ("Ludwig van Beethoven", "mixed"),
        ("ada Lovelace", "mixed"),
        ("王 小 明", "no case"),
        ("007", "no case"),
        ("王 Ada", "Title"),
        ("Ñuñez", "Title"),
        ("Ώρα", "Title"),
    ],
)
def test_the_case_of_a_name(name, case):
    tokens = ["x", *name.split(), "x"]
    assert by_case(tokens, Span(1, len(tokens) - 1, "PER")) == case


def test_every_slice_that_is_given_out_has_a_place_in_the_order():
    rng = Random(1)
    alphabet = ["Ada", "ADA", "ada", "王"]
    slicings = (by_case, by_span_length, by_sentence_length, by_familiarity(frozenset({("Ada",)})))
    given_out = set()
    for _ in range(400):
        n = rng.randint(1, 60)
        tokens = [rng.choice(alphabet) for _ in range(n)]
        start = rng.randrange(n)
        span = Span(start, rng.randint(start + 1, min(n, start + 6)), "PER")
        given_out |= {slicing(tokens, span) for slicing in slicings}
    assert given_out == set(SLICES)


@pytest.mark.parametrize(
    ("n_tokens", "name"),
    [(1, "1-5"), (5, "1-5"), (6, "6-10"), (11, "11-20"), (20, "11-20"), (40, "21-40"), (41, "41+")],
)
def test_the_slice_of_a_sentence_length(n_tokens, name):
    assert by_sentence_length(["x"] * n_tokens, Span(0, 1, "PER")) == name


def test_a_name_is_seen_where_exactly_it_was_in_training():
    names = names_of([(["Ada", "King", "met", "Bob"], ["B-PER", "I-PER", "O", "B-PER"])])
    assert names == {("Ada", "King"), ("Bob",)}
    slice_of = by_familiarity(names)
    tokens = ["Ada", "King", "ada", "Bob"]
    spans = [Span(0, 2, "PER"), Span(0, 1, "PER"), Span(2, 3, "PER"), Span(3, 4, "PER")]
    assert [slice_of(tokens, span) for span in spans] == ["seen", "unseen", "unseen", "seen"]


@thorough
@given(corpora, st.sampled_from([by_case, by_span_length, by_sentence_length]))
def test_the_slices_of_a_slicing_add_up_to_the_whole(sentences, slicing):
    gold = [[g for g, _ in sentence] for sentence in sentences]
    predicted = [[p or g for g, p in sentence] for sentence in sentences]
    tokens = [[("Ada", "ada", "ADA")[i % 3] for i in range(len(g))] for g in gold]
    found = scores_by_slice(gold, predicted, tokens, slicing)
    total = span_scores(gold, predicted)
    assert sum(s.n_gold for s in found.values()) == total.n_gold
    assert sum(s.n_predicted for s in found.values()) == total.n_predicted
    assert sum(s.n_correct for s in found.values()) == total.n_correct
    assert list(found) == sorted(found, key=SLICES.index)


def test_slices_need_the_tokens_of_every_sentence():
    with pytest.raises(ValueError, match="0 sentences of tokens for 1 of labels"):
        scores_by_slice([["O"]], [["O"]], [], by_case)


# Calibration and curve

judgements = st.lists(st.builds(Judged, st.floats(0, 1), st.booleans()), max_size=60)


def test_the_calibration_error_of_a_worked_example():
    """Two bins: scores 0.9, 0.9 with one right (off by 0.4), score 0.1 wrong (off by 0.1)."""
    found = calibration([Judged(0.9, True), Judged(0.9, False), Judged(0.1, False)])
    assert [(b.n, b.share_correct) for b in found.bins] == [(1, 0.0), (2, 0.5)]
    assert found.ece == pytest.approx((2 * 0.4 + 0.1) / 3)
    assert calibration([]).ece == 0


def test_a_score_on_the_edge_of_two_bins_is_in_the_lower_one():
    found = calibration([Judged(score, True) for score in (0.0, 0.25, 0.5, 1.0)], 4)
    assert [(b.low, b.high, b.n) for b in found.bins] == [(0, 0.25, 2), (0.25, 0.5, 1), (0.75, 1, 1)]


@thorough
@given(judgements, st.integers(1, 20))
def test_every_score_is_in_its_bin_and_the_error_is_the_definition(judged, n_bins):
    found = calibration(judged, n_bins)
    expected = 0.0
    for b in found.bins:
        members = [one for one in judged if b.low < one.score <= b.high or one.score == b.low == 0]
        # A score within rounding of an edge may be in either bin.
        doubtful = sum(
            math.isclose(one.score, edge, abs_tol=1e-12) for one in judged for edge in (b.low, b.high)
        )
        assert abs(len(members) - b.n) <= doubtful
        expected += b.n * abs(b.mean_score - b.share_correct)
    assert sum(b.n for b in found.bins) == len(judged)
    assert found.ece == pytest.approx(expected / max(1, len(judged)))


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_score_that_is_no_probability_is_an_error(score):
    with pytest.raises(ValueError, match="is not between 0 and 1"):
        calibration([Judged(score, True)])


@thorough
@given(judgements, st.integers(0, 20))
def test_a_point_of_the_curve_is_what_its_threshold_gives(judged, n_missed):
    n_gold = sum(one.correct for one in judged) + n_missed
    curve = precision_recall_curve(judged, n_gold)
    assert [p.threshold for p in curve] == sorted({one.score for one in judged}, reverse=True)
    for point in curve:
        kept = [one for one in judged if one.score >= point.threshold]
        n_right = sum(one.correct for one in kept)
        assert point.precision == n_right / len(kept)
        assert point.recall == (n_right / n_gold if n_gold else 0)


@thorough
@given(judgements, st.lists(st.one_of(st.just(0.0), st.floats(0, 1))))
def test_a_name_is_hidden_from_its_highest_threshold_down(touching, hidden):
    for point in hiding_curve(touching, hidden):
        kept = [one for one in touching if one.score >= point.threshold]
        assert point.precision == sum(one.correct for one in kept) / len(kept)
        n_hidden = sum(score >= point.threshold for score in hidden)
        assert point.recall == (n_hidden / len(hidden) if hidden else 0)


def test_the_best_points_of_a_curve():
    judged = [Judged(0.9, True), Judged(0.8, True), Judged(0.7, False), Judged(0.6, True)]
    curve = precision_recall_curve(judged, 3)
    assert best_recall(curve, precision=0.95) == CurvePoint(0.8, 1.0, 2 / 3)
    assert best_recall(curve, precision=0.7) == CurvePoint(0.6, 0.75, 1.0)
    assert best_precision(curve, recall=0.98) == CurvePoint(0.6, 0.75, 1.0)
    assert best_precision(curve, recall=1.0) == CurvePoint(0.6, 0.75, 1.0)
    assert best_precision(curve, recall=0.3) == CurvePoint(0.8, 1.0, 2 / 3)


def test_what_no_threshold_reaches_is_none():
    curve = precision_recall_curve([Judged(0.9, False), Judged(0.5, True)], 2)
    assert best_recall(curve, precision=0.95) is None
    assert best_precision(curve, recall=0.98) is None
    assert best_recall((), precision=0.0) is None
