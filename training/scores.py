"""A tagger and labelled sentences in; scores, and a table of them, out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, groupby
from typing import Any

from model.head import Tagged
from model.labels import Span, spans_of
from model.tagger import Tagger
from training.corpus import Sentence
from training.metrics import (
    Calibration,
    CurvePoint,
    Judged,
    Name,
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
    precision_recall_curve,
    scores_by_slice,
    span_scores,
    span_scores_by_type,
    token_accuracy,
)

# Two ways to use the tagger: redacting wants few names missed, linking wants few wrong ones.
AT_PRECISION, AT_RECALL = 0.95, 0.98
KINDS = ("missed", "invented", "boundary", "type")
CURVE_FROM = 0.001  # the least threshold of a curve
_CURVE_POINTS = 200  # kept of a curve in JSON; a plot shows no more
_WORST = 20  # mistakes of each kind that a set keeps


@dataclass(frozen=True)
class Mistake:
    """One wrong span in its sentence.

    "missed": no prediction touches it; "invented": it touches no gold span; "boundary": it overlaps
    a gold span; "type": only its type is wrong. ``confidence`` is the span's score, and for a missed
    one the least probability of what its tokens were labelled with instead: how sure the model was.
    """

    kind: str
    confidence: float
    corpus: str
    sentence: int  # number of its sentence within the corpus, from 0
    span: Span
    tokens: tuple[str, ...]
    gold: tuple[Span, ...]
    predicted: tuple[Span, ...]


@dataclass(frozen=True)
class CorpusScores:
    """All figures of one labelled set; shares are 0..1. The calibration is of the most probable
    labelling's spans, the curves of all that score CURVE_FROM or more, the rest of the threshold's."""

    name: str
    n_sentences: int
    n_tokens: int
    spans: SpanScores
    by_type: dict[str, SpanScores]
    token_accuracy: float
    slices: dict[str, dict[str, SpanScores]]  # slicing → slice → scores
    calibration: Calibration
    curve: tuple[CurvePoint, ...]
    hiding: tuple[CurvePoint, ...]  # of names that are hidden whole, and spans that touch one
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]  # tokens: gold label by predicted label
    n_mistakes: dict[str, int]  # by kind
    worst: tuple[Mistake, ...]  # the most confident of each kind first

    @property
    def recall_at_precision(self) -> CurvePoint | None:
        """The best recall at a precision of at least AT_PRECISION."""
        return best_recall(self.curve, precision=AT_PRECISION)

    @property
    def precision_at_recall(self) -> CurvePoint | None:
        """The best precision at a recall of at least AT_RECALL."""
        return best_precision(self.curve, recall=AT_RECALL)

    @property
    def precision_at_hidden(self) -> CurvePoint | None:
        """The same where a name counts once it is hidden whole, and a span where it touches a name."""
        return best_precision(self.hiding, recall=AT_RECALL)

    def as_json(self) -> dict[str, Any]:
        """Figures only: no word of the data."""
        return {
            "name": self.name,
            "n_sentences": self.n_sentences,
            "n_tokens": self.n_tokens,
            "spans": _scores_json(self.spans),
            "by_type": {name: _scores_json(s) for name, s in self.by_type.items()},
            "token_accuracy": self.token_accuracy,
            "slices": {
                slicing: {name: _scores_json(s) for name, s in found.items()}
                for slicing, found in self.slices.items()
            },
            "calibration": asdict(self.calibration),
            "curve": _curve_json(self.curve),
            "hiding": _curve_json(self.hiding),
            f"recall_at_precision_{AT_PRECISION}": _point_json(self.recall_at_precision),
            f"precision_at_recall_{AT_RECALL}": _point_json(self.precision_at_recall),
            f"precision_at_hidden_{AT_RECALL}": _point_json(self.precision_at_hidden),
            "labels": list(self.labels),
            "confusion": [list(row) for row in self.confusion],
            "n_mistakes": self.n_mistakes,
        }


@dataclass(frozen=True)
class Evaluation:
    """What a model scores on each set, and on all of them as one set."""

    model: str
    version: str
    backend: str
    device: str
    threshold: float  # spans that scored lower were O
    sets: tuple[CorpusScores, ...]
    pooled: CorpusScores  # the sets as one: a large set counts for more
    tokens_per_s: float  # by one Tagger, given tokens, word types not seen before included
    n_train_names: int | None  # that "seen" refers to; None where no training files were given

    @property
    def mean_f1(self) -> float:
        """Over the sets, each counting alike."""
        return sum(one.spans.f1 for one in self.sets) / len(self.sets)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "version": self.version,
            "backend": self.backend,
            "device": self.device,
            "threshold": self.threshold,
            "mean_f1": self.mean_f1,
            "tokens_per_s": self.tokens_per_s,
            "n_train_names": self.n_train_names,
            "sets": [one.as_json() for one in self.sets],
            "pooled": self.pooled.as_json(),
        }


def _scores_json(scores: SpanScores) -> dict[str, float]:
    shares = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1}
    return {**asdict(scores), **shares}


def _curve_json(curve: Sequence[CurvePoint]) -> list[dict[str, float]]:
    step = max(1, -(-len(curve) // _CURVE_POINTS))
    kept = {*range(0, len(curve), step), len(curve) - 1} if curve else set()
    return [asdict(curve[i]) for i in sorted(kept)]


def _point_json(point: CurvePoint | None) -> dict[str, float] | None:
    return asdict(point) if point else None


def evaluate(
    tagger: Tagger,
    corpora: Mapping[str, Sequence[Sentence]],
    *,
    threshold: float | None = None,
    train_names: frozenset[Name] | None = None,
    documents: bool = False,
) -> Evaluation:
    """Scores the tagger on labelled sets. Raises ValueError for a label that it does not know.

    ``threshold``: None is the model's own. ``train_names``: without, no slices by familiarity.
    ``documents``: a set's sentences tell each other of names as those of a ``text`` do, where it has
    several documents; else each is tagged by itself.
    """
    if threshold is None:
        threshold = tagger.config.threshold
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}: 0 to 1 is expected")
    if not corpora:
        raise ValueError("no labelled set to evaluate on")
    scored = []
    seconds = 0.0
    for name, sentences in corpora.items():
        groups = [[sentence.tokens] for sentence in sentences]
        if documents and sentences and sentences[-1].document > 0:
            of_each = groupby(sentences, key=lambda sentence: sentence.document)
            groups = [[sentence.tokens for sentence in each] for _, each in of_each]
        began = time.perf_counter()
        answers = _tagged(tagger, groups, threshold)
        seconds += time.perf_counter() - began
        best = _tagged(tagger, groups, 0.0) if threshold else answers
        scored.append(_Scored(name, sentences, answers, best, _tagged(tagger, groups, CURVE_FROM)))
    labels = tagger.config.scheme.labels
    sets = tuple(_corpus_scores(one, labels, train_names) for one in scored)
    pooled = sets[0] if len(sets) == 1 else _corpus_scores(_pooled(scored), labels, train_names)
    if len(sets) > 1:
        # A sentence's number means nothing in the pool: its mistakes keep that of their own set.
        pooled = replace(pooled, worst=_ranked(mistake for one in sets for mistake in one.worst))
    return Evaluation(
        model=tagger.config.name,
        version=tagger.config.version,
        backend=tagger.backend.name,
        device=tagger.backend.device,
        threshold=threshold,
        sets=sets,
        pooled=pooled,
        tokens_per_s=sum(one.n_tokens for one in sets) / seconds if seconds else 0.0,
        n_train_names=None if train_names is None else len(train_names),
    )


def _tagged(tagger: Tagger, documents: list[list[tuple[str, ...]]], threshold: float) -> list[Tagged]:
    return list(chain.from_iterable(tagger.tag_documents(documents, threshold)))


@dataclass(frozen=True)
class _Scored:
    """A set with the tagger's answers: at the threshold, at threshold 0, and at CURVE_FROM."""

    name: str
    sentences: Sequence[Sentence]
    answers: Sequence[Tagged]
    best: Sequence[Tagged]
    likely: Sequence[Tagged]


def _pooled(scored: Sequence[_Scored]) -> _Scored:
    return _Scored(
        "all sets",
        [s for one in scored for s in one.sentences],
        [a for one in scored for a in one.answers],
        [a for one in scored for a in one.best],
        [a for one in scored for a in one.likely],
    )


def _corpus_scores(
    scored: _Scored, labels: tuple[str, ...], train_names: frozenset[Name] | None
) -> CorpusScores:
    tokens = [sentence.tokens for sentence in scored.sentences]
    gold = [sentence.labels for sentence in scored.sentences]
    predicted = [answer.labels for answer in scored.answers]
    slicings = {"name length": by_span_length, "case": by_case, "sentence length": by_sentence_length}
    slices = {name: scores_by_slice(gold, predicted, tokens, f) for name, f in slicings.items()}
    if train_names is not None:
        familiar = scores_by_slice(gold, predicted, tokens, by_familiarity(train_names))
        slices = {"in training": familiar, **slices}
    mistakes = _mistakes(scored)
    by_kind = Counter(mistake.kind for mistake in mistakes)
    overall = span_scores(gold, predicted)
    return CorpusScores(
        name=scored.name,
        n_sentences=len(gold),
        n_tokens=sum(len(sentence) for sentence in tokens),
        spans=overall,
        by_type=span_scores_by_type(gold, predicted),
        token_accuracy=token_accuracy(gold, predicted),
        slices=slices,
        calibration=calibration(_judged(scored.sentences, scored.best)),
        curve=precision_recall_curve(_judged(scored.sentences, scored.likely), overall.n_gold),
        hiding=_hiding(scored.sentences, scored.likely),
        labels=labels,
        confusion=confusion(gold, predicted, labels),
        n_mistakes={kind: by_kind[kind] for kind in KINDS},
        worst=_ranked(mistakes),
    )


def _judged(sentences: Sequence[Sentence], answers: Sequence[Tagged]) -> list[Judged]:
    found: list[Judged] = []
    for sentence, answer in zip(sentences, answers, strict=True):
        if answer.spans:
            gold = set(spans_of(sentence.labels))
            found += (Judged(one.score, one.span in gold) for one in answer.spans)
    return found


def _hiding(sentences: Sequence[Sentence], answers: Sequence[Tagged]) -> tuple[CurvePoint, ...]:
    touching: list[Judged] = []
    hidden: list[float] = []
    for sentence, answer in zip(sentences, answers, strict=True):
        gold = spans_of(sentence.labels)
        scores = [0.0] * len(sentence.tokens)
        for one in answer.spans:
            scores[one.span.start : one.span.end] = [one.score] * (one.span.end - one.span.start)
            touching.append(Judged(one.score, any(_overlap(one.span, span) for span in gold)))
        hidden += (min(scores[span.start : span.end]) for span in gold)
    return hiding_curve(touching, hidden)


def _mistakes(scored: _Scored) -> list[Mistake]:
    found: list[Mistake] = []
    for number, (sentence, answer) in enumerate(zip(scored.sentences, scored.answers, strict=True)):
        gold = tuple(spans_of(sentence.labels))
        predicted = tuple(one.span for one in answer.spans)
        if gold == predicted:
            continue
        wrong = [
            (_kind(one.span, gold), one.score, one.span) for one in answer.spans if one.span not in gold
        ]
        wrong += (
            ("missed", min(answer.scores[span.start : span.end]), span)
            for span in gold
            if not any(_overlap(span, other) for other in predicted)
        )
        found += (
            Mistake(kind, sure, scored.name, number, span, sentence.tokens, gold, predicted)
            for kind, sure, span in wrong
        )
    return found


def _overlap(a: Span, b: Span) -> bool:
    return a.start < b.end and b.start < a.end


def _kind(predicted: Span, gold: Iterable[Span]) -> str:
    touched = [span for span in gold if _overlap(span, predicted)]
    if any((span.start, span.end) == (predicted.start, predicted.end) for span in touched):
        return "type"
    return "boundary" if touched else "invented"


def _ranked(mistakes: Iterable[Mistake]) -> tuple[Mistake, ...]:
    """The most confident ones of each kind, the kinds in the order of KINDS."""
    surest = sorted(mistakes, key=lambda one: -one.confidence)
    return tuple(m for kind in KINDS for m in [one for one in surest if one.kind == kind][:_WORST])


def table(evaluation: Evaluation) -> str:
    """The scores as text, in per cent."""
    rows = [_row(one) for one in evaluation.sets]
    if len(evaluation.sets) > 1:
        rows.append(_row(evaluation.pooled))
    heads = ["set", "sentences", "tokens", "names", "P", "R", "F1", "accuracy", "ECE",
             f"R at P≥{AT_PRECISION * 100:g}", f"P at R≥{AT_RECALL * 100:g}",
             f"P at hidden≥{AT_RECALL * 100:g}"]  # fmt: skip
    parts = [aligned([heads, *rows])]
    by_type = evaluation.pooled.by_type
    slices = {**({"type": by_type} if len(by_type) > 1 else {}), **evaluation.pooled.slices}
    sliced = [
        [slicing, name, f"{s.n_gold:,}", _percent(s.precision), _percent(s.recall), _percent(s.f1)]
        for slicing, found in slices.items()
        for name, s in found.items()
    ]
    if sliced:
        parts.append(aligned([["slice", "", "names", "P", "R", "F1"], *sliced], n_left=2))
    parts.append(
        f"{evaluation.model} {evaluation.version}, threshold {evaluation.threshold:g}: "
        f"mean F1 {_percent(evaluation.mean_f1)} over {len(evaluation.sets)} "
        f"set{'s' * (len(evaluation.sets) != 1)}; {evaluation.tokens_per_s:,.0f} words/s "
        f"({evaluation.backend}, {evaluation.device})"
    )
    return "\n\n".join(parts)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"


def _row(scores: CorpusScores) -> list[str]:
    s = scores.spans
    at_precision, at_recall = scores.recall_at_precision, scores.precision_at_recall
    at_hidden = scores.precision_at_hidden
    return [
        scores.name,
        f"{scores.n_sentences:,}",
        f"{scores.n_tokens:,}",
        f"{s.n_gold:,}",
        *map(_percent, (s.precision, s.recall, s.f1, scores.token_accuracy, scores.calibration.ece)),
        _percent(at_precision.recall if at_precision else None),
        _percent(at_recall.precision if at_recall else None),
        _percent(at_hidden.precision if at_hidden else None),
    ]


def aligned(rows: list[list[str]], n_left: int = 1) -> str:
    """Columns two spaces apart; the first ``n_left`` to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
