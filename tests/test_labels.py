import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.labels import LabelScheme, Span, labels_of, spans_of
from tests.strategies import thorough

TYPES = ("PER", "ORG", "X-Y")


@st.composite
def annotated(draw):
    """Spans that do not overlap, in order, and the length of their sentence."""
    spans, at = [], 0
    for gap, length, kind in draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.sampled_from(TYPES)), max_size=6)
    ):
        spans.append(Span(at + gap, at + gap + length, kind))
        at += gap + length
    return spans, at + draw(st.integers(0, 3))


@thorough
@given(annotated())
def test_spans_survive_the_round_trip_through_labels(case):
    spans, n_tokens = case
    labels = labels_of(spans, n_tokens)
    assert len(labels) == n_tokens
    assert spans_of(labels) == spans


@thorough
@given(annotated())
def test_the_order_in_which_spans_are_given_does_not_matter(case):
    spans, n_tokens = case
    assert labels_of(spans[::-1], n_tokens) == labels_of(spans, n_tokens)


def is_legal(sequence):
    """IOB2, spelt out anew: an I-X stands right after a B-X or an I-X."""
    return all(
        not b.startswith("I-") or a in (f"B-{b[2:]}", f"I-{b[2:]}")
        for a, b in itertools.pairwise(("O", *sequence))
    )


@pytest.mark.parametrize("types", [("PER",), ("PER", "ORG")])
def test_legal_sequences_survive_the_round_trip_and_the_scheme_knows_them(types):
    scheme = LabelScheme(types)
    n_legal = 0
    for sequence in itertools.product(scheme.labels, repeat=5):
        legal = is_legal(sequence)
        n_legal += legal
        says = scheme.may_open(sequence[0]) and all(
            scheme.may_follow(a, b) for a, b in itertools.pairwise(sequence)
        )
        assert says == legal
        again = labels_of(spans_of(sequence), 5)
        assert is_legal(again)
        assert (again == list(sequence)) == legal
    # From O there are 1 + k legal moves, from a span's label one more: counted by hand for k = 1.
    assert n_legal == {1: 89, 2: 571}[len(types)]


@pytest.mark.parametrize(
    ("labels", "spans"),
    [
        ([], []),
        (["O", "O"], []),
        (["B-PER", "I-PER", "O", "B-PER"], [Span(0, 2, "PER"), Span(3, 4, "PER")]),
        # Two people side by side: a reader that only closes a span at O loses the first.
        (["B-PER", "B-PER", "O"], [Span(0, 1, "PER"), Span(1, 2, "PER")]),
        (["B-PER", "I-PER", "B-ORG"], [Span(0, 2, "PER"), Span(2, 3, "ORG")]),
        # conlleval: an I- with nothing open starts a span.
        (["O", "I-PER", "I-PER"], [Span(1, 3, "PER")]),
        (["B-PER", "I-ORG"], [Span(0, 1, "PER"), Span(1, 2, "ORG")]),
    ],
)
def test_spans_of(labels, spans):
    assert spans_of(labels) == spans


def test_the_position_of_a_label_is_its_id():
    scheme = LabelScheme(("PER", "ORG"))
    assert scheme.labels == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG")
    assert scheme.ids(scheme.labels) == [0, 1, 2, 3, 4]
    assert scheme.ids([]) == []


def test_an_unknown_label_is_named():
    with pytest.raises(ValueError, match=r"'B-PRE' is not one of \('O', 'B-PER', 'I-PER'\)"):
        LabelScheme().ids(["O", "B-PRE"])


@pytest.mark.parametrize(
    "span", [Span(-1, 1, "PER"), Span(1, 1, "PER"), Span(2, 1, "PER"), Span(2, 4, "PER")]
)
def test_a_span_that_does_not_fit_is_named(span):
    with pytest.raises(ValueError, match=rf"start={span.start}, end={span.end}.* does not fit 3 tokens"):
        labels_of([span], 3)


@pytest.mark.parametrize("other", [Span(0, 3, "PER"), Span(1, 2, "ORG"), Span(2, 4, "PER")])
def test_an_overlapping_span_is_named(other):
    with pytest.raises(ValueError, match=rf"end={other.end}.* overlaps another span"):
        labels_of([Span(1, 3, "PER"), other], 4)
