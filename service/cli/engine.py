"""Chunks in, what each becomes out, in the same order: by all cores, a bounded number of them at once.

Knows nothing of files or formats. A chunk's result depends on nothing but the chunk, so another
engine may take this one's place and the output stays the same.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

from service.cli.errors import CliError
from service.memory import collect_seldom
from service.signals import without_interrupts


@dataclass(frozen=True, slots=True)
class Note:
    """Something that goes with the chunks, in order, and is no work."""

    value: Any


Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
# Fewer are done here: to start processes, each with a model, takes longer than a second.
_FEW = 6
# Chunks under way for each process, so that none waits for the one that reads and writes.
_WINDOW = 3


class Engine(Generic[Chunk, Result]):
    """Runs ``work(setup(options), chunk)`` for each chunk; both are functions of a module."""

    def __init__(
        self,
        setup: Callable[[Any], Any],
        work: Callable[[Any, Chunk], Result],
        options: Any,
        n_processes: int,
    ) -> None:
        self._setup = setup
        self._work = work
        self._options = options
        self._n_processes = n_processes

    def run(self, items: Iterator[Chunk | Note]) -> Iterator[Result | Note]:
        """Each chunk's result, and each note, in order. Raises what ``setup`` and ``work`` raise,
        and CliError."""
        first: list[Chunk | Note] = []
        n_first = 0
        if self._n_processes > 1:
            for item in items:
                first.append(item)
                n_first += not isinstance(item, Note)
                if n_first == _FEW:
                    yield from self._in_processes(chain(first, items))
                    return
        ready = None
        for item in chain(first, items):
            if isinstance(item, Note):
                yield item
            else:
                ready = ready or self._setup(self._options)
                yield self._work(ready, item)

    def _in_processes(self, items: Iterator[Chunk | Note]) -> Iterator[Result | Note]:
        pool = ProcessPoolExecutor(
            self._n_processes,
            multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(self._setup, self._work, self._options),
        )
        waiting: deque[Note | Future[Result]] = deque()
        n_under_way = 0
        try:
            for item in items:
                if isinstance(item, Note):
                    waiting.append(item)
                else:
                    with without_interrupts():  # it may start a process
                        waiting.append(pool.submit(_do, item))
                    n_under_way += 1
                while n_under_way >= self._n_processes * _WINDOW or (
                    waiting and isinstance(waiting[0], Note)
                ):
                    done = _waited_for(waiting.popleft())
                    n_under_way -= not isinstance(done, Note)
                    yield done
            while waiting:
                yield _waited_for(waiting.popleft())
        except BrokenProcessPool:
            message = "a process died, which may be for want of memory; what is done so far stays"
            raise CliError(message, exit_code=1) from None
        finally:
            # Waiting: else its thread and the interpreter race for a pipe at the end: a traceback.
            pool.shutdown(cancel_futures=True)


def _waited_for(entry: Note | Future[Any]) -> Any:
    return entry if isinstance(entry, Note) else entry.result()


_ready: Any = None
_do_work: Any = None


def _begin(setup: Callable[[Any], Any], work: Callable[[Any, Any], Any], options: Any) -> None:
    """In a process of the pool, once."""
    global _ready, _do_work
    parent = multiprocessing.parent_process()
    assert parent is not None
    # One that is killed cannot: then nobody would ever tell these to end.
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    _do_work = work
    try:
        _ready = setup(options)
        collect_seldom()
    except CliError as error:
        _ready = error  # said by the first chunk: a pool whose initialiser fails says nothing


def _do(chunk: Any) -> Any:
    if isinstance(_ready, CliError):
        raise _ready
    return _do_work(_ready, chunk)
