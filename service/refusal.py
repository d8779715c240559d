"""A whole request's bytes in, the 429 for it out: what a full service says with next to no work.

Past its capacity a service spends its time on refusing: the more is asked, the less is answered.
Through the HTTP parser, a task and the application a refusal costs a quarter of an answer; here it
costs a pattern and a write. What is not plainly one whole request of the busiest endpoint goes the
ordinary way, which refuses it too (service/admission.py).

A client in a loop that asks again at once, whatever Retry-After says, would be refused thousands of
times a second, at everybody's cost. Its requests are held for a while first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import orjson

from service.admission import Admission, overloaded
from service.observing.facts import Facts
from service.observing.log import LOGGER
from service.plain import Plain
from service.problems import MEDIA_TYPE, RETRY_AFTER_S
from service.state import Service

_LOGGED_A_SECOND = 50
# How long a request is held, and how many are at once, of so many bytes at most.
HOLD_S = 0.25
_MOST_HELD = 512
_MOST_HELD_BYTES = 16 * 1024

log = logging.getLogger(LOGGER)


class Held:
    """A request whose client did not wait."""

    __slots__ = ("_admission", "_timer")

    def __init__(self, data: bytes, admission: Admission, then: Callable[[bytes], None]) -> None:
        self._admission = admission
        self._timer = asyncio.get_running_loop().call_later(HOLD_S, self._release, data, then)
        admission.n_held += 1

    def leave(self) -> None:
        """The client hung up."""
        self._timer.cancel()
        self._admission.n_held -= 1

    def _release(self, data: bytes, then: Callable[[bytes], None]) -> None:
        self._admission.n_held -= 1
        then(data)


class Refusal:
    """Of one endpoint of one service: POST ``path``."""

    def __init__(self, service: Service, path: str) -> None:
        self._service = service
        self._path = path
        self._plain = Plain(path)
        self._say(service.admission.max_requests)
        self._head = (
            "HTTP/1.1 429 Too Many Requests\r\n"
            f"retry-after: {RETRY_AFTER_S}\r\ncontent-type: {MEDIA_TYPE}\r\n"
        ).encode()
        self._second = self._n_logged = self._n_unlogged = 0

    def _say(self, maximum: int) -> None:
        self._maximum = maximum
        self._problem = overloaded("requests", "max_queue_requests", maximum, maximum)
        self._json = orjson.dumps({**self._problem.as_json(), "request_id": ""})[:-2]

    def _is_to_log(self, second: int) -> bool:
        """Some of each second's: writing a line takes longer than all the rest of a refusal."""
        if second != self._second:
            if self._n_unlogged:
                log.warning(
                    "refused, without a line each", extra={"fields": {"requests": self._n_unlogged}}
                )
            self._second, self._n_logged, self._n_unlogged = second, 0, 0
        is_logged = self._n_logged < _LOGGED_A_SECOND
        self._n_logged += is_logged
        self._n_unlogged += not is_logged
        return is_logged

    def _is_full(self) -> bool:
        admission = self._service.admission
        return max(admission.n_requests, admission.n_under_way) >= admission.max_requests

    def held(self, data: bytes, refused_s: float, then: Callable[[bytes], None]) -> Held | None:
        """The request that ``data`` is, to come ``then``; None where it has to wait for nothing.

        ``refused_s``: when, by the loop's clock, the one before it by the same connection was refused.
        """
        admission = self._service.admission
        if not self._is_full() or admission.n_held >= _MOST_HELD or len(data) > _MOST_HELD_BYTES:
            return None
        if asyncio.get_running_loop().time() - refused_s >= RETRY_AFTER_S or not self._plain.head_of(data):
            return None
        return Held(data, admission, then)

    def of(self, data: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> bytes | None:
        """The refusal of the request that ``data`` is; None where it is to go the ordinary way.

        ``headers``: those that the server adds to every answer.
        """
        service = self._service
        admission = service.admission
        if not self._is_full() or service.keys is not None:
            return None
        if service.is_leaving or not service.is_started:
            return None
        started = time.perf_counter()
        if self._maximum != admission.max_requests:
            self._say(admission.max_requests)
        head = self._plain.head_of(data)
        if head is None:
            return None
        request_id = head.request_id()
        content = b'%s%s"}' % (self._json, request_id)
        service.metrics.rejected(self._problem)
        seconds = time.perf_counter() - started
        service.metrics.answered("POST", self._path, 429, seconds)
        if service.access is not None and self._is_to_log(int(started)):
            facts = Facts(request_id.decode(), "POST", self._path, problem=self._problem.code)
            service.access.answered(facts, 429, seconds)
        return b"%s%scontent-length: %d\r\nx-request-id: %s\r\n\r\n%s" % (
            self._head,
            b"".join([b"%s: %s\r\n" % header for header in headers]),
            len(content),
            request_id,
            content,
        )
