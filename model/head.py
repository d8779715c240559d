"""Emissions in; the best legal label sequence and exact probabilities out. NumPy, and the kernel where
it was compiled: its sums are these, a sentence at a time.

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
from functools import lru_cache
from operator import mul
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model import kernel
from model.labels import OUTSIDE, LabelScheme, Span, labels_of, spans_of

Floats = NDArray[np.float64]
_Scalar = TypeVar("_Scalar", bound=np.generic)
ILLEGAL = -1e4  # a log score that no sum of real ones makes up for; finite, so that 0 * it is 0
_Rows = list[list[float]]
_Types = dict[str, tuple[int, int]]  # entity type → ids of B- and I-
_LOWEST = -500.0  # exp(_LOWEST) is still a normal float64: no probability becomes 0 / 0


@dataclass(frozen=True, eq=False)
class Chain:
    """Log scores between labels, the illegal moves included. Equal to itself alone."""

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


_PLACES = 6


@dataclass(frozen=True)
class Tagged:
    """One sentence's answer. ``scores[t]`` is the marginal probability of ``labels[t]``, to six places."""

    labels: list[str]
    scores: list[float]
    spans: list[ScoredSpan]


@dataclass(frozen=True)
class _Steps:
    """A batch turned to be walked step by step: (T, K, B), the longest sentence first.

    So step t is that of the first ``active[t]`` sentences, with no mask; and the innermost axis,
    which NumPy's loops run along, is the long one.
    """

    order: NDArray[np.int64]  # (B,), of the sentences
    lengths: NDArray[np.int64]  # (B,), in that order
    active: list[int]  # (T,)
    values: Floats  # (T, K, B)

    @classmethod
    def of(cls, values: Floats, lengths: NDArray[np.int64]) -> _Steps:
        """Of values (B, T, K)."""
        order = np.argsort(-lengths, kind="stable")
        lengths = lengths[order]
        active = np.searchsorted(-lengths, -np.arange(values.shape[1]), side="left").tolist()
        return cls(order, lengths, active, np.ascontiguousarray(values[order].transpose(1, 2, 0)))

    def back(self, x: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """(T, …, B) as (B, T, …), the sentences as they were given."""
        out = np.empty((x.shape[-1], *x.shape[:-1]), x.dtype)
        out[self.order] = np.moveaxis(x, -1, 0)
        return out


def _best_path_alone(emissions: Floats, start: Floats, transitions: Floats, end: Floats) -> list[int]:
    """The most probable label ids (T,) of one sentence (T, K), illegal moves at -inf."""
    first, *rows = emissions.tolist()
    into: _Rows = transitions.T.tolist()  # for each label, from the others
    best = [a + b for a, b in zip(first, start.tolist(), strict=True)]
    pointers = []
    for row in rows:
        came, step = [], []
        for column, emission in zip(into, row, strict=True):
            arrived = [a + b for a, b in zip(best, column, strict=True)]
            most = max(arrived)
            came.append(arrived.index(most))
            step.append(emission + most)
        pointers.append(came)
        best = step
    ends = [a + b for a, b in zip(best, end.tolist(), strict=True)]
    path = [ends.index(max(ends))]
    for came in reversed(pointers):
        path.append(came[path[-1]])
    return path[::-1]


@lru_cache(maxsize=64)
def _cooled(chain: Chain, temperature: float) -> Chain:
    return Chain(*(x / temperature for x in (chain.start, chain.transitions, chain.end)))


@lru_cache(maxsize=64)
def _hard(chain: Chain) -> Chain:
    """The illegal moves at -inf: no emission, however extreme, may make up for one in a path."""
    start, transitions = (np.where(x > ILLEGAL / 2, x, -np.inf) for x in (chain.start, chain.transitions))
    return Chain(start, transitions, chain.end)


@lru_cache(maxsize=64)
def _moves(chain: Chain, temperature: float) -> _Rows:
    """The masses of the moves."""
    moves: _Rows = np.exp(_cooled(chain, temperature).transitions).tolist()
    return moves


@lru_cache(maxsize=64)
def _sums(chain: Chain, temperature: float) -> kernel.ChainSums:
    hard, cooled = _hard(chain), _cooled(chain, temperature)
    masses = [np.exp(x) for x in (cooled.start, cooled.transitions, cooled.end)]
    scores = (hard.start, hard.transitions, hard.end)
    return kernel.ChainSums(scores, tuple(masses), temperature, _PLACES)


@lru_cache(maxsize=64)
def _names_of(scheme: LabelScheme) -> tuple[tuple[str, ...], _Types]:
    names = scheme.labels
    return names, {t: (names.index(f"B-{t}"), names.index(f"I-{t}")) for t in scheme.entity_types}


def best_path(emissions: Floats, lengths: NDArray[np.int64], chain: Chain) -> NDArray[np.int64]:
    """The most probable label ids (B, T); past a sentence's length they mean nothing. Viterbi 1967."""
    start, transitions = _hard(chain).start, _hard(chain).transitions
    if len(lengths) == 1:
        # Of a few numbers a step, plain Python is twice as fast as NumPy.
        path = np.zeros(emissions.shape[:2], dtype=np.int64)
        n = int(lengths[0])
        path[0, :n] = _best_path_alone(emissions[0, :n], start, transitions, chain.end)
        return path
    steps = _Steps.of(emissions, lengths)
    best = steps.values  # each step's emissions (K, B), in turn made the best score of a path to there
    n_steps, n_labels, n_sentences = best.shape
    best[0] += start[:, None]
    moves = np.zeros((n_steps, n_labels, n_labels, n_sentences))  # from, to
    for t in range(1, n_steps):
        n = steps.active[t]
        arrived = np.add(best[t - 1, :, None, :n], transitions[:, :, None], out=moves[t, :, :, :n])
        best[t, :, :n] += np.maximum.reduce(arrived, axis=0)
    pointers = moves.argmax(1)  # (T, K, B), to the label before
    path = np.zeros((n_steps, n_sentences), dtype=np.int64)
    rows = np.arange(n_sentences)
    last = steps.lengths - 1
    path[last, rows] = (best[last, :, rows] + chain.end).argmax(1)
    for t in range(n_steps - 1, 0, -1):
        n = steps.active[t]
        path[t - 1, :n] = pointers[t, path[t, :n], rows[:n]]
    return steps.back(path)


def _messages_alone(potential: Floats, first: Floats, moves: Floats) -> Floats:
    """The recurrence of ``messages`` in one direction of one sentence (T, K)."""
    rows = potential.tolist()
    to_from: _Rows = moves.tolist()
    message = [a * b for a, b in zip(rows[0], first.tolist(), strict=True)]
    out = []
    for t, row in enumerate(rows):
        if t:
            message = [p * sum(map(mul, m, message)) for p, m in zip(row, to_from, strict=True)]
        total = sum(message)
        message = [x / total for x in message]
        out.append(message)
    return np.array(out)


def messages(emissions: Floats, lengths: NDArray[np.int64], chain: Chain) -> tuple[Floats, Floats]:
    """Forward-backward: (marginals, suffixes), each (B, T, K).

    ``marginals[b, t, k]`` is P(y_t = k). ``suffixes[b, t, k]`` is proportional to the mass of all
    that can follow from y_t = k on, its own emission included. Past a sentence's length neither
    means anything. Both directions run as one recurrence, m_t = (moves @ m_t-1) * potential_t,
    scaled at each step; the backward one over the sentence reversed within its own length, so
    that padding, which comes last in either, reaches nothing.
    """
    moves = np.exp(np.stack((chain.transitions.T, chain.transitions)))  # (2, K, K), to, from
    ends = np.exp(np.stack((chain.start, chain.end)))  # (2, K)
    if len(lengths) == 1:
        n = int(lengths[0])
        potential = emissions[0, :n] - emissions[0, :n].max(1, keepdims=True)
        potential = np.exp(np.maximum(potential, _LOWEST, out=potential))  # (T, K)
        suffix = _messages_alone(potential[::-1], ends[1], moves[1])[::-1]
        marginal = _messages_alone(potential, ends[0], moves[0]) * suffix / potential
        marginal /= marginal.sum(1, keepdims=True)
        both = np.zeros((2, *emissions.shape))
        both[:, 0, :n] = marginal, suffix
        return both[0], both[1]
    steps = _Steps.of(emissions, lengths)
    n_steps, n_labels, n_sentences = steps.values.shape
    potential = steps.values - steps.values.max(1, keepdims=True)
    np.exp(np.maximum(potential, _LOWEST, out=potential), out=potential)  # (T, K, B)
    step = np.arange(n_steps)[:, None]
    # What turns each sentence around within its own length, (T, 1, B)
    turned = np.where(step < steps.lengths, steps.lengths - 1 - step, step)[:, None]
    both = np.empty((n_steps, 2, n_labels, n_sentences))
    both[:, 0] = potential
    both[:, 1] = np.take_along_axis(potential, turned, axis=0)
    both[0] *= ends[:, :, None]
    both[0] /= np.add.reduce(both[0], axis=1, keepdims=True)
    for t in range(1, n_steps):
        n = steps.active[t]
        message = both[t, :, :, :n]
        message *= moves @ both[t - 1, :, :, :n]
        message /= np.add.reduce(message, axis=1, keepdims=True)
    suffixes = np.take_along_axis(both[:, 1], turned, axis=0)  # (T, K, B)
    marginals = both[:, 0]
    marginals *= suffixes
    marginals /= potential
    marginals /= marginals.sum(1, keepdims=True)
    return steps.back(marginals), steps.back(suffixes)


def _goes_on(label: int, inside: int, moves: _Rows, suffix: list[float]) -> float:
    """P(y_t = inside | y_t-1 = label), from step t's suffixes: the posterior is a Markov chain."""
    # Sums of K numbers: plain Python is faster at those than NumPy.
    ahead = [m * s for m, s in zip(moves[label], suffix, strict=True)]
    return ahead[inside] / sum(ahead)


def _span_score(
    span: Span, types: _Types, n_tokens: int, marginals: Floats, suffixes: Floats, moves: _Rows
) -> float:
    """P(exactly this span): the chain rule along the chain, in one sentence's (T, K) each."""
    begin, inside = types[span.entity_type]
    score = float(marginals[span.start, begin])
    label = begin
    last = min(span.end + 1, n_tokens)
    for t, suffix in enumerate(suffixes[span.start + 1 : last].tolist(), span.start + 1):
        goes_on = _goes_on(label, inside, moves, suffix)
        score *= goes_on if t < span.end else 1.0 - goes_on
        label = inside
    return score


def _likely_spans(
    least: float, types: _Types, marginals: Floats, suffixes: Floats, moves: _Rows
) -> list[ScoredSpan]:
    """Every span of one sentence, (T, K) each, that scores ``least`` or more, in the order of the text;
    of two that overlap the better, so that a higher ``least`` only takes away. ``least`` is above 0."""
    found: list[ScoredSpan] = []
    n_tokens = len(marginals)
    to_follow = suffixes.tolist()
    for entity_type, (begin, inside) in types.items():
        for start in np.flatnonzero(marginals[:, begin] >= least).tolist():
            mass, label = float(marginals[start, begin]), begin  # of all spans that reach this far
            for end in range(start + 1, n_tokens + 1):
                goes_on = 0.0
                if end < n_tokens:
                    goes_on = _goes_on(label, inside, moves, to_follow[end])
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
    scores = np.array(emissions, dtype=np.float64)
    n_tokens = np.array(lengths, dtype=np.int64)
    moves = _moves(chain, temperature)
    # The scores of the path's labels are rounded here, for all at once: one by one it takes half as long
    # as writing the answer.
    if kernel.sums_chains(scores.shape[2]):
        path, chosen, marginals, suffixes = _sums(chain, temperature).of(scores, n_tokens)
    else:
        path = best_path(scores, n_tokens, chain)
        marginals, suffixes = messages(scores / temperature, n_tokens, _cooled(chain, temperature))
        sentence, token = np.arange(len(path))[:, None], np.arange(path.shape[1])
        chosen = marginals[sentence, token, path].round(_PLACES)
    names, types = _names_of(scheme)
    thresholds = [threshold] * len(lengths) if isinstance(threshold, float | int) else threshold
    likeliest = [0.0] * len(lengths)  # that a person begins, at any token of a sentence
    if any(least > 0 for least in thresholds):
        begins = marginals[:, :, [begin for begin, _ in types.values()]].max(2)  # (B, T)
        likeliest = np.where(np.arange(path.shape[1]) < n_tokens[:, None], begins, 0.0).max(1).tolist()
    tagged = []
    labelled = zip(lengths, thresholds, path.tolist(), chosen.tolist(), strict=True)
    for b, (n, least, ids, token_scores) in enumerate(labelled):
        del ids[n:], token_scores[n:]
        if not any(ids) and (least <= 0 or likeliest[b] < least):
            tagged.append(Tagged([OUTSIDE] * n, token_scores, []))  # most sentences
            continue
        labels = [names[k] for k in ids]
        if least > 0:
            kept = _likely_spans(least, types, marginals[b, :n], suffixes[b, :n], moves)
            wanted = labels_of([one.span for one in kept], n)
            if wanted != labels:
                labels = wanted
                token_scores = marginals[b, np.arange(n), scheme.ids(labels)].round(_PLACES).tolist()
        else:
            kept = [
                ScoredSpan(span, _span_score(span, types, n, marginals[b], suffixes[b], moves))
                for span in spans_of(labels)
            ]
        tagged.append(Tagged(labels, token_scores, kept))
    return tagged
