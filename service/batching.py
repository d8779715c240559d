"""Gathers the items of concurrent requests into batches for one inference thread.

    submit() ─► inbox ─► Backlog.take() ─► the thread: tag_batch(items) ─► each request's future

There is no timer: a lone request goes at once, and while one batch computes, what arrives forms
the next. What is computed sooner than another thread wakes up is computed on the event loop itself:
what came in one turn of it, together, where that is a few small batches and the thread has nothing to do.

Admission is bounded in requests and in tokens; both count until they are answered. Modelled on the
queue of text-embeddings-inference (core/src/queue.rs), with two things it has not: requests of many
items are served in turns, and a failing batch is bisected, so that only the guilty item's request fails.

What a request's items say together may call for some of them to be computed again (``look_again``): they
wait once more, as the request that they are of, which is answered then.

Knows nothing of HTTP, text or a network: ``tag_batch`` is any function from a list to a list as
long, and ``length`` says how many tokens an item has.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


_MOST_PADDING = 8  # cells of a batch's arrays for each token that it may have
# That the event loop computes in one turn, each as small as ``max_tokens_at_once``. Another thread on the
# same CPU finds the caches full of the loop's things, and leaves them full of its own.
BATCHES_AT_ONCE = 4


class OverloadedError(Exception):
    """The queue has no room; the caller should come again later. Nothing was computed."""

    def __init__(self, what: str, waiting: int, most: int) -> None:
        super().__init__(f"{waiting} {what} are waiting, at most {most} are let in")
        self.what = what  # "requests" or "tokens"
        self.waiting = waiting
        self.most = most


class DeadlineError(Exception):
    """The request's deadline came before its answer."""


class ClosedError(Exception):
    """The batcher takes no more work, or gave this request up while closing."""


@dataclass(eq=False, slots=True)
class Job(Generic[Item, Result]):
    """One request: its items, and what has become of them."""

    items: Sequence[Item]
    lengths: list[int]
    future: asyncio.Future[list[Result]]
    deadline: float = math.inf  # of the batcher's clock
    submitted: float = 0.0  # likewise
    caller: object = None  # for the observer
    has_begun: bool = False  # some of it has been in a batch
    is_second_look: bool = False
    n_taken_tokens: int = 0  # in this turn of it
    waiting: list[int] = field(init=False)  # indices of items not yet in a batch, longest first
    results: list[Result | None] = field(init=False)
    n_unanswered: int = field(init=False)
    n_held_tokens: int = field(init=False)  # that admission counts for it
    timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        n = len(self.items)
        # Longest first: neighbours then have similar lengths, so batches have little padding.
        self.waiting = [0] if n == 1 else sorted(range(n), key=self.lengths.__getitem__, reverse=True)
        self.results = [None] * n
        self.n_unanswered = n
        self.n_held_tokens = sum(self.lengths)


@dataclass(frozen=True, slots=True)
class Place(Generic[Item, Result]):
    """One item of a batch: which request's, and which of its items."""

    job: Job[Item, Result]
    index: int

    @property
    def length(self) -> int:
        return self.job.lengths[self.index]

    @property
    def item(self) -> Item:
        return self.job.items[self.index]


def _similar(shorter: int, longer: int) -> bool:
    """Whether padding one to the other's length is cheaper than another batch.

    Measured with en-person, sentences of Wikipedia and 32 requests waiting: 18.0 us a word like this,
    22.7 with 2 * shorter + 32, where 44 % of a batch was padding, and 20.0 with 1.2 * shorter + 2.
    """
    return longer <= 1.25 * shorter + 4


class Observer(Protocol):
    """Is told what the batcher does, by whoever does it. To be quick: whatever waits, waits for it too.

    ``caller`` is what ``submit`` was given. What an observer raises is dropped.
    """

    def waited(self, caller: object, seconds: float) -> None:
        """A request was waiting so long for its first item to be in a batch."""

    def computed(self, batch: Sequence[Place[Any, Any]], seconds: float) -> None:
        """A batch, or a part of one, was computed."""

    def failed(self, batch: Sequence[Place[Any, Any]], seconds: float) -> None:
        """A batch, or a part of one, failed; its halves may be tried again."""


class Backlog(Generic[Item, Result]):
    """The requests that wait, and who is next. No threads, no clock: a plain data structure.

    Requests take turns of as many tokens as a batch may have. The one whose turn it is puts its
    longest item into the batch; the rest of it is filled with items of similar length, its own and
    those of the next. So a request of ten thousand does not keep single ones waiting, and of many
    requests of 32 the first is answered first: if each advanced by an item each time round, all would
    be answered last.

    ``is_padded``: shorter items take as long as the longest of their batch. Where they do not, lengths need
    not be similar, and a batch is as large as the sum of them.
    """

    def __init__(self, *, is_padded: bool = True) -> None:
        self._is_padded = is_padded
        self._turns: deque[Job[Item, Result]] = deque()

    def __len__(self) -> int:
        return len(self._turns)

    def add(self, job: Job[Item, Result]) -> None:
        self._turns.append(job)

    def take(
        self, max_batch_tokens: int, now: float
    ) -> tuple[list[Place[Item, Result]], list[Job[Item, Result]]]:
        """The next batch, and the jobs whose deadline has passed. Both leave the backlog.

        Its size <= max_batch_tokens: longest * number of items, or the sum of them where nothing is padded;
        unless a single item is longer. Empty where nobody waits. Jobs whose callers have left are dropped.
        """
        late: list[Job[Item, Result]] = []
        seen: list[Job[Item, Result]] = []
        offered: list[Place[Item, Result]] = []
        # More is looked at than fits, so that there is a choice of lengths.
        room = 4 * max_batch_tokens
        while self._turns and room > 0:
            job = self._turns.popleft()
            if job.future.done():
                continue
            if job.deadline <= now:
                late.append(job)
                continue
            seen.append(job)
            # Half a batch at a time, so that two or more advance in each, and single ones get in.
            left = min(max_batch_tokens - job.n_taken_tokens, max_batch_tokens // 2)
            for index in job.waiting:
                offered.append(Place(job, index))
                left -= job.lengths[index]
                room -= job.lengths[index]
                if left <= 0 or room <= 0:
                    break
        if room > 0:  # few wait: what they have beyond their turns
            n_offered = Counter(place.job for place in offered)
            for job in seen:
                for index in islice(job.waiting, n_offered[job], None):
                    offered.append(Place(job, index))
                    room -= job.lengths[index]
                    if room <= 0:
                        break
        batch = (self._alike if self._is_padded else self._first)(offered, max_batch_tokens)
        self._remove(batch, seen, max_batch_tokens)
        return batch, late

    @staticmethod
    def _first(offered: list[Place[Item, Result]], max_batch_tokens: int) -> list[Place[Item, Result]]:
        """The first of those offered, as many as fit. Their arrays are padded nevertheless, and not to be
        many times as large as what is in them."""
        longest = n_tokens = 0
        for n, place in enumerate(offered):
            longest = max(longest, place.length)
            n_tokens += place.length
            if n and (n_tokens > max_batch_tokens or longest * (n + 1) > _MOST_PADDING * max_batch_tokens):
                return offered[:n]
        return offered

    @staticmethod
    def _alike(offered: list[Place[Item, Result]], max_batch_tokens: int) -> list[Place[Item, Result]]:
        """The first of those offered, and of the others as many of similar length as fit."""
        if len(offered) < 2:
            return offered
        lengths = [place.length for place in offered]
        longest = max(lengths)
        if longest * len(offered) <= max_batch_tokens and _similar(min(lengths), longest):
            return offered
        seed = offered[0]
        ordered = sorted(offered, key=lambda place: -place.length)  # stable: a job's own order stays
        low = ordered.index(seed)
        high = low + 1
        while (
            high < len(ordered)
            and seed.length * (high - low + 1) <= max_batch_tokens
            and _similar(ordered[high].length, seed.length)
        ):
            high += 1
        while (
            low > 0
            and ordered[low - 1].length * (high - low + 1) <= max_batch_tokens
            and _similar(ordered[high - 1].length, ordered[low - 1].length)
        ):
            low -= 1
        return ordered[low:high]

    def _remove(
        self, batch: list[Place[Item, Result]], seen: list[Job[Item, Result]], max_batch_tokens: int
    ) -> None:
        """Takes the batch out of its jobs; those that have had their turn go to the end."""
        taken: dict[Job[Item, Result], list[int]] = {}
        for place in batch:
            taken.setdefault(place.job, []).append(place.index)
        staying = []
        for job in seen:
            indices = taken.get(job)
            if indices is None:
                staying.append(job)
            elif len(indices) == len(job.waiting):
                job.waiting = []
            else:
                # The batch is a window of lengths, or the first of them, and ``waiting`` is in order of
                # length, so what was taken stands together there.
                first = job.waiting.index(indices[0])
                del job.waiting[first : first + len(indices)]
                job.n_taken_tokens += sum([job.lengths[index] for index in indices])
                if job.n_taken_tokens < max_batch_tokens:
                    staying.append(job)
                else:
                    job.n_taken_tokens = 0
                    self._turns.append(job)
        self._turns.extendleft(reversed(staying))


def small_batches(jobs: Sequence[Job[Item, Result]], max_tokens: int) -> list[list[Place[Item, Result]]]:
    """Of the jobs still wanted, in order, each whole in one; of so many tokens, padding not counted."""
    batches: list[list[Place[Item, Result]]] = []
    n_tokens = 0
    for job in jobs:
        if job.future.done():
            continue
        places = [Place(job, index) for index in job.waiting]
        n_tokens += job.n_held_tokens
        if batches and n_tokens <= max_tokens:
            batches[-1] += places
        else:
            batches.append(places)
            n_tokens = job.n_held_tokens
    return batches


class Batcher(Generic[Item, Result]):
    """One inference thread and what waits for it. Its methods belong to one event loop.

    ``is_out_of_memory`` recognises the device's own error: the batch budget is then halved for
    good, ``free_memory`` called, and the batch tried again in halves. ``max_tokens_at_once``: of a batch
    computed on the event loop, which nothing else can use meanwhile. ``is_padded``: as of ``Backlog``.
    ``look_again``: from a request's items and results, on the event loop and once, which items to compute
    again and as what, of the same length.
    """

    def __init__(
        self,
        tag_batch: Callable[[list[Item]], Sequence[Result]],
        *,
        length: Callable[[Item], int],
        look_again: Callable[[Sequence[Item], Sequence[Result]], Mapping[int, Item]] | None = None,
        max_batch_tokens: int,
        max_queue_requests: int,
        max_queue_tokens: int,
        max_tokens_at_once: int = 0,
        is_padded: bool = True,
        clock: Callable[[], float] = time.monotonic,
        is_out_of_memory: Callable[[Exception], bool] = lambda _: False,
        free_memory: Callable[[], None] = lambda: None,
        observer: Observer | None = None,
        name: str = "tagger",
    ) -> None:
        self._tag_batch = tag_batch
        self._length = length
        self._look_again = look_again
        self.max_batch_tokens = max_batch_tokens
        self._max_queue_requests = max_queue_requests
        self._max_queue_tokens = max_queue_tokens
        self._max_tokens_at_once = max_tokens_at_once
        self._is_padded = is_padded
        self._clock = clock
        self._is_out_of_memory = is_out_of_memory
        self._free_memory = free_memory
        self._observer = observer
        self._name = name
        # The loop's side
        self._open: set[Job[Item, Result]] = set()  # accepted and not answered
        self._n_tokens = 0
        self._closing = False
        self._is_told_to_stop = False
        self._little: list[Job[Item, Result]] = []  # of this turn of the loop
        # The thread's side. SimpleQueue is the only thing that both sides change.
        self._inbox: SimpleQueue[Job[Item, Result] | None] = SimpleQueue()
        self._died = False
        # Both sides': whoever computes holds the lock, but for the loop beside a batch of one request.
        self._computing = threading.Lock()
        self._is_for_one = False  # the thread computes for a single request
        self._busy_since: float | None = None

    def start(self) -> None:
        """Starts the thread; called on the event loop that will submit."""
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._freed = asyncio.Event()
        # A daemon: a wedged device must not keep the process from exiting.
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    async def __aenter__(self) -> Batcher[Item, Result]:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @property
    def n_waiting_requests(self) -> int:
        return len(self._open)

    @property
    def n_waiting_tokens(self) -> int:
        return self._n_tokens

    def busy_for_s(self) -> float:
        """How long the current batch has been computing; infinite if the thread has died."""
        since = self._busy_since
        if self._died:
            return math.inf
        return 0.0 if since is None else self._clock() - since

    def oldest_wait_s(self) -> float:
        """How long ago the oldest request was accepted of which nothing has been in a batch yet."""
        now = self._clock()
        return max([now - job.submitted for job in self._open if not job.has_begun], default=0.0)

    def check_room(self, n_tokens: int = 0) -> None:
        """Raises OverloadedError where a request of so many tokens would not be let in, or ClosedError.

        An idle batcher lets any request in: how large one may be is not this queue's business.
        """
        if self._closing or self._died:
            raise ClosedError("no more work is taken")
        if not self._open:
            return
        if len(self._open) >= self._max_queue_requests:
            raise OverloadedError("requests", len(self._open), self._max_queue_requests)
        if self._n_tokens + n_tokens > self._max_queue_tokens:
            raise OverloadedError("tokens", self._n_tokens, self._max_queue_tokens)

    async def room(self, n_tokens: int = 0) -> None:
        """Waits until a request of so many tokens would be let in: submit it before the next await.

        Raises ClosedError. For callers that would rather wait than be refused.
        """
        while True:
            try:
                self.check_room(n_tokens)
                return
            except OverloadedError:
                self._freed.clear()
                await self._freed.wait()

    def submit(
        self,
        items: Sequence[Item],
        deadline: float = math.inf,
        caller: object = None,
        *,
        is_alone: bool = False,
    ) -> asyncio.Future[list[Result]]:
        """A future of the results, one for each item in order. Raises as ``check_room`` does, at once.

        The future fails with DeadlineError, ClosedError, or what ``tag_batch`` raised for one of the
        items alone. Cancel it to withdraw what has not been computed yet. ``deadline`` is a time
        of the batcher's clock. ``caller`` is handed to the observer as it is. ``is_alone``: nobody
        else will submit in this turn of the loop; what is little is computed before this returns.
        """
        future: asyncio.Future[list[Result]] = self._loop.create_future()
        job = Job(items, [self._length(item) for item in items], future, deadline, self._clock(), caller)
        self.check_room(job.n_held_tokens)
        if not items:
            future.set_result([])
            return future
        self._open.add(job)
        self._n_tokens += job.n_held_tokens
        future.add_done_callback(lambda _: self._release(job))
        if is_alone and not self._little and job.n_held_tokens <= self._max_tokens_at_once:
            self._little.append(job)
            self._compute_little()
        else:
            self._queue(job)
        if deadline < math.inf and not future.done():
            job.timer = self._loop.call_later(max(0.0, deadline - self._clock()), self._expire, job)
        return future

    async def close(self, timeout_s: float | None = None) -> None:
        """Takes no more work, finishes what was accepted, and stops the thread.

        What is not finished after ``timeout_s`` fails with ClosedError.
        """
        self._stop_taking()
        try:
            await asyncio.wait_for(self._stopped.wait(), timeout_s)
        except TimeoutError:
            self.abandon()
        else:
            # The thread has nothing left to do, so this does not wait for the event loop.
            self._thread.join()

    def abandon(self) -> None:
        """Fails what is not answered yet with ClosedError, and takes no more work."""
        self._stop_taking()
        for job in list(self._open):
            self._fail(job, ClosedError("gave up waiting for the batch to end"))
        self._tell_to_stop()

    # On the event loop

    def _stop_taking(self) -> None:
        if not self._closing:
            self._closing = True
            self._hand_over()
            if not self._open:
                self._tell_to_stop()

    def _tell_to_stop(self) -> None:
        """The thread, once nothing is left that it could be asked for."""
        if not self._is_told_to_stop:
            self._is_told_to_stop = True
            self._inbox.put(None)

    def _queue(self, job: Job[Item, Result]) -> None:
        if job.n_held_tokens <= self._max_tokens_at_once:
            if not self._little:
                self._loop.call_soon(self._compute_little)
            self._little.append(job)
        else:
            self._inbox.put(job)

    def _hand_over(self) -> None:
        """Leaves this turn's requests to the thread."""
        for job in self._little:
            self._inbox.put(job)
        self._little = []

    def _compute_little(self) -> None:
        """This turn's requests, here, if they are a few small batches and the thread is idle, or computes
        for a single request, whose thousands of sentences gain nothing if others wait for them too."""
        batches = small_batches(self._little, self._max_tokens_at_once)
        if len(batches) > BATCHES_AT_ONCE:
            self._hand_over()
            return
        is_alone = self._computing.acquire(blocking=False)
        if not is_alone and not self._is_for_one:
            self._hand_over()
            return
        self._little = []
        try:
            for batch in batches:
                self._compute_here(batch, is_alone=is_alone)
        finally:
            if is_alone:
                self._busy_since = None
                self._computing.release()

    def _compute_here(self, batch: list[Place[Item, Result]], *, is_alone: bool) -> None:
        """``is_alone``: the thread computes nothing."""
        now = self._clock()
        if is_alone:
            self._busy_since = now
        self._tell_waits(batch, now)
        try:
            results = self._results(batch)
        except Exception:
            for job in {place.job: None for place in batch}:  # to be bisected there
                self._inbox.put(job)
        else:
            self._deliver(batch, results)

    def _release(self, job: Job[Item, Result]) -> None:
        if job.timer is not None:
            job.timer.cancel()
        self._open.discard(job)
        self._n_tokens -= job.n_held_tokens
        job.n_held_tokens = 0
        self._freed.set()
        if self._closing and not self._open:
            self._tell_to_stop()

    def _expire(self, job: Job[Item, Result]) -> None:
        self._fail(job, DeadlineError("the deadline passed before the answer"))

    @staticmethod
    def _fail(job: Job[Item, Result], error: Exception) -> None:
        if not job.future.done():
            job.future.set_exception(error)

    def _deliver(self, places: list[Place[Item, Result]], results: Sequence[Result]) -> None:
        for place, result in zip(places, results, strict=True):
            job = place.job
            if job.future.done():
                continue
            job.results[place.index] = result
            job.n_unanswered -= 1
            if job.n_unanswered == 0:
                self._finish(job)
            else:
                # A large request makes room as it advances.
                job.n_held_tokens -= place.length
                self._n_tokens -= place.length
                self._freed.set()

    def _finish(self, job: Job[Item, Result]) -> None:
        """Answers a request that has all its results, or queues those of its items to look at again."""
        results: list[Result] = job.results  # type: ignore[assignment]  # no None is left
        again: Mapping[int, Item] = {}
        if self._look_again is not None and len(results) > 1 and not job.is_second_look:
            try:
                again = self._look_again(job.items, results)
            except Exception as error:
                self._fail(job, error)
                return
        if not again:
            job.future.set_result(results)
            return
        job.is_second_look = True
        job.items = [again.get(index, item) for index, item in enumerate(job.items)]
        job.waiting = sorted(again, key=job.lengths.__getitem__, reverse=True)
        job.n_unanswered, job.n_taken_tokens = len(again), 0
        self._n_tokens -= job.n_held_tokens
        job.n_held_tokens = sum([job.lengths[index] for index in again])
        self._n_tokens += job.n_held_tokens
        self._queue(job)

    def _stop(self) -> None:
        for job in list(self._open):  # none, unless the thread died
            self._fail(job, ClosedError("the inference thread has died"))
        self._stopped.set()

    # On the thread

    def _post(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _work(self) -> None:
        backlog: Backlog[Item, Result] = Backlog(is_padded=self._is_padded)
        stopping = False
        try:
            while True:
                try:
                    while True:
                        job = self._inbox.get(block=not backlog and not stopping)
                        if job is None:
                            stopping = True
                        else:
                            backlog.add(job)
                except Empty:
                    pass
                batch, late = backlog.take(self.max_batch_tokens, self._clock())
                for each in late:
                    self._post(self._expire, each)
                if batch:
                    with self._computing:
                        self._busy_since = now = self._clock()
                        self._is_for_one = all(place.job is batch[0].job for place in batch)
                        self._tell_waits(batch, now)
                        self._answer(batch)
                        self._is_for_one = False
                        self._busy_since = None
                elif stopping and not backlog:
                    return
        except BaseException:
            # Said by busy_for_s(); printing it here could print what was submitted.
            self._died = True
        finally:
            self._post(self._stop)

    def _tell_waits(self, batch: list[Place[Item, Result]], now: float) -> None:
        for place in batch:
            job = place.job
            if not job.has_begun:
                job.has_begun = True
                if self._observer is not None:
                    with contextlib.suppress(Exception):  # watching must not fail what is watched
                        self._observer.waited(job.caller, now - job.submitted)

    def _tell(self, is_done: bool, part: list[Place[Item, Result]], seconds: float) -> None:
        if self._observer is None:
            return
        with contextlib.suppress(Exception):
            (self._observer.computed if is_done else self._observer.failed)(part, seconds)

    def _results(self, part: list[Place[Item, Result]]) -> Sequence[Result]:
        """Computes them. Raises what ``tag_batch`` does."""
        began = self._clock()
        is_done = False
        try:
            results = self._tag_batch([place.item for place in part])
            if len(results) != len(part):
                raise RuntimeError(f"{len(part)} items in, {len(results)} results out")
            is_done = True
        finally:
            # Before the callers are told: what they see answered has been counted.
            self._tell(is_done, part, self._clock() - began)
        return results

    def _answer(self, batch: list[Place[Item, Result]]) -> None:
        """Computes a batch and delivers its results; where it fails, its halves by themselves."""
        parts = [batch]
        freed_for_one = False  # memory was freed for a single item already
        while parts:
            part = [place for place in parts.pop() if not place.job.future.done()]
            if not part:
                continue
            try:
                results = self._results(part)
            except Exception as error:  # a bad batch fails its own callers, never the thread
                out_of_memory = self._is_out_of_memory(error)
                if out_of_memory:
                    self.max_batch_tokens = max(1, self.max_batch_tokens // 2)
                    self._free_memory()
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                elif out_of_memory and not freed_for_one:
                    freed_for_one = True
                    parts.append(part)
                else:
                    self._post(self._fail, part[0].job, error)
            else:
                self._post(self._deliver, part, results)
