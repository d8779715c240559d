"""Counts the requests being answered and the bytes they hold; refuses more than is allowed.

How many are allowed follows from how late the event loop is, and from how long a model's queue is. The
loop's turn lasts as long as all that is answered in it, and a request waits for two or three turns: with
350 single sentences under way a turn takes 0.3 s on a busy core; 500 requests of 32 sentences wait in
the queue for 4 s. What is accepted beyond that is answered too late for anybody to care. Where the queue
is too long, as many are allowed as were answered of late in the time that it may take (Little's law).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from service.problems import Problem


def overloaded(what: str, limit: str, maximum: int, actual: int) -> Problem:
    """429, saying what there is too much of."""
    detail = f"{actual:,} {what} are being answered, and {maximum:,} are allowed at present ({limit})"
    return Problem("overloaded", detail, limit=limit, maximum=maximum, actual=actual)


# A turn of the event loop that takes longer is too long, and so many requests are always allowed.
LATE_S = 0.1
LEAST_REQUESTS = 96
# The same of the time until a request's first sentence is computed.
QUEUE_S = 0.4
LEAST_QUEUED = 16
_MOST_RATE_S = 2.0  # of the past say how many are answered a second
# How fast what is allowed follows, at each look: more by a share, since sixteen are 5 ms of single
# sentences and 150 ms of requests of 32.
_LESS, _MORE = 0.75, 1.125


class Hold:
    """What one request holds while it is being answered."""

    __slots__ = ("_admission", "n_bytes", "over")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.n_bytes = 0
        self.over: asyncio.Future[None] | None = None  # made where somebody waits for it

    def add_bytes(self, n: int) -> None:
        """Raises Problem (overloaded) where all requests together would then hold too many.

        A request that is alone is let in whatever its size: max_body_bytes bounds that.
        """
        admission = self._admission
        if admission.n_requests > 1 and admission.n_bytes + n > admission.max_bytes:
            raise overloaded("body bytes", "max_queue_bytes", admission.max_bytes, admission.n_bytes)
        self.n_bytes += n
        admission.n_bytes += n

    def remove_bytes(self, n: int) -> None:
        """Frees some before the request is answered: a stream holds no line for longer than it must."""
        self.n_bytes -= n
        self._admission.n_bytes -= n


class Admission:
    """Belongs to one event loop."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.most_requests = max_requests
        self.max_requests = max_requests  # at present
        self.max_bytes = max_bytes
        self.n_requests = 0
        self.n_bytes = 0
        # Whose head was read and whose answer is not written, those that hold included: kept by
        # service/server.py. A turn of the event loop may read hundreds before the first of them holds.
        self.n_under_way = 0
        self.n_held = 0  # that are to be refused, but not yet: kept by service/refusal.py
        self._n_answered = 0
        self._looks: deque[tuple[float, int]] = deque()  # when, and how many were answered by then
        self._holds: set[Hold] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def looked(self, now_s: float, late_s: float, queue_s: float = 0.0) -> None:
        """Allows fewer requests where the event loop is late, or the oldest request that waits for its
        first batch was accepted ``queue_s`` ago; and else more, up to the setting. ``now_s``: by any
        clock."""
        in_time = self._answered_in_time(now_s, queue_s)
        allowed = math.ceil(_MORE * self.max_requests)
        if late_s > LATE_S:
            less = int(_LESS * min(self.max_requests, self.n_requests + 1))
            allowed = min(self.max_requests, max(LEAST_REQUESTS, less))
        if queue_s > QUEUE_S:
            # And fewer, for requests that never were in the queue are answered too.
            less = int(in_time * QUEUE_S / queue_s)
            allowed = min(allowed, self.max_requests, max(LEAST_QUEUED, less))
        elif queue_s > QUEUE_S / 2:
            allowed = min(allowed, max(self.max_requests, int(in_time)))
        self.max_requests = min(allowed, self.most_requests)

    def _answered_in_time(self, now_s: float, queue_s: float) -> float:
        """How many requests are answered in QUEUE_S, by the time that the oldest has been waiting."""
        looks = self._looks
        looks.append((now_s, self._n_answered))
        while len(looks) > 2 and now_s - looks[1][0] >= _MOST_RATE_S:
            looks.popleft()
        ago_s = max(queue_s, QUEUE_S)
        since_s, n_before = next((look for look in reversed(looks) if now_s - look[0] >= ago_s), looks[0])
        seconds = now_s - since_s
        return QUEUE_S * (self._n_answered - n_before) / seconds if seconds > 0 else self.max_requests

    def begin(self) -> Hold:
        """Counts a request until its ``end``. Raises Problem (overloaded) where there are enough."""
        if self.n_requests >= self.max_requests:
            raise overloaded("requests", "max_queue_requests", self.max_requests, self.n_requests)
        self.n_requests += 1
        self._idle.clear()
        hold = Hold(self)
        self._holds.add(hold)
        return hold

    def end(self, hold: Hold) -> None:
        self._n_answered += 1
        self._holds.discard(hold)
        if hold.over is not None and not hold.over.done():
            hold.over.set_result(None)
        self.n_requests -= 1
        self.n_bytes -= hold.n_bytes
        if not self.n_requests:
            self._idle.set()

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """Counts a request until it is answered. Raises as ``begin`` does."""
        hold = self.begin()
        try:
            yield hold
        finally:
            self.end(hold)

    async def passed(self, timeout_s: float) -> None:
        """Waits until what is being answered now has been, or for ``timeout_s``; newcomers do not count."""
        loop = asyncio.get_running_loop()
        waiting = []
        for hold in self._holds:
            hold.over = hold.over or loop.create_future()
            waiting.append(hold.over)
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)

    async def idle(self, timeout_s: float) -> bool:
        """Waits until no request is being answered; False where that takes longer."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True
