"""All workers switch models, or none: two phases, decided in one place.

    a worker ── Asked ─► Agreement ── Prepare ─► every worker: loads and self-tests, beside what serves
                                   ◄─ Prepared ─ every worker: what it has, or why not
                 all have the same ── Commit ──► every worker: serves the new lineup from now on
                                   ◄─ Committed ─
             one failed, died, late ── Abort ──► every worker: forgets what it has prepared
        the one that asked ◄─ Outcome ─┘

The decision is one assignment to ``lineup``, which is also what a worker that is started later
loads. Past it nobody may stay behind: who dies comes back with the new lineup, and who does not
commit in time is reported as stuck, to be killed.

Knows no processes and no pipes: workers are numbers, ``send`` takes messages to them, and what they
say and whether they live is told to the methods. Never blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.reloading.lineup import ChangeError, Entry, Lineup, Load, Unload, with_loaded, without

# A commit is one assignment on the worker's event loop; one that takes so long is not running.
COMMIT_WITHIN_S = 10.0

# From workers


@dataclass(frozen=True, slots=True)
class Up:
    """This worker has loaded its models and serves."""

    lineup: Lineup


@dataclass(frozen=True, slots=True)
class Asked:
    token: int  # the worker's own, for the Outcome
    change: Load | Unload


@dataclass(frozen=True, slots=True)
class Prepared:
    number: int
    entry: Entry | None = None  # what was loaded, or
    error: ChangeError | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    number: int


FromWorker = Up | Asked | Prepared | Committed

# To workers


@dataclass(frozen=True, slots=True)
class Prepare:
    number: int
    load: Load


@dataclass(frozen=True, slots=True)
class Commit:
    number: int
    lineup: Lineup


@dataclass(frozen=True, slots=True)
class Abort:
    number: int


@dataclass(frozen=True, slots=True)
class Outcome:
    token: int
    before: Lineup
    after: Lineup
    error: ChangeError | None = None  # then ``after`` is ``before``


ToWorker = Prepare | Commit | Abort | Outcome


@dataclass
class _Round:
    """One change under way."""

    number: int
    asker: int
    token: int
    before: Lineup
    ends: float
    waiting: set[int]  # the workers that have yet to say Prepared, then Committed
    entries: dict[int, Entry] = field(default_factory=dict)
    is_decided: bool = False


class Agreement:
    """``lineup``: what is agreed on; None until the first worker is up."""

    def __init__(
        self,
        send: Callable[[int, ToWorker], None],
        *,
        timeout_s: float,
        is_stuck: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lineup: Lineup | None = None
        self._send = send
        self._timeout_s = timeout_s
        self._is_stuck = is_stuck
        self._clock = clock
        self._workers: set[int] = set()
        self._n_rounds = 0
        self._round: _Round | None = None

    @property
    def is_busy(self) -> bool:
        """A change is under way: a worker that is started now would miss it."""
        return self._round is not None

    def join(self, worker: int) -> None:
        """A worker was started, with ``lineup``. It takes part from now on, though it only loads yet."""
        self._workers.add(worker)

    def leave(self, worker: int) -> None:
        """A worker died."""
        self._workers.discard(worker)
        now = self._round
        if now is None or worker not in now.waiting | now.entries.keys():
            return
        if now.is_decided:
            self._has_committed(now, worker)
        else:
            self._abort(now, ChangeError("load-aborted", "a worker died while the model was being loaded"))

    def tick(self) -> None:
        """To be called now and then: ends what takes too long."""
        now = self._round
        if now is None or self._clock() < now.ends:
            return
        if now.is_decided:
            for worker in now.waiting:
                self._is_stuck(worker)
        else:
            late = f"{len(now.waiting)} of {len(self._workers)} workers"
            detail = f"{late} had not loaded the model after {self._timeout_s:g} seconds"
            self._abort(now, ChangeError("load-aborted", detail))

    def receive(self, worker: int, message: FromWorker) -> None:
        """What a worker says."""
        if isinstance(message, Up):
            if self.lineup is None:
                self.lineup = message.lineup
            return
        if isinstance(message, Asked):
            self._begin(worker, message)
            return
        now = self._round
        if now is None or message.number != now.number or worker not in now.waiting:
            return  # of a round that was aborted
        if isinstance(message, Committed):
            if now.is_decided:
                self._has_committed(now, worker)
        elif message.entry is None:
            self._abort(now, message.error or ChangeError("load-failed", "nothing was loaded"))
        else:
            now.waiting.discard(worker)
            now.entries[worker] = message.entry
            if not now.waiting:
                self._all_prepared(now, message.entry)

    def _begin(self, worker: int, asked: Asked) -> None:
        before = self.lineup or ()
        if self._round is not None:
            error = ChangeError("load-in-progress", "another load or unload is under way")
            self._send(worker, Outcome(asked.token, before, before, error))
            return
        self._n_rounds += 1
        ends = self._clock() + self._timeout_s
        now = _Round(self._n_rounds, worker, asked.token, before, ends, set(self._workers))
        if isinstance(asked.change, Unload):
            try:
                after = without(before, asked.change)
            except ChangeError as error:
                self._send(worker, Outcome(asked.token, before, before, error))
                return
            self._round = now
            self._decide(now, after)
        else:
            self._round = now
            self._tell(Prepare(now.number, asked.change))

    def _all_prepared(self, now: _Round, entry: Entry) -> None:
        if any(other != entry for other in now.entries.values()):
            detail = "workers loaded different files: the folder changed meanwhile"
            self._abort(now, ChangeError("load-failed", detail))
        else:
            self._decide(now, with_loaded(now.before, entry))

    def _decide(self, now: _Round, after: Lineup) -> None:
        self.lineup = after
        now.is_decided = True
        now.waiting = set(self._workers)
        now.ends = self._clock() + COMMIT_WITHIN_S
        self._tell(Commit(now.number, after))

    def _has_committed(self, now: _Round, worker: int) -> None:
        now.waiting.discard(worker)
        if not now.waiting:
            self._end(now, None)

    def _abort(self, now: _Round, error: ChangeError) -> None:
        self._tell(Abort(now.number))
        self._end(now, error)

    def _end(self, now: _Round, error: ChangeError | None) -> None:
        self._round = None
        if now.asker in self._workers:
            self._send(now.asker, Outcome(now.token, now.before, self.lineup or (), error))

    def _tell(self, message: ToWorker) -> None:
        for worker in sorted(self._workers):
            self._send(worker, message)
