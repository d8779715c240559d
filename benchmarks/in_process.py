"""Texts in, how many a second several processes tag without HTTP or files out: what all else can reach."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from model.tagger import Tagger
from service.cli.work import sentences_of

Wait = Callable[[], object]
Rate = Callable[..., float]
_MOST_S = 600  # for the slowest to warm up, and to be measured


def rate_per_s(model: Path, sentences: Sequence[str], processes: int, seconds: float) -> float:
    """Text to labels: tokenised and tagged in the Tagger's own batches, by all processes at once."""
    return _together(processes, _tag_sentences, model, list(sentences), seconds)


def _together(processes: int, rate: Rate, model: Path, *what: Any) -> float:
    """The sum of what ``rate(tagger, wait, *what)`` gives in each process; each waits when it is warm."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    rates: Queue[float] = context.Queue()
    workers = [
        context.Process(target=_run, args=(barrier, rates, rate, model, *what), daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        return sum(rates.get(timeout=_MOST_S) for _ in workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _run(barrier: Barrier, rates: Queue[float], rate: Rate, model: Path, *what: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    rates.put(rate(Tagger.load(model, device="cpu", threads=1), lambda: barrier.wait(_MOST_S), *what))
    barrier.wait(_MOST_S)  # nobody stops before all have their rate


def _tag_sentences(tagger: Tagger, wait: Wait, sentences: list[str], seconds: float) -> float:
    def once() -> int:
        tagger.tag_all([tagger.tokenise(sentence).texts for sentence in sentences])
        return len(sentences)

    once()  # word types cached, as those of a service that has run for a while
    wait()
    began, n = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        n += once()
    return n / elapsed


@contextmanager
def in_memory(model: Path, documents: Sequence[Sequence[str]], processes: int) -> Iterator[DocumentRate]:
    """Processes that tag documents when asked to, a group of them at a time, and wait meanwhile."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    try:
        for number in range(processes):
            ours, its = context.Pipe()
            share = [list(group) for group in documents[number::processes]]
            worker = context.Process(target=_serve, args=(its, model, share), daemon=True)
            worker.start()
            its.close()
            pipes.append(ours)
            workers.append(worker)
        rate = DocumentRate(pipes)
        rate(processes, 0)  # all have started
        yield rate
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


@dataclass(frozen=True)
class DocumentRate:
    """Bytes a second, text to labels: cut into sentences and tagged, by so many processes at once.

    Each goes on with the documents where it was, and begins again when it has had all.
    """

    pipes: Sequence[Connection]

    def __call__(self, processes: int, seconds: float) -> float:
        for pipe in self.pipes[:processes]:
            pipe.send(seconds)
        return sum(_received(pipe) for pipe in self.pipes[:processes])


def _received(pipe: Connection) -> float:
    if not pipe.poll(_MOST_S):
        raise RuntimeError(f"a process that tags in memory has not answered for {_MOST_S} s")
    rate: float = pipe.recv()
    return rate


def _serve(pipe: Connection, model: Path, documents: list[list[str]]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    tagger, groups = Tagger.load(model, device="cpu", threads=1), cycle(documents)
    while True:
        seconds, began, n = pipe.recv(), time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds:
            group = next(groups)
            sentences_of(group, tagger, None)
            n += sum(len(text.encode()) for text in group)
        pipe.send(n / elapsed)
