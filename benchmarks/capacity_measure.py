"""The costs of one core and of one arrangement of replicas, measured, and real runs beside simulated ones.

In this order, and never from the runs that are checked:

    in process   batches, reading and writing, each by itself, by least squares over what they depend on
    seldom       an open loop at a tenth of the capacity: what HTTP costs, and a CPU that was idle
    calibrated   closed loops of 1 to 64 clients: what the rest costs more in a service than in process
    speed        two of them again, before and after each run: how fast the machine is just now

Every document is new to the service, as those of a corpus are. Linux only.
"""

from __future__ import annotations

import itertools
import lzma
import math
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import orjson

from benchmarks import client, servers, texts
from benchmarks.balanced import Replica, balanced
from benchmarks.capacity_model import COLD_S, Costs, Design, Document, saturate, simulate, steps
from benchmarks.capacity_replay import Measured, replayed, tracked
from benchmarks.capacity_traffic import STEADY, Bursts, Lengths, arrivals
from benchmarks.client import Load, http_request
from benchmarks.figures import percentile
from model.tagger import Tagger
from service.batching import Backlog, Job
from service.models import Sentence, ServedModel, look_again, tag_batch
from service.observing.metrics import Metrics
from service.schemas import parsed, tag_request
from service.settings import Settings
from service.steps import cut_unchecked, items_of
from service.tag import PATH, answer_bytes, cuts_of

# Documents of the text thread, of which few would come by themselves, and a share of the rate for them.
LARGE, LARGE_SHARE = Lengths(1_200, 0.5), 0.02
CLIENTS = 32  # of each worker, in the closed loop that gives the capacity
LEVELS = (1, 2, 4, 8, 16, 32, 64)  # clients of a worker
_FEW, _BUSY = 4, 4
_BATCH_S = (0.0, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3)  # that a batch may cost beside what it does in process
_LEAST_REQUEST_S = 3e-5
_MOST_PER_S = 1_500  # documents a worker answers at most, so that there are enough of them
_DEPTHS = (1, 1, 2, 3, 5, 8, 16, 32)  # requests that wait while a batch is chosen
_WARM = 1_500  # documents whose word types are known before anything is measured
_SETTLED = 0.2  # of a run, sent and not counted
# Of ``request``, which is mostly reading and writing: a refusal is that and no more. Assumed.
_REFUSAL = 0.3


@dataclass(frozen=True)
class Asked:
    """One document as a request, and what the model of capacity knows of it."""

    request: bytes
    body: bytes
    document: Document


def words_of(raw: Path | None, seed: int) -> Iterator[str]:
    """Of a text, plain or .xz, from a place chosen by seed; without one, of the labelled sets."""
    if raw is None:
        found = " ".join(texts.real_sentences(texts.DATA, seed).sentences).split()
        yield from itertools.cycle(found)
        return
    with (lzma.open if raw.suffix == ".xz" else open)(raw, "rt", encoding="utf-8-sig") as lines:
        for line in itertools.islice(lines, 1_000 * (seed % 100), None):
            yield from line.split()


class Source:
    """Documents of real words and drawn lengths, none twice. ``tagger``: of its own, since it gets to know
    their words."""

    def __init__(self, tagger: Tagger, words: Iterator[str], lengths: Lengths, seed: int) -> None:
        self._model = ServedModel(tagger, Settings(), Metrics())
        self._words = words
        self._lengths = lengths
        self._seeds = itertools.count(1_000_000 * seed)
        self.n_words = 0  # taken so far

    def take(self, n: int, lengths: Lengths | None = None) -> list[Asked]:
        """``lengths``: other ones than its own."""
        found = []
        for length in (lengths or self._lengths).draw(n, next(self._seeds)):
            text = " ".join(itertools.islice(self._words, length))
            self.n_words += length
            if not text:
                raise ValueError("the text is used up: a longer one, or fewer rounds, are expected")
            body = orjson.dumps({"text": text})
            found.append(Asked(http_request(PATH, body), body, self._document(text, len(body))))
        return found

    def _document(self, text: str, n_bytes: int) -> Document:
        items = items_of(cut_unchecked(text, self._model), self._model, None)
        again = look_again(items, tag_batch(self._model.tagger, items))
        lengths = [len(item.tokens) for item in items]
        return Document(n_bytes, tuple(lengths), tuple(lengths[index] for index in sorted(again)))


def fitted(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """What each column costs, none less than nothing: least squares of the relative errors.

    A column that would cost less than nothing is left out, the most negative first.
    """
    wanted = np.asarray(rows, dtype=float) / np.asarray(seconds, dtype=float)[:, None]
    found = np.zeros(wanted.shape[1])
    left = list(range(wanted.shape[1]))
    while left:
        solved, *_ = np.linalg.lstsq(wanted[:, left], np.ones(len(wanted)), rcond=None)
        worst = int(np.argmin(solved))
        if solved[worst] >= 0:
            found[left] = solved
            break
        del left[worst]
    return [float(each) for each in found]


@contextmanager
def only_on(cpus: Iterable[int]) -> Iterator[None]:
    """This thread, and what it starts meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Never:
    def done(self) -> bool:
        return False


def in_process(tagger: Tagger, source: Source, n: int, seed: int) -> Costs:
    """Everything but HTTP, on the CPU that this process runs on. Word types are as well known as later."""
    model = ServedModel(tagger, Settings(), Metrics())
    random = Random(seed)
    batch_rows, batch_s, read_rows, read_s, write_rows, write_s = [], [], [], [], [], []
    for asked in source.take(_WARM):
        tagger.tag_all([cut.tokens.texts for cut in cuts_of(_parsed(asked), model, Settings())])
    documents = iter(source.take(n))
    while waiting := list(itertools.islice(documents, random.choice(_DEPTHS))):
        backlog: Backlog[Sentence, Any] = Backlog(is_padded=tagger.backend.is_padded)
        cuts_by_job = {}
        answers: dict[Any, Any] = {}
        for asked in waiting:
            began = time.thread_time()
            cuts = cuts_of(_parsed(asked), model, Settings())
            read_s.append(time.thread_time() - began)
            read_rows.append((1, len(asked.body)))
            items = items_of(cuts, model, None)
            future: Any = _Never()
            job: Job[Sentence, Any] = Job(items, [len(item.tokens) for item in items], future)
            cuts_by_job[job] = cuts
            backlog.add(job)
        while batch := backlog.take(tagger.backend.batch_tokens, 0.0)[0]:
            items, lengths = [place.item for place in batch], [place.length for place in batch]
            began = time.thread_time()
            found = tag_batch(tagger, items)
            batch_s.append(time.thread_time() - began)
            batch_rows.append((1, steps(lengths), sum(lengths), len(lengths)))
            answers |= {(place.job, place.index): each for place, each in zip(batch, found, strict=True)}
        for job, cuts in cuts_by_job.items():
            tagged = [answers[job, index] for index in range(len(cuts))]
            began = time.thread_time()
            answer_bytes(cuts, tagged, "codepoint", model)
            write_s.append(time.thread_time() - began)
            write_rows.append((1, sum(len(cut.tokens) for cut in cuts)))
    read, write = fitted(read_rows, read_s), fitted(write_rows, write_s)
    # Relative errors give the many small ones their due; the sum must be right all the same.
    read, write, batches = (
        [each * sum(seconds) / float(np.sum(np.asarray(rows) @ np.asarray(costs))) for each in costs]
        for rows, seconds, costs in (
            (read_rows, read_s, read), (write_rows, write_s, write),
            (batch_rows, batch_s, fitted(batch_rows, batch_s)),
        )
    )  # fmt: skip
    return Costs(
        request=read[0] + write[0], read_byte=read[1], write_token=write[1], batch=batches[0],
        batch_step=batches[1], batch_token=batches[2], batch_sentence=batches[3], refusal=0.0,
    )  # fmt: skip


def _parsed(asked: Asked) -> Any:
    return tag_request(parsed(asked.body), max_sentences=Settings.max_sentences)


@dataclass
class Place:
    """A running arrangement: where it answers, and whose CPU it takes."""

    port: int
    pids: list[int]
    cpus: Sequence[int]
    design: Design
    cold_start_s: float
    beside: Sequence[int] = ()  # what else computes on those CPUs: the client and the balancer, or nobody

    def cpu_s(self) -> float:
        return sum(map(servers.exact_cpu_s, self.pids))

    def beside_s(self) -> list[float]:
        return list(map(servers.exact_cpu_s, self.beside))

    def busy_s(self) -> float:
        """Its CPU seconds, and those that its CPUs spent on something else, or had the host not been
        elsewhere, would have."""
        return self.cpu_s() + sum(self.beside_s()) + sum(map(servers.stolen_s, set(self.cpus)))


@contextmanager
def arranged(model: Path, cpus: Sequence[int]) -> Iterator[Place]:
    """One replica on its CPU; or one on each, behind HAProxy: twice the same, and two share it.

    The client, which is this thread, and HAProxy are on the other CPUs while it runs, or, where every CPU
    has a replica, on the same.
    """
    own = os.sched_getaffinity(0)
    free = own - set(cpus)
    with only_on(free or own):
        yield from _arranged(model, cpus, free)


def _arranged(model: Path, cpus: Sequence[int], free: set[int]) -> Iterator[Place]:
    began = time.perf_counter()
    if len(cpus) == 1:
        replica = Replica("one", model, 0.2, cpus[0])
        try:
            replica.start()
            took_s = time.perf_counter() - began
            yield Place(replica.port, [replica.server.process.pid], cpus, Design(), took_s)
        finally:
            replica.kill()
        return
    with balanced(model, drain_delay_s=0.2, answer_within_s=60, cpus=cpus) as (balancer, replicas):
        pids = [replica.server.process.pid for replica in replicas]
        is_one = len(set(cpus)) == 1
        beside = [] if free else [os.getpid(), balancer.pid]
        design = Design(workers=len(cpus), pairs=not is_one, on_one_cpu=is_one, guests=bool(beside))
        yield Place(balancer.port, pids, cpus, design, math.nan, beside)


def closed(place: Place, asked: Sequence[Asked], clients: int, seconds: float) -> client.Outcome:
    """So many clients that each wait for their answer and send the next document, which is in ``asked``."""
    requests = [each.request for each in asked]
    load = Load(place.port, requests, seconds, 0.0, concurrency=clients)
    outcome = client.run(load)
    if set(outcome.summary.statuses) != {200}:
        raise ValueError(
            f"{clients} clients were answered with {outcome.summary.statuses}: 200 is expected"
        )
    if outcome.n_sent > len(asked):
        raise ValueError(f"{outcome.n_sent} requests of {len(asked)} documents: more of these are expected")
    return outcome


@dataclass(frozen=True)
class Level:
    """A closed loop that was measured."""

    clients: int
    documents: tuple[Document, ...]
    seconds: float
    per_s: float
    latencies_s: tuple[float, ...]  # in the order of the documents, where there is one client
    cpu_s: float  # of the replicas, a request
    beside_s: tuple[float, ...]  # of what else computes on their CPUs, likewise
    n_words: int  # of the documents
    answer_bytes_a_token: float

    def simulated_per_s(self, costs: Costs, design: Design) -> float:
        """With the same documents."""
        run = saturate(self.documents, self.clients, self.seconds, costs, design)
        return sum(each.done_s < self.seconds for each in run.outcomes) / self.seconds

    def ratio(self, costs: Costs, design: Design) -> float:
        """How many times as long everything takes as simulated."""
        return self.simulated_per_s(costs, design) / self.per_s


def level(place: Place, source: Source, clients: int, seconds: float) -> Level:
    before_words = source.n_words
    asked = source.take(round(_MOST_PER_S * place.design.workers * seconds))
    before_s = place.cpu_s(), *place.beside_s()
    outcome = closed(place, asked, clients, seconds)
    samples = outcome.samples
    began_s = samples[0].due_s
    n = sum(sample.done_s < began_s + seconds for sample in samples)
    latencies_s = tuple(sample.latency_s for sample in samples)
    after_s = place.cpu_s(), *place.beside_s()
    cpu_s, *beside_s = ((now - then) / len(samples) for now, then in zip(after_s, before_s, strict=True))
    documents = tuple(each.document for each in asked)
    # The first answers; with one client, those of the first documents.
    n_tokens = sum(each.n_tokens for each in documents[: len(outcome.answers)])
    answer_bytes = sum(map(len, outcome.answers)) / n_tokens
    n_words = source.n_words - before_words
    return Level(
        clients, documents, seconds, n / seconds, latencies_s, cpu_s, tuple(beside_s), n_words, answer_bytes
    )


@dataclass(frozen=True)
class Alone:
    """A request that found nobody there, at low load, and nobody came until it was answered."""

    document: Document
    idle_s: float  # before it
    latency_s: float


def with_guests(design: Design, levels: Sequence[Level]) -> Design:
    """With what the client and the balancer computed for a request while the replicas were busy."""
    if not design.guests:
        return design
    busy = [each.beside_s for each in levels if each.clients >= _BUSY * design.workers]
    client_s, balancer_s = (statistics.median(each) for each in zip(*busy, strict=True))
    return replace(design, client_s=client_s, balancer_s=balancer_s)


def seldom(
    place: Place, source: Source, rate_per_s: float, seconds: float, seed: int,
    lengths: Lengths | None = None,
) -> list[Alone]:  # fmt: skip
    """Those of an open loop."""
    due_s = arrivals(rate_per_s, seconds, STEADY, seed)
    asked = source.take(len(due_s), lengths)
    outcome = client.run(Load(place.port, [each.request for each in asked], seconds, 0.0, due_s=due_s))
    found = []
    free_s = math.inf  # when all that came before was answered
    for number, sample in enumerate(outcome.samples[:-1]):
        if free_s < sample.due_s and sample.done_s < outcome.samples[number + 1].due_s:
            found.append(Alone(asked[number].document, sample.due_s - free_s, sample.latency_s))
        free_s = sample.done_s if math.isinf(free_s) else max(free_s, sample.done_s)
    return found


def calibrated(costs: Costs, alone: Sequence[Alone], levels: Sequence[Level], design: Design) -> Costs:
    """What HTTP and an idle CPU cost, and how much more than in process the rest costs in a service.

    The first from requests that were alone: what of their latency does not depend on the document, or
    depends on how long nothing was done before; and what of it does is how slow a cold CPU is. The last so
    that the rates of the busy levels fit best: how much longer everything takes, and what a batch costs
    beside, when threads take turns, which says how much faster a service becomes the more wait.
    ``levels[0]`` is of one client, whose latency is the service's CPU and the way.
    """
    found = [
        _fitted_to(replace(costs, batch=costs.batch + each), alone, levels, design) for each in _BATCH_S
    ]
    return min(found, key=lambda pair: pair[1])[0]


def _fitted_to(
    costs: Costs, alone: Sequence[Alone], levels: Sequence[Level], design: Design
) -> tuple[Costs, float]:
    """The costs, and how far the busy levels' ratios are from each other."""
    rows = [
        (
            1,
            simulate([each.document], [0.0], costs, Design()).latencies_s[0],
            -math.expm1(-each.idle_s / COLD_S),
            0 if each.document.is_small else each.document.n_tokens,
        )
        for each in alone
    ]
    fixed_s, slope, wake_s, apart_s = fitted(rows, [each.latency_s for each in alone])
    computed_s = levels[0].cpu_s + sum(levels[0].beside_s)
    wire_s = max(0.0, statistics.fmean(levels[0].latencies_s) - computed_s)
    busy = [each for each in levels if each.clients >= _BUSY * design.workers]
    factor = together = 1.0
    more_s = 0.0
    for _ in range(4):
        # What was measured on a cold CPU is simulated on one.
        cold = max(1.0, slope / factor)
        request_s = max(_LEAST_REQUEST_S, (fixed_s - wire_s) / cold + more_s)
        own = vars(costs.times(factor)) | {"request": request_s, "refusal": _REFUSAL * request_s}
        own |= {"wire": wire_s, "wake": wake_s / cold, "cold": cold, "together": together}
        own |= {"apart": apart_s / cold}
        found = Costs(**own)
        if design.guests:  # whose part of a lone request's latency is known of one client alone
            more_s = request_s - (fixed_s - wire_s) / cold
            more_s += 1 / levels[0].per_s - 1 / levels[0].simulated_per_s(found, design)
        slower = statistics.geometric_mean(each.ratio(found, design) for each in busy)
        if design.pairs:  # of one CPU of a core in process the costs are known: here, both are busy
            wanted = together / slower
            together = min(1.0, wanted)
            factor *= together / wanted
        else:
            factor *= slower
    ratios = [math.log(each.ratio(found, design)) for each in busy]
    return found, statistics.pstdev(ratios)


@dataclass(frozen=True)
class Speed:
    """How fast an arrangement is just now."""

    per_s: float  # of CLIENTS a worker
    factor: float  # how many times as much everything costs as the costs say


def speed(place: Place, source: Source, costs: Costs, seconds: float) -> Speed:
    """By two closed loops: one whose batches are small, and one that gives the capacity."""
    few = level(place, source, _FEW * place.design.workers, seconds / 2)
    many = level(place, source, CLIENTS * place.design.workers, seconds / 2)
    ratios = [each.ratio(costs, place.design) for each in (few, many)]
    return Speed(many.per_s, statistics.geometric_mean(ratios))


def checked(
    place: Place, source: Source, costs: Costs, loads: Sequence[float], seconds: float,
    saturated_s: float, bursts: Bursts, seed: int,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A run at each load of the capacity just before it, and the same documents and times simulated.

    Twice: at the speed that the closed loops before and after had, and at the speed that the machine had
    in each moment of the run itself (capacity_replay.py), so that of what was measured only the waiting is
    left to the model. Each is sent twice: how much the two differ is what the machine does, and no
    model can know.
    """
    before = speed(place, source, costs, saturated_s)
    for number, load in enumerate(loads):
        rate_per_s = load * before.per_s
        due_s = arrivals(rate_per_s, seconds, bursts, 100 * seed + number)
        asked = source.take(len(due_s))
        sent = Load(place.port, [each.request for each in asked], seconds, 0.0, due_s=due_s, drain_s=30.0)
        with tracked(place.busy_s) as track:
            outcome = client.run(sent)
        again = client.run(sent)
        after = speed(place, source, costs, saturated_s)
        factor = math.sqrt(before.factor * after.factor)
        documents = [each.document for each in asked]
        run = simulate(documents, due_s, costs.times(factor), place.design)
        began_s = outcome.samples[0].due_s - due_s[0]
        done_s = [s.done_s - began_s if s.status == 200 else math.nan for s in outcome.samples]
        own_s = replayed(
            Measured(documents, due_s, done_s, track, began_s), costs.times(factor), place.design
        )
        first = sum(due < _SETTLED * seconds for due in due_s)
        measured, repeated = (
            [s.latency_s for s in each.samples[first:] if s.status == 200] for each in (outcome, again)
        )
        predicted = [each.latency_s for each in run.outcomes[first:] if not each.is_refused]
        simulated = [each for each in own_s[first:] if not math.isnan(each)]
        yield {
            "workers": place.design.workers, "cpus": len(set(place.cpus)), "load": load,
            "bursts": bursts.times, "rate_per_s": rate_per_s,
            "requests": len(due_s) - first, "factor": [before.factor, after.factor],
            "capacity_per_s": [before.per_s, after.per_s],
            "refused": sum(s.status == 429 for s in outcome.samples), "predicted_refused": run.n_refused,
            "simulated_refused": sum(map(math.isnan, own_s)),
            "late_p99_ms": 1e3 * outcome.late_p99_s, "client_cpus": outcome.client_cpus,
            "measured_ms": _quantiles(measured), "again_ms": _quantiles(repeated),
            "predicted_ms": _quantiles(predicted), "simulated_ms": _quantiles(simulated),
        }  # fmt: skip
        before = after


def _quantiles(latencies_s: Sequence[float]) -> dict[str, float]:
    found = {f"p{round(100 * share)}": 1e3 * percentile(latencies_s, share) for share in (0.5, 0.9, 0.99)}
    return {**found, "mean": 1e3 * statistics.fmean(latencies_s)}
