"""Emissions in; the best legal label sequence and exact probabilities out. NumPy only.

Both heads are one chain: score(y) = start[y_1] + sum of emissions + sum of transitions[y_t, y_t+1]
+ end[y_T], over the sequences that IOB2 allows. The softmax head's transitions are all 0; the
CRF's are learnt (Lafferty et al. 2001; Lample et al. 2016, arXiv:1603.01360, section 2.3). So a
score means the same with either: a probability under that chain. The losses that fit the two
heads differ, and stand in model/loss.py.

    B sentences   T tokens in the longest   K labels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.labels import LabelScheme, Span, labels_of, spans_of

Floats = NDArray[np.float64]
ILLEGAL = -1e4  # a log score that no sum of real ones makes up for; finite, so that 0 * it is 0
_LOWEST = -500.0  # exp(_LOWEST) is still a normal float64: no probability becomes 0 / 0


@dataclass(frozen=True)
class Chain:
    """Log scores between labels, the illegal moves included."""

    start: Floats  # (K,)
    transitions: Floats  # (K, K), from row to column
    end: Floats  # (K,)


def legality(scheme: LabelScheme) -> Chain:
    """0 for the moves that IOB2 allows, ILLEGAL for the others."""
    labels = scheme.labels
    return Chain(
        np.array([0.0 if scheme.may_open(b) else ILLEGAL for b in labels]),
        np.array([[0.0 if scheme.may_follow(a, b) else ILLEGAL for b in labels] for a in labels]),
        np.zeros(len(labels)),
    )


def chain_of(start: ArrayLike, transitions: ArrayLike, end: ArrayLike, scheme: LabelScheme) -> Chain:
    """A head's chain: its own scores, and what IOB2 forbids."""
    legal = legality(scheme)
    return Chain(
        np.asarray(start, dtype=np.float64) + legal.start,
        np.asarray(transitions, dtype=np.float64) + legal.transitions,
        np.asarray(end, dtype=np.float64) + legal.end,
    )


@dataclass(frozen=True)
class ScoredSpan:
    """A span with the probability that exactly it is an entity of its type."""

    span: Span
    score: float


@dataclass(frozen=True)
class Tagged:
    """One sentence's answer. ``scores[t]`` is the marginal probability of ``labels[t]``."""

    labels: list[str]
    scores: list[float]
    spans: list[ScoredSpan]


def _reversed_in_place(x: Floats, lengths: NDArray[np.int64]) -> Floats:
    """Each sentence backwards within its own length: what was last comes first. (B, T, K)."""
    steps = np.arange(x.shape[1])
    index = np.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)  # (B, T)
    return np.take_along_axis(x, index[:, :, None], axis=1)


def best_path(emissions: Floats, lengths: NDArray[np.int64], chain: Chain) -> NDArray[np.int64]:
    """The most probable label ids (B, T); past a sentence's length they mean nothing. Viterbi 1967."""
    n_sentences, n_steps, _ = emissions.shape
    # Here no emission, however extreme, may make up for an illegal move.
    start = np.where(chain.start > ILLEGAL / 2, chain.start, -np.inf)
    transitions = np.where(chain.transitions > ILLEGAL / 2, chain.transitions, -np.inf)
    best = start + emissions[:, 0]  # (B, K)
    pointers = np.zeros(emissions.shape, dtype=np.int64)  # (B, T, K), to the label before
    finals = best + chain.end  # (B, K) at each sentence's own last token
    for t in range(1, n_steps):
        moves = best[:, :, None] + transitions  # (B, K, K)
        pointers[:, t] = moves.argmax(1)
        best = moves.max(1) + emissions[:, t]
        finals = np.where((lengths == t + 1)[:, None], best + chain.end, finals)
    path = np.zeros((n_sentences, n_steps), dtype=np.int64)
    label = finals.argmax(1)  # (B,)
    rows = np.arange(n_sentences)
    for t in range(n_steps - 1, -1, -1):
        path[:, t] = label
        # A sentence shorter than t + 1 has not begun its way back yet.
        label = np.where(t < lengths, pointers[rows, t, label], label)
    return path


def messages(emissions: Floats, lengths: NDArray[np.int64], chain: Chain) -> tuple[Floats, Floats]:
    """Forward-backward: (marginals, suffixes), each (B, T, K).

    ``marginals[b, t, k]`` is P(y_t = k). ``suffixes[b, t, k]`` is proportional to the mass of all
    that can follow from y_t = k on, its own emission included. Past a sentence's length neither
    means anything. Both directions run as one recurrence, m_t = (m_t-1 @ moves) * potential_t,
    scaled at each step; the backward one over the sentence reversed within its own length, so
    that padding, which comes last in either, reaches nothing.
    """
    peak = emissions.max(2, keepdims=True)
    potential = np.exp(np.maximum(emissions - peak, _LOWEST))  # (B, T, K)
    both = np.stack((potential, _reversed_in_place(potential, lengths)))  # (2, B, T, K)
    moves = np.exp(np.stack((chain.transitions, chain.transitions.T)))  # (2, K, K)
    ends = np.exp(np.stack((chain.start, chain.end)))[:, None]  # (2, 1, K)
    out = np.empty_like(both)
    message = ends * both[:, :, 0]
    for t in range(both.shape[2]):
        if t:
            message = (message @ moves) * both[:, :, t]
        message = message / message.sum(2, keepdims=True)
        out[:, :, t] = message
    suffixes = _reversed_in_place(out[1], lengths)
    marginals = out[0] * suffixes / potential
    return marginals / marginals.sum(2, keepdims=True), suffixes


def _span_score(
    span: Span, n_tokens: int, marginals: Floats, suffixes: Floats, moves: Floats, scheme: LabelScheme
) -> float:
    """P(exactly this span): the chain rule along the Markov chain that the posterior is."""
    begin, inside = scheme.ids([f"B-{span.entity_type}", f"I-{span.entity_type}"])
    score = float(marginals[span.start, begin])
    label = begin
    for t in range(span.start + 1, min(span.end + 1, n_tokens)):
        ahead = moves[label] * suffixes[t]  # (K,), proportional to P(y_t | y_t-1 = label)
        goes_on = float(ahead[inside] / ahead.sum())
        score *= goes_on if t < span.end else 1.0 - goes_on
        label = inside
    return score


def _likely_spans(
    least: float, marginals: Floats, suffixes: Floats, moves: Floats, scheme: LabelScheme
) -> list[ScoredSpan]:
    """Every span of one sentence, (T, K) each, that scores ``least`` or more, in the order of the text;
    of two that overlap the better, so that a higher ``least`` only takes away. ``least`` is above 0."""
    found: list[ScoredSpan] = []
    n_tokens = len(marginals)
    for entity_type in scheme.entity_types:
        begin, inside = scheme.ids([f"B-{entity_type}", f"I-{entity_type}"])
        for start in np.flatnonzero(marginals[:, begin] >= least).tolist():
            mass, label = float(marginals[start, begin]), begin  # of all spans that reach this far
            for end in range(start + 1, n_tokens + 1):
                goes_on = 0.0
                if end < n_tokens:
                    ahead = moves[label] * suffixes[end]
                    goes_on = float(ahead[inside] / ahead.sum())
                if mass * (1 - goes_on) >= least:
                    found.append(ScoredSpan(Span(start, end, entity_type), mass * (1 - goes_on)))
                mass *= goes_on
                if mass < least:
                    break
                label = inside
    taken = np.zeros(n_tokens, dtype=bool)
    kept = []
    for one in sorted(found, key=lambda x: (-x.score, x.span.start, x.span.end)):
        if not taken[one.span.start : one.span.end].any():
            taken[one.span.start : one.span.end] = True
            kept.append(one)
    return sorted(kept, key=lambda x: x.span.start)


def decode(
    emissions: NDArray[np.floating],  # (B, T, K)
    lengths: Sequence[int],
    chain: Chain,
    scheme: LabelScheme,
    *,
    temperature: float = 1.0,
    threshold: Sequence[float] | float = 0.0,
) -> list[Tagged]:
    """Labels, scores and spans of each sentence; every length is at least 1.

    ``threshold`` (one for all, or one a sentence): 0 gives the most probable labelling, whatever it
    scores. Above 0, the persons are the spans that score that or more, also those that the most
    probable labelling leaves out: low thresholds are for who would rather find too much.
    """
    scores = np.asarray(emissions, dtype=np.float64)
    n_tokens = np.asarray(lengths, dtype=np.int64)
    path = best_path(scores, n_tokens, chain)
    cooled = Chain(*(x / temperature for x in (chain.start, chain.transitions, chain.end)))
    marginals, suffixes = messages(scores / temperature, n_tokens, cooled)
    moves = np.exp(cooled.transitions)
    thresholds = [threshold] * len(lengths) if isinstance(threshold, float | int) else threshold
    names = scheme.labels
    begins = scheme.ids([f"B-{entity_type}" for entity_type in scheme.entity_types])
    chosen = np.take_along_axis(marginals, path[:, :, None], axis=2)[:, :, 0]  # (B, T)
    tagged = []
    for b, (n, least) in enumerate(zip(lengths, thresholds, strict=True)):
        labels = [names[k] for k in path[b, :n].tolist()]
        token_scores = chosen[b, :n].tolist()
        kept: list[ScoredSpan] = []
        if least > 0:
            if (marginals[b, :n, begins] >= least).any():
                kept = _likely_spans(least, marginals[b, :n], suffixes[b, :n], moves, scheme)
            wanted = labels_of([one.span for one in kept], n)
            if wanted != labels:
                labels = wanted
                token_scores = marginals[b, np.arange(n), scheme.ids(labels)].tolist()
        elif any(path[b, :n]):
            for span in spans_of(labels):
                score = _span_score(span, n, marginals[b], suffixes[b], moves, scheme)
                kept.append(ScoredSpan(span, score))
        tagged.append(Tagged(labels, token_scores, kept))
    return tagged
