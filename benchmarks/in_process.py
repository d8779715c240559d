"""Sentences in, how many a second several processes tag without HTTP out: what a service can reach."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from model.tagger import Tagger


def rate_per_s(model: Path, sentences: Sequence[str], processes: int, seconds: float) -> float:
    """Text to labels: tokenised and tagged in the Tagger's own batches, by all processes at once."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    rates: Queue[float] = context.Queue()
    workers = [
        context.Process(target=_tag, args=(model, list(sentences), seconds, barrier, rates), daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        return sum(rates.get(timeout=120 + seconds) for _ in workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _tag(model: Path, sentences: list[str], seconds: float, barrier: Barrier, rates: Queue[float]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    tagger = Tagger.load(model, device="cpu", threads=1)

    def once() -> int:
        tagger.tag_all([tagger.tokenise(sentence).texts for sentence in sentences])
        return len(sentences)

    once()  # word types cached, as those of a service that has run for a while
    barrier.wait(120)
    began, n = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        n += once()
    rates.put(n / elapsed)
    barrier.wait(120)  # nobody stops before all have their rate
