"""Counts the requests being answered and the bytes they hold; refuses more than is allowed.

How many are allowed follows from how late the event loop is, and from how long a model's queue is. The
loop's turn lasts as long as all that is answered in it, and a request waits for two or three turns: with
350 single sentences under way a turn takes 0.3 s on a busy core; 500 requests of 32 sentences wait in
the queue for 4 s. What is accepted beyond that is answered too late for anybody to care.
"""

from __future__ import annotations

import asyncio
import math
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
        self._holds: set[Hold] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def looked(self, late_s: float, queue_s: float = 0.0) -> None:
        """Allows fewer requests where the event loop is late, or the oldest request that waits for its
        first batch was accepted ``queue_s`` ago; and else more, up to the setting."""
        if late_s > LATE_S or queue_s > QUEUE_S:
            least = min(LEAST_QUEUED if queue_s > QUEUE_S else LEAST_REQUESTS, self.most_requests)
            self.max_requests = max(least, int(_LESS * min(self.max_requests, self.n_requests + 1)))
        else:
            self.max_requests = min(self.most_requests, math.ceil(_MORE * self.max_requests))

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
