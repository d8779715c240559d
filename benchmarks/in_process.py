"""Texts in, how many a second several processes tag without HTTP or files out: what all else can reach."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
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


def document_rate_per_s(model: Path, documents: Sequence[Sequence[str]], processes: int) -> float:
    """Bytes a second of documents, text to labels: cut into sentences and tagged, a group of documents at a
    time; the first quarter of the groups unmeasured, the others once."""
    return _together(processes, _tag_documents, model, [list(group) for group in documents])


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


def _tag_documents(tagger: Tagger, wait: Wait, documents: list[list[str]]) -> float:
    n_first = len(documents) // 4
    for group in documents[:n_first]:
        sentences_of(group, tagger, None)
    wait()
    began = time.perf_counter()
    for group in documents[n_first:]:
        sentences_of(group, tagger, None)
    seconds = time.perf_counter() - began
    return sum(len(text.encode()) for group in documents[n_first:] for text in group) / seconds
