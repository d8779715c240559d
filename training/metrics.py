"""Gold and predicted labels in, figures out. Pure: no model, no files, no clock.

A span counts only where its start, its end and its type are all right; spans are read from labels
as conlleval reads them (model.labels.spans_of), so that the figures compare with published ones:
Tjong Kim Sang & De Meulder 2003, and https://www.clips.uantwerpen.be/conll2003/ner/bin/conlleval.
As there, a share of nothing is 0.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil

from model.labels import Span, spans_of

Labels = Sequence[str]
N_BINS = 15  # as in Guo et al. 2017, arXiv:1706.04599, section 2


@dataclass(frozen=True, slots=True)
class SpanScores:
    """Counts of spans, and what follows from them; shares are 0..1."""

    n_gold: int
    n_predicted: int
    n_correct: int

    @property
    def precision(self) -> float:
        return self.n_correct / self.n_predicted if self.n_predicted else 0.0

    @property
    def recall(self) -> float:
        return self.n_correct / self.n_gold if self.n_gold else 0.0

    @property
    def f1(self) -> float:
        both = self.n_gold + self.n_predicted
        return 2 * self.n_correct / both if both else 0.0


def _check_lengths(gold: Sequence[Labels], predicted: Sequence[Labels]) -> None:
    if len(gold) != len(predicted):
        raise ValueError(f"{len(predicted)} predicted sentences for {len(gold)} gold ones")
    for number, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        if len(g) != len(p):
            raise ValueError(f"sentence {number}: {len(p)} predicted labels for {len(g)} gold ones")


def span_scores(gold: Sequence[Labels], predicted: Sequence[Labels]) -> SpanScores:
    """Over all spans of all types (micro-averaged). One sequence of labels a sentence."""
    found = _counted(gold, predicted, lambda _sentence, _span: "all")
    return found.get("all", SpanScores(0, 0, 0))


def span_scores_by_type(gold: Sequence[Labels], predicted: Sequence[Labels]) -> dict[str, SpanScores]:
    """For each entity type that occurs, in alphabetical order."""
    return _counted(gold, predicted, lambda _sentence, span: span.entity_type)


def _counted(
    gold: Sequence[Labels], predicted: Sequence[Labels], slice_of: Callable[[int, Span], str]
) -> dict[str, SpanScores]:
    _check_lengths(gold, predicted)
    n_gold, n_predicted, n_correct = Counter[str](), Counter[str](), Counter[str]()
    for number, (g, p) in enumerate(zip(gold, predicted, strict=True)):
        expected, found = spans_of(g), spans_of(p)
        n_gold.update(slice_of(number, span) for span in expected)
        n_predicted.update(slice_of(number, span) for span in found)
        n_correct.update(slice_of(number, span) for span in set(expected) & set(found))
    return {
        name: SpanScores(n_gold[name], n_predicted[name], n_correct[name])
        for name in sorted(n_gold | n_predicted)
    }


def token_accuracy(gold: Sequence[Labels], predicted: Sequence[Labels]) -> float:
    """Share of the tokens whose label is right, 0..1."""
    _check_lengths(gold, predicted)
    n_tokens = sum(len(g) for g in gold)
    n_right = sum(a == b for g, p in zip(gold, predicted, strict=True) for a, b in zip(g, p, strict=True))
    return n_right / n_tokens if n_tokens else 0.0


def confusion(
    gold: Sequence[Labels], predicted: Sequence[Labels], labels: Sequence[str]
) -> tuple[tuple[int, ...], ...]:
    """Tokens by gold label (row) and predicted label (column), in the order of ``labels``."""
    _check_lengths(gold, predicted)
    pairs = Counter(ab for g, p in zip(gold, predicted, strict=True) for ab in zip(g, p, strict=True))
    if strange := {label for pair in pairs for label in pair} - set(labels):
        raise ValueError(f"label {min(strange)!r} is not one of {tuple(labels)}")
    return tuple(tuple(pairs[a, b] for b in labels) for a in labels)


# Slices: a span belongs to the slice that its own words put it in, be it gold or predicted, so
# that precision and recall are both of that slice; a right span is in one slice, not two.


def scores_by_slice(
    gold: Sequence[Labels],
    predicted: Sequence[Labels],
    tokens: Sequence[Sequence[str]],
    slice_of: Callable[[Sequence[str], Span], str],
) -> dict[str, SpanScores]:
    """``slice_of`` names the slice of a span in a sentence's tokens. In the order of SLICES."""
    if len(tokens) != len(gold):
        raise ValueError(f"{len(tokens)} sentences of tokens for {len(gold)} of labels")
    found = _counted(gold, predicted, lambda number, span: slice_of(tokens[number], span))
    return dict(sorted(found.items(), key=lambda item: SLICES.index(item[0]) if item[0] in SLICES else -1))


Name = tuple[str, ...]
# All slices that the functions below name, each slicing's in the order to show it in.
SLICES = (
    *("seen", "unseen"),
    *("1", "2", "3", "4+"),
    *("Title", "UPPER", "lower", "mixed", "no case"),
    *("1-5", "6-10", "11-20", "21-40", "41+"),
)


def names_of(sentences: Iterable[tuple[Sequence[str], Labels]]) -> frozenset[Name]:
    """Every entity's tokens as written, in sentences given as (tokens, labels)."""
    return frozenset(
        tuple(tokens[span.start : span.end]) for tokens, labels in sentences for span in spans_of(labels)
    )


def by_familiarity(train_names: frozenset[Name]) -> Callable[[Sequence[str], Span], str]:
    """Slices "seen" and "unseen": whether exactly this name, as written, is one of the training names."""

    def slice_of(tokens: Sequence[str], span: Span) -> str:
        return "seen" if tuple(tokens[span.start : span.end]) in train_names else "unseen"

    return slice_of


def by_span_length(_tokens: Sequence[str], span: Span) -> str:
    """Slices "1" to "3" and "4+": tokens in the name."""
    length = span.end - span.start
    return str(length) if length < 4 else "4+"


def by_case(tokens: Sequence[str], span: Span) -> str:
    """Slices "lower", "Title", "UPPER", "mixed" (Ludwig van Beethoven), and "no case" (scripts without)."""
    words = tokens[span.start : span.end]
    letters = [[c for c in word if c.lower() != c.upper()] for word in words]
    cased = [found for found in letters if found]
    if not cased:
        return "no case"
    if all(c.islower() for found in cased for c in found):
        return "lower"
    # "J." and "X" are how initials are written in any name: one letter does not make a name UPPER.
    if all(c.isupper() for found in cased for c in found) and any(len(found) > 1 for found in cased):
        return "UPPER"
    return "Title" if all(not found[0].islower() for found in cased) else "mixed"


_SENTENCE_LENGTHS = ((5, "1-5"), (10, "6-10"), (20, "11-20"), (40, "21-40"))


def by_sentence_length(tokens: Sequence[str], _span: Span) -> str:
    """Slices "1-5", "6-10", "11-20", "21-40" and "41+": tokens in the sentence."""
    return next((name for most, name in _SENTENCE_LENGTHS if len(tokens) <= most), "41+")


# Scores of spans: are they probabilities, and what can be had by choosing a threshold?


@dataclass(frozen=True, slots=True)
class Judged:
    """A predicted span's score, and whether the span is right."""

    score: float
    correct: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """Predicted spans with a score in ``(low, high]``; the first bin has 0 too."""

    low: float
    high: float
    n: int
    mean_score: float
    share_correct: float


@dataclass(frozen=True)
class Calibration:
    """How far scores are from the share of right spans. ``ece``: expected calibration error, 0..1."""

    bins: tuple[Bin, ...]  # those that hold a span
    ece: float


def calibration(judged: Sequence[Judged], n_bins: int = N_BINS) -> Calibration:
    """Over bins of equal width (Guo et al. 2017, arXiv:1706.04599, equation 3)."""
    binned: defaultdict[int, list[Judged]] = defaultdict(list)
    for one in judged:
        if not 0 <= one.score <= 1 + 1e-6:  # rounding can take a product of probabilities past 1
            raise ValueError(f"score {one.score} is not between 0 and 1")
        binned[min(n_bins - 1, max(0, ceil(one.score * n_bins) - 1))].append(one)
    bins = tuple(
        Bin(
            i / n_bins,
            (i + 1) / n_bins,
            len(found),
            sum(one.score for one in found) / len(found),
            sum(one.correct for one in found) / len(found),
        )
        for i, found in sorted(binned.items())
    )
    off = sum(one.n * abs(one.mean_score - one.share_correct) for one in bins)
    return Calibration(bins, off / len(judged) if judged else 0.0)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What keeping the spans that score at least ``threshold`` gives."""

    threshold: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def precision_recall_curve(judged: Sequence[Judged], n_gold: int) -> tuple[CurvePoint, ...]:
    """One point for each score that occurs, the highest first: recall never falls along the curve.

    It ends at the recall of all spans given: a higher threshold only takes spans away.
    """
    points: list[CurvePoint] = []
    n_correct = 0
    ordered = sorted(judged, key=lambda one: -one.score)
    for n_kept, one in enumerate(ordered, 1):
        n_correct += one.correct
        if n_kept == len(ordered) or ordered[n_kept].score < one.score:
            points.append(CurvePoint(one.score, n_correct / n_kept, n_correct / n_gold if n_gold else 0.0))
    return tuple(points)


def hiding_curve(touching: Sequence[Judged], hidden: Sequence[float]) -> tuple[CurvePoint, ...]:
    """As ``precision_recall_curve``, of what redaction needs: a name is found where it is hidden whole,
    and a span is right where it touches a name.

    ``touching``: whether each span does. ``hidden``: of each gold name the highest threshold at which
    every token of it is in a span, 0 where there is none.
    """
    ascending = sorted(hidden)
    points = []
    for point in precision_recall_curve(touching, len(hidden)):
        n_hidden = len(ascending) - bisect_left(ascending, point.threshold)
        points.append(replace(point, recall=n_hidden / len(hidden) if hidden else 0.0))
    return tuple(points)


def best_recall(curve: Sequence[CurvePoint], *, precision: float) -> CurvePoint | None:
    """The point of the highest recall among those of at least this precision; None where there is none."""
    reached = [point for point in curve if point.precision >= precision]
    return max(reached, key=lambda point: (point.recall, point.precision), default=None)


def best_precision(curve: Sequence[CurvePoint], *, recall: float) -> CurvePoint | None:
    """The point of the highest precision among those of at least this recall; None where there is none."""
    reached = [point for point in curve if point.recall >= recall]
    return max(reached, key=lambda point: (point.precision, point.recall), default=None)
