"""A whole request's bytes in, the answer's out, without the HTTP parser, a task or an application.

They cost as much as a sentence does. What is plainly one whole small request of the busiest endpoint
(service/plain.py) is answered here, by the steps of the endpoint (service/tag.py). Everything else goes
the ordinary way.

    data_received ─► taken() ─► begin(), next in the loop ─► the batcher's future ─► Connection.answer()
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from model.head import Tagged
from service.admission import Hold
from service.body import check_content_type
from service.edge import CLIENT_GONE, JsonResponse, bug
from service.models import ServedModel
from service.observing.facts import Facts, begin
from service.plain import Head, Plain
from service.problems import Problem
from service.schemas import TagRequest
from service.state import Service
from service.steps import INLINE_CHARS, Cut, for_each, items_of, said_as_problems
from service.tag import PATH, answer_bytes, asked_of, cuts_of, timeout_s


class Connection(Protocol):
    """What a request came by."""

    def answer(self, status_line: bytes, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        """The request under way has its answer."""


class Direct:
    """Of one service. Belongs to one event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._plain = Plain(PATH)
        settings = service.settings
        self._most_bytes = min(INLINE_CHARS, settings.max_body_bytes)
        if service.offload is not None:
            self._most_bytes = min(self._most_bytes, settings.offload_bytes)

    def taken(self, data: bytes, connection: Connection) -> DirectRequest | None:
        """The request that ``data`` is, under way; None where it is to go the ordinary way."""
        service = self._service
        if service.metrics.tracing is not None:
            return None
        head = self._plain.head_of(data)
        if head is None or head.n_body_bytes > self._most_bytes:
            return None
        request = DirectRequest(service, head, data, connection)
        # Not at once: what others sent may come in this turn of the loop, too, and is one batch then.
        asyncio.get_running_loop().call_soon(request.begin)
        return request


class DirectRequest:
    """One request under way."""

    __slots__ = (
        "_asked", "_connection", "_cuts", "_data", "_facts", "_future", "_head", "_hold", "_id", "_model",
        "_service", "_started",
    )  # fmt: skip

    _asked: TagRequest
    _cuts: list[Cut]
    _model: ServedModel

    def __init__(self, service: Service, head: Head, data: bytes, connection: Connection) -> None:
        self._service = service
        self._head = head
        self._data = data
        self._connection: Connection | None = connection
        self._started = time.perf_counter()
        self._id = head.request_id()
        self._facts = Facts(self._id.decode(), "POST", PATH)
        self._future: asyncio.Future[list[Tagged]] | None = None
        self._hold: Hold | None = None
        service.admission.n_under_way += 1

    def leave(self) -> None:
        """The client hung up."""
        self._connection = None
        if self._future is not None:
            self._future.cancel()

    def begin(self) -> None:
        if self._connection is None:
            self._end(CLIENT_GONE)
            return
        begin(self._facts)
        try:
            future = self._submitted()
        except Exception as error:
            self._fail(error)
            return
        self._future = future
        if future.done():
            self._computed(future)
        else:
            future.add_done_callback(self._computed)

    def _submitted(self) -> asyncio.Future[list[Tagged]]:
        service, headers = self._service, self._head.headers
        settings, admission = service.settings, service.admission
        if service.keys is not None:
            self._facts.key = service.keys.admitted(headers.items()).name
        service.check_accepting()
        check_content_type(headers)
        deadline = time.monotonic() + timeout_s(headers, settings)
        self._hold = admission.begin()
        self._hold.add_bytes(self._head.n_body_bytes)
        body, self._data = self._data[self._head.n_bytes :], b""
        self._asked, self._model = asked, model = asked_of(body, service)
        self._cuts = cuts_of(asked, model, settings)
        items = items_of(self._cuts, model, asked.threshold)
        with said_as_problems:
            return model.batcher.submit(items, deadline, self._facts, is_alone=admission.n_under_way == 1)

    def _computed(self, future: asyncio.Future[list[Tagged]]) -> None:
        if future.cancelled():
            self._end(CLIENT_GONE)
            return
        try:
            with said_as_problems:
                answers = future.result()
            tagged = for_each(self._cuts, iter(answers), self._model)
            content = answer_bytes(self._cuts, tagged, self._asked.offset_unit, self._model)
        except Exception as error:
            self._fail(error)
        else:
            self._answer(JsonResponse(content))

    def _fail(self, error: Exception) -> None:
        problem = error if isinstance(error, Problem) else bug(error)
        problem.fields.setdefault("request_id", self._facts.request_id)
        self._facts.problem = problem.code
        self._service.metrics.rejected(problem)
        self._answer(problem.response())

    def _answer(self, response: Response) -> None:
        connection, status = self._connection, response.status_code
        self._end(status if connection is not None else CLIENT_GONE)
        if connection is not None:
            headers = [*response.raw_headers, (b"x-request-id", self._id)]
            connection.answer(STATUS_LINE[status], headers, bytes(response.body))

    def _end(self, status: int) -> None:
        """Counted before the client has all of it: it may ask another worker. Logged after that."""
        seconds = time.perf_counter() - self._started
        self._service.metrics.answered("POST", PATH, status, seconds)
        if (access := self._service.access) is not None:
            asyncio.get_running_loop().call_soon(access.answered, self._facts, status, seconds)
        self._connection = None
        self._service.admission.n_under_way -= 1
        if self._hold is not None:
            self._service.admission.end(self._hold)
            self._hold = None
