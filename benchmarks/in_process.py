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
from pathlib import Path

from model.tagger import Tagger
from service.cli.work import sentences_of

Tag = Callable[[Tagger, list[str]], int]  # tags texts, and says how much that was
_MOST_S = 600  # for the slowest to warm up, and to be measured


def rate_per_s(model: Path, sentences: Sequence[str], processes: int, seconds: float) -> float:
    """Text to labels: tokenised and tagged in the Tagger's own batches, by all processes at once."""
    with _asked(model, _tag_sentences, [[sentences]] * processes) as rate:
        return rate(processes, seconds)


@contextmanager
def in_memory(model: Path, documents: Sequence[Sequence[str]], processes: int) -> Iterator[Rate]:
    """Bytes a second of documents, text to labels: cut into sentences and tagged, a group at a time."""
    with _asked(model, _tag_documents, [documents[n::processes] for n in range(processes)]) as rate:
        yield rate


def _tag_sentences(tagger: Tagger, sentences: list[str]) -> int:
    tagger.tag_all([tagger.tokenise(sentence).texts for sentence in sentences])
    return len(sentences)


def _tag_documents(tagger: Tagger, documents: list[str]) -> int:
    sentences_of(documents, tagger, None)
    return sum(len(text.encode()) for text in documents)


@dataclass(frozen=True)
class Rate:
    """What so many processes tag a second, all at once.

    Each goes on with its groups of texts where it was, and begins again when it has had all.
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


@contextmanager
def _asked(model: Path, tag: Tag, shares: Sequence[Sequence[Sequence[str]]]) -> Iterator[Rate]:
    """A process for each share of the groups of texts; it tags when asked to, and waits meanwhile."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    try:
        for share in shares:
            ours, its = context.Pipe()
            groups = [list(group) for group in share]
            worker = context.Process(target=_serve, args=(its, model, tag, groups), daemon=True)
            worker.start()
            its.close()
            pipes.append(ours)
            workers.append(worker)
        rate = Rate(pipes)
        rate(len(pipes), 0)  # a group each: word types cached, as those of one that has run for a while
        yield rate
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _serve(pipe: Connection, model: Path, tag: Tag, groups: list[list[str]]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    tagger, texts = Tagger.load(model, device="cpu", threads=1), cycle(groups)
    while True:
        seconds, began, n = pipe.recv(), time.perf_counter(), 0
        while not n or time.perf_counter() - began < seconds:
            n += tag(tagger, next(texts))
        pipe.send(n / (time.perf_counter() - began))
