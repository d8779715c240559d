"""A run simulated at the speed that the machine had in each eighth of a second of it.

A virtual CPU is now fast and now slow, by half and more within a second, and queues grow where it is slow.
What no model can know of that is taken from the run: how many CPU seconds were spent on what was answered
in each window. When anything waits, and for how long, is the simulation's own.

The simulation has one speed; its time is stretched instead. Requests come when the work that could have
been done by then has been, and what it says in seconds of work is told in seconds of the clock; also to the
admission, which looks how late the event loop is.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.capacity_model import Costs, Design, Document, simulate

Numbers = npt.NDArray[np.float64]

WINDOW_S = 0.125
_ROUNDS = 16  # of which that counts whose speeds are nearest: where some are refused they jump
_STEP = 0.8  # of what a round says that the speed is wrong by
_MOST_AT_ONCE, _SLOWEST, _FASTEST = 1.7, 4.0, 0.3
_NEIGHBOURS = (0.25, 0.5, 0.25)  # what is answered in one window was in part computed in another
_NEXT_TO_NOTHING_S = 1e-3


@dataclass
class Track:
    """How many CPU seconds had been spent at which time; both from any zero."""

    at_s: list[float] = field(default_factory=list)
    busy_s: list[float] = field(default_factory=list)

    def look(self, busy_s: Callable[[], float]) -> None:
        self.at_s.append(time.perf_counter())
        self.busy_s.append(busy_s())


@contextmanager
def tracked(busy_s: Callable[[], float]) -> Iterator[Track]:
    """Looks twice a window, in a thread, until left."""
    track = Track()
    stop = threading.Event()

    def look() -> None:
        track.look(busy_s)
        while not stop.wait(WINDOW_S / 2):
            track.look(busy_s)
        track.look(busy_s)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield track
    finally:
        stop.set()
        thread.join()


@dataclass(frozen=True)
class Measured:
    """A run. ``due_s``: from its beginning. ``done_s``: likewise, nan where it was not answered."""

    documents: Sequence[Document]
    due_s: Sequence[float]
    done_s: Sequence[float]
    track: Track
    began_s: float  # on the track's clock


def _edges_s(n_windows: int) -> Numbers:
    return WINDOW_S * np.arange(n_windows + 1, dtype=np.float64)


class Stretched:
    """Seconds of work and of the clock. ``slow``: of each window, what a second of work takes."""

    def __init__(self, slow: Numbers) -> None:
        self._slow = slow
        self.edges_s = _edges_s(len(slow))
        self.work_s = np.concatenate([[0.0], np.cumsum(WINDOW_S / slow)])
        self._slows: list[float] = slow.tolist()
        self._work_s: list[float] = self.work_s.tolist()

    def work(self, clock_s: Sequence[float]) -> Numbers:
        given = np.asarray(clock_s, dtype=float)
        after = np.maximum(0.0, given - self.edges_s[-1]) / self._slow[-1]
        return np.asarray(np.interp(given, self.edges_s, self.work_s) + after)

    def clock(self, work_s: Sequence[float]) -> Numbers:
        given = np.asarray(work_s, dtype=float)
        after = np.maximum(0.0, given - self.work_s[-1]) * self._slow[-1]
        return np.asarray(np.interp(given, self.work_s, self.edges_s) + after)

    def clock_at(self, work_s: float) -> float:
        """As ``clock``, of one."""
        number = min(bisect_right(self._work_s, work_s), len(self._slows)) - 1
        return WINDOW_S * number + (work_s - self._work_s[number]) * self._slows[number]


def replayed(run: Measured, costs: Costs, design: Design) -> list[float]:
    """Seconds until the simulation answers each of the run's documents; nan where it refuses one."""
    at_s = np.asarray(run.track.at_s) - run.began_s
    n_windows = max(1, int(np.ceil(at_s[-1] / WINDOW_S)))
    slow = np.ones(n_windows)
    edges_s = _edges_s(n_windows)
    spent_s = np.diff(np.interp(edges_s, at_s, run.track.busy_s))
    work_s = np.asarray([_work_s(each, costs) for each in run.documents])
    efficiency = _efficiency(run.done_s, work_s, edges_s, spent_s)
    least = math.inf
    for _ in range(_ROUNDS):
        stretched = Stretched(slow)
        found = simulate(
            run.documents, list(stretched.work(run.due_s)), costs, design,
            looks_s=list(stretched.work_s), clock=stretched.clock_at,
        )  # fmt: skip
        done_s = stretched.clock([np.nan if each.is_refused else each.done_s for each in found.outcomes])
        own = _efficiency(done_s, work_s, edges_s, np.diff(found.busy_at_s) * slow)
        known = (own > 0) & (efficiency > 0)
        wrong = np.divide(own, efficiency, out=np.ones(n_windows), where=known)
        if (error := float(np.abs(np.log(wrong)).mean())) < least:
            least, best_s = error, done_s
        step = np.clip(wrong, 1 / _MOST_AT_ONCE, _MOST_AT_ONCE) ** _STEP
        slow = np.clip(slow * step, _FASTEST, _SLOWEST)
    return [float(done - due) for done, due in zip(best_s, run.due_s, strict=True)]


def _work_s(document: Document, costs: Costs) -> float:
    batches_s = sum(costs.batch_s(each) for each in (document.lengths, document.again) if each)
    return costs.request + costs.read_s(document) + batches_s + costs.write_s(document)


def _efficiency(
    done_s: Sequence[float] | Numbers, work_s: Numbers, edges_s: Numbers, spent_s: Numbers
) -> Numbers:
    """Of each window, the work that was answered for a CPU second; 0 where that cannot be said."""
    done = np.asarray(done_s, dtype=float)
    is_answered = np.isfinite(done)
    answered, _ = np.histogram(done[is_answered], edges_s, weights=work_s[is_answered])
    answered, spent = (np.convolve(each, _NEIGHBOURS, "same") for each in (answered, spent_s))
    is_known = (answered > _NEXT_TO_NOTHING_S) & (spent > _NEXT_TO_NOTHING_S)
    return np.asarray(np.divide(answered, spent, out=np.zeros(len(spent)), where=is_known))
