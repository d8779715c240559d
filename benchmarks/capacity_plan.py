"""Costs and a profile of traffic in, tables out: replicas, price, a bulk, a GPU, one queue or many.

A replica is one process on one core. Pure: simulated, or computed from what was measured; opens nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from benchmarks.capacity_model import Costs, Design, Document, Run, saturate, simulate
from benchmarks.capacity_traffic import STEADY, Bursts, Lengths, arrivals
from benchmarks.figures import percentile
from model.backend import CPU_BATCH_TOKENS

_SETTLED = 0.2  # of a simulation, left out: it begins with nothing to do
_CLIENTS = 32  # as capacity_measure.CLIENTS
_CLOSED_S = 8.0
_STEP = 1.1  # from one number of replicas to the next that is tried
_MOST_TIMES = (
    12.0  # as many replicas as carry the mean rate; beyond that it is the documents that take long
)


@dataclass(frozen=True)
class Texts:
    """What documents are made of, as measured."""

    sentence_lengths: tuple[int, ...]  # tokens of some
    tokens_a_word: float
    bytes_a_word: float  # of a request's body
    answer_bytes_a_token: float

    def documents(self, lengths: Lengths, n: int, seed: int) -> list[Document]:
        """Of lengths drawn anew, in sentences like those."""
        random = Random(seed)
        found = []
        for words in lengths.draw(n, seed):
            left = max(1, round(words * self.tokens_a_word))
            sentences = []
            while left > 0:
                sentences.append(min(left, random.choice(self.sentence_lengths)))
                left -= sentences[-1]
            found.append(Document(round(words * self.bytes_a_word), tuple(sentences)))
        return found


@dataclass(frozen=True)
class Profile:
    """What is asked of the whole."""

    rate_per_s: float
    lengths: Lengths
    bursts: Bursts = STEADY


def capacity_per_s(costs: Costs, documents: Sequence[Document]) -> float:
    """Of one core: a closed loop of as many clients as `check` has."""
    run = saturate(documents, _CLIENTS, _CLOSED_S, costs, Design())
    return sum(each.done_s < _CLOSED_S for each in run.outcomes) / _CLOSED_S


def simulated(
    costs: Costs, texts: Texts, profile: Profile, design: Design, seconds: float, seed: int
) -> Run:
    due_s = arrivals(profile.rate_per_s, seconds, profile.bursts, seed)
    return simulate(texts.documents(profile.lengths, len(due_s), seed), due_s, costs, design, seed)


def p99_s(run: Run) -> float:
    """Of what is answered after the beginning; infinite where more than one in 1,000 is refused."""
    if run.n_refused > len(run.outcomes) / 1_000:
        return float("inf")
    settled = run.outcomes[round(_SETTLED * len(run.outcomes)) :]
    return percentile([each.latency_s for each in settled if not each.is_refused], 0.99)


@dataclass(frozen=True)
class Needed:
    """Replicas for a p99; None where more of them do not help."""

    p99_s: float  # at most
    replicas: int | None
    reached_s: float = float("nan")


def needed(
    costs: Costs, texts: Texts, profile: Profile, targets_s: Sequence[float], seconds: float, seed: int
) -> list[Needed]:
    """The least number of replicas behind one balancer for each target, to the nearest step."""
    documents = texts.documents(profile.lengths, 10_000, seed)
    n = least = max(1, round(profile.rate_per_s / capacity_per_s(costs, documents)))
    found: list[Needed] = []
    left = sorted(targets_s, reverse=True)
    while left and n <= _MOST_TIMES * least:
        p99 = p99_s(simulated(costs, texts, profile, Design(workers=n), seconds, seed))
        while left and p99 <= left[0]:
            found.append(Needed(left.pop(0), n, p99))
        n = max(n + 1, round(n * _STEP))
    return found + [Needed(target, None) for target in left]


Queue = Literal["random", "least", "one"]
QUEUES: dict[Queue, Design] = {
    "random": Design(sharing="random"),
    "least": Design(sharing="least"),
    "one": Design(most_in_hand=1),
}


def queues(
    costs: Costs,
    texts: Texts,
    lengths: Lengths,
    load: float,
    workers: Sequence[int],
    seconds: float,
    seed: int,
) -> dict[int, dict[Queue, float]]:
    """p99 by workers, for queues of each worker that a balancer fills, and for a single queue before them.

    The last gives a worker one request at a time, so that no two share a batch. The load is of what as
    many workers can do when each has enough to do.
    """
    per_s = capacity_per_s(costs, texts.documents(lengths, 10_000, seed))
    return {
        n: {
            name: p99_s(
                simulated(
                    costs,
                    texts,
                    Profile(load * n * per_s, lengths),
                    replace(design, workers=n),
                    seconds,
                    seed,
                )
            )
            for name, design in QUEUES.items()
        }
        for n in workers
    }


@dataclass(frozen=True)
class Bulk:
    """Documents without HTTP, in full batches, on one core."""

    core_s: float  # of a document
    words: float  # of a document
    bytes_in: float
    bytes_out: float

    def core_hours(self, documents: float) -> float:
        return documents * self.core_s / 3_600


def bulk(costs: Costs, texts: Texts, lengths: Lengths, seed: int) -> Bulk:
    """What reading, batches and writing cost when there is always enough for full batches."""
    documents = texts.documents(lengths, 5_000, seed)
    sentences = [n for each in documents for n in each.lengths]
    seconds = sum(costs.read_byte * d.n_bytes + costs.write_token * d.n_tokens for d in documents)
    n_batches = math.ceil(sum(sentences) / CPU_BATCH_TOKENS)
    seconds += sum(costs.batch_s(sentences[n::n_batches]) for n in range(n_batches))
    tokens = statistics.fmean(d.n_tokens for d in documents)
    return Bulk(
        seconds / len(documents),
        tokens / texts.tokens_a_word,
        statistics.fmean(d.n_bytes for d in documents),
        tokens * texts.answer_bytes_a_token,
    )


def gpu_words_per_s(bulk: Bulk, core_hour: float, gpu_hour: float) -> float:
    """What a GPU must tag a second to cost as much a word as cores do, at these prices of an hour."""
    return gpu_hour / core_hour * bulk.words / bulk.core_s


def sensitivity(
    costs: Costs, texts: Texts, lengths: Lengths, loads: Sequence[float], factors: Sequence[float],
    seconds: float, seed: int,
) -> dict[float, dict[float, float]]:  # fmt: skip
    """p99 of one replica by load, and by how many times as much everything costs while that is offered."""
    per_s = capacity_per_s(costs, texts.documents(lengths, 10_000, seed))
    return {
        load: {
            factor: p99_s(
                simulated(
                    costs.times(factor), texts, Profile(load * per_s, lengths), Design(), seconds, seed
                )
            )
            for factor in factors
        }
        for load in loads
    }
